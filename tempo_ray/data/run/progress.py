"""Outcomes as they arise -> metrics, and a human-readable line every few seconds."""

import contextlib
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import ray

from tempo_ray import metrics
from tempo_ray.cluster import on_this_node
from tempo_ray.data.failures import TRANSIENT_REASON, VideoOutcome
from tempo_ray.records import TransientFailure, VideoAnswers

ProgressActor = Any
"""A handle on the actor of a `Progress`; Ray's actor handles have no static type."""


@dataclass(frozen=True)
class Counts:
    kept: int = 0
    dropped: int = 0
    failed: int = 0
    selected: int = 0
    """Videos that selection has kept."""
    answered: int = 0
    """Those of them that are kept or failed since."""
    tokens: int = 0
    """Generated tokens."""
    media: float = 0.0
    """Media shown to an engine."""
    cached_media: float = 0.0
    """Those of them that the engine had in its cache."""

    @property
    def videos(self) -> int:
        return self.kept + self.dropped + self.failed

    def __add__(self, added: "Counts") -> "Counts":
        return Counts(
            self.kept + added.kept,
            self.dropped + added.dropped,
            self.failed + added.failed,
            self.selected + added.selected,
            self.answered + added.answered,
            self.tokens + added.tokens,
            self.media + added.media,
            self.cached_media + added.cached_media,
        )


@dataclass(frozen=True)
class EngineSpeed:
    """None where no engine was asked, or none was shown media."""

    tokens_per_second: float | None
    """From the first request to an engine to the last answer."""
    media_cache_hit_rate: float | None


class Progress:
    """Counts of the current run, of `total` videos, from all its actors. A video that is processed
    twice, because an actor died, counts twice here."""

    def __init__(self, total: int, run: str) -> None:
        self._total = total
        self._run = run
        self._counts = Counts()
        self._first_request: float | None = None
        self._last_answer = 0.0
        self.add(Counts())

    def add(self, counts: Counts) -> None:
        self._counts += counts
        left = self._total - self._counts.videos
        waiting = self._counts.selected - self._counts.answered
        metrics.VIDEOS_LEFT.set(max(0, left), run=self._run)
        metrics.VIDEOS_WAITING.set(max(0, waiting), run=self._run)

    def engine_ready(self) -> None:
        """An engine has started. Counted here: this actor outlives the engines."""
        metrics.ENGINE_STARTS.add(1, run=self._run)

    def engine_active(self) -> None:
        """An engine is about to be asked, or has just answered."""
        self._last_answer = time.monotonic()
        if self._first_request is None:
            self._first_request = self._last_answer

    def counts(self) -> Counts:
        return self._counts

    def speed(self) -> EngineSpeed:
        counts = self._counts
        seconds = 0.0 if self._first_request is None else self._last_answer - self._first_request
        return EngineSpeed(
            round(counts.tokens / seconds, 1) if seconds else None,
            round(counts.cached_media / counts.media, 3) if counts.media else None,
        )


def _status_and_reason(outcome: VideoOutcome) -> tuple[str, str]:
    """The reason without the figures that follow it in parentheses."""
    if isinstance(outcome, TransientFailure):
        return "failed", TRANSIENT_REASON
    return str(outcome.status), (outcome.reason or "").split(" (")[0]


def _seconds(outcome: VideoOutcome) -> float:
    """Duration of a video that was decoded."""
    if isinstance(outcome, TransientFailure) or not outcome.frames or not outcome.fps:
        return 0.0
    return outcome.frames / outcome.fps


def _is_kept(outcome: VideoOutcome) -> bool:
    return isinstance(outcome, VideoAnswers) and outcome.status == "kept"


def _generated_tokens(outcome: VideoOutcome) -> int:
    if isinstance(outcome, TransientFailure):
        return 0
    tokens = sum(answer.completion_tokens for answer in outcome.answers)
    return tokens + sum(clip.caption_tokens or 0 for clip in outcome.clips)


class Meter:
    """The outcomes of one actor -> metrics, and `Progress`."""

    def __init__(self, progress: ProgressActor, model: str) -> None:
        self._progress = progress
        self._model = model
        self._asked = False
        self._media = self._cached_media = 0.0
        self._lock = threading.Lock()

    def selected(self, outcomes: Sequence[VideoOutcome]) -> None:
        """Outcomes of selection; kept videos count once they are answered."""
        kept = sum(map(_is_kept, outcomes))
        decided_here = [outcome for outcome in outcomes if not _is_kept(outcome)]
        metrics.VIDEO_SECONDS.add(sum(map(_seconds, outcomes)), operator="select")
        self._count("select", decided_here, Counts(selected=kept))

    def asking(self, rows: Sequence[VideoAnswers]) -> None:
        """Rows that are about to be answered."""
        if not self._asked and any(_is_kept(row) for row in rows):
            self._asked = True
            self._progress.engine_active.remote()

    def answered(
        self, outcomes: Sequence[VideoOutcome], engine_counters: Mapping[str, float]
    ) -> None:
        """Outcomes of answering, with those that selection decided among them; vLLM's counters by
        name."""
        decided_here = [
            outcome for outcome in outcomes if _is_kept(outcome) or outcome.failed_at == "respond"
        ]
        if decided_here:
            self._progress.engine_active.remote()
        metrics.VIDEO_SECONDS.add(sum(map(_seconds, decided_here)), operator="respond")
        answered = [outcome for outcome in decided_here if isinstance(outcome, VideoAnswers)]
        captions = sum(clip.caption is not None for row in answered for clip in row.clips)
        answers = sum(len(row.answers) for row in answered)
        metrics.TEXTS.add(captions, model=self._model, kind="caption")
        metrics.TEXTS.add(answers, model=self._model, kind="answer")
        tokens = sum(map(_generated_tokens, decided_here))
        grown = self._since_last_call(tokens, engine_counters)
        self._count("respond", decided_here, grown + Counts(answered=len(decided_here)))

    def _since_last_call(self, tokens: int, engine_counters: Mapping[str, float]) -> Counts:
        """The tokens, and the growth of the engine's two counters of media."""
        media = engine_counters.get("mm_cache_queries", 0.0)
        cached = engine_counters.get("mm_cache_hits", 0.0)
        with self._lock:
            grown = Counts(
                tokens=tokens, media=media - self._media, cached_media=cached - self._cached_media
            )
            self._media, self._cached_media = media, cached
        return grown

    def _count(self, operator: str, outcomes: Sequence[VideoOutcome], others: Counts) -> None:
        """Outcomes that this operator has decided, with the other counts that go with them."""
        decided = Counter(map(_status_and_reason, outcomes))
        for (status, reason), number in decided.items():
            metrics.VIDEOS.add(number, operator=operator, outcome=status, reason=reason)
        statuses = Counter(_status_and_reason(outcome)[0] for outcome in outcomes)
        ended = Counts(statuses["kept"], statuses["dropped"], statuses["failed"])
        self._progress.add.remote(ended + others)


def progress_line(
    counts: Counts, before: Counts, interval_s: float, total: int, elapsed_s: float
) -> str:
    """Finished videos of `total` by outcome, speeds over the last `interval_s`, and the time left
    at the speed of the whole run."""
    outcomes = f"kept {counts.kept}, dropped {counts.dropped}, failed {counts.failed}"
    videos_per_second = (counts.videos - before.videos) / interval_s
    tokens_per_second = (counts.tokens - before.tokens) / interval_s
    left = "?"
    if counts.videos:
        left = _duration((total - counts.videos) * elapsed_s / counts.videos)
    return (
        f"{counts.videos}/{total} videos ({outcomes})  {videos_per_second:.1f} videos/s  "
        f"{tokens_per_second:.0f} tokens/s  {left} left"
    )


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(max(0.0, seconds)), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d} h" if hours else f"{minutes}:{rest:02d}"


@contextlib.contextmanager
def reported(
    total: int, run: str, log: Callable[[str], None], interval_s: float = 10.0
) -> Iterator[ProgressActor]:
    """Yields the `Progress` actor that the meters of `run` report to, and logs a line of it every
    few seconds."""
    actor_class = ray.remote(num_cpus=0, max_restarts=-1, max_task_retries=-1)(Progress)
    progress: ProgressActor = actor_class.options(scheduling_strategy=on_this_node()).remote(
        total, run
    )
    ended = threading.Event()
    began = time.monotonic()

    def log_lines() -> None:
        before = Counts()
        while not ended.wait(interval_s):
            try:
                counts: Counts = ray.get(progress.counts.remote(), timeout=5)
            except (ray.exceptions.RayError, TimeoutError):
                continue  # busy or restarting; the next interval may get an answer
            if counts != before:
                elapsed = time.monotonic() - began
                log("  " + progress_line(counts, before, interval_s, total, elapsed))
                before = counts

    reporter = threading.Thread(target=log_lines, name="progress", daemon=True)
    reporter.start()
    try:
        yield progress
    finally:
        ended.set()
        reporter.join(10)
        ray.kill(progress)


def engine_speed(progress: ProgressActor) -> EngineSpeed:
    speed: EngineSpeed = ray.get(progress.speed.remote())
    return speed
