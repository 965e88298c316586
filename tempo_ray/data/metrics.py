"""Rows of schema.ANSWERS as they are made -> Ray metrics, and one line a person can read every few seconds."""

import contextlib
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import ray
from ray.util import metrics

Row = dict[str, Any]


@ray.remote(num_cpus=0, max_restarts=-1, max_task_retries=-1)
class Progress:
    """Counts of this run, from all its actors. A row that was made twice, since an actor died, counts twice here."""

    def __init__(self) -> None:
        self._counts: Counter[str] = Counter()
        self._first_asked: float | None = None
        self._last_answered = 0.0

    def add(self, counts: Mapping[str, float]) -> None:
        self._counts.update(counts)
        if "tokens" in counts:
            self._last_answered = time.monotonic()
            self._first_asked = self._first_asked or self._last_answered

    def counts(self) -> dict[str, float]:
        return dict(self._counts)

    def speeds(self) -> dict[str, float | None]:
        """Generated tokens per second, from the first question that an engine was asked to the last answer; and the share of
        the media shown to an engine that it knew already. None where there was none.
        """
        spent = 0.0 if self._first_asked is None else self._last_answered - self._first_asked
        media = self._counts["media"]
        return {
            "tokens_per_second": round(self._counts["tokens"] / spent, 1) if spent else None,
            "media_cache_hit_rate": round(self._counts["media_known"] / media, 3)
            if media
            else None,
        }


class Meter:
    """One actor's rows, as Ray metrics with outcome and reason as tags, and as counts for `Progress`."""

    def __init__(self, progress: Any) -> None:
        self._progress = progress
        self._asked = False
        self._media_before: dict[str, float] = {}
        self._lock = threading.Lock()
        self._videos = metrics.Counter(
            "tempo_videos", "Videos by what became of them", tag_keys=("step", "outcome", "reason")
        )
        self._tokens = metrics.Counter(
            "tempo_generated_tokens", "Tokens of captions and answers", tag_keys=("model",)
        )
        self._media = metrics.Gauge(
            "tempo_media_cache_hit_rate", "Share of media that the engine knew already"
        )

    def selected(self, rows: list[Row]) -> None:
        """Rows after selection; kept ones are not at their end yet."""
        self._count("select", [row for row in rows if row["status"] != "kept"])

    def asks(self, rows: list[Row]) -> None:
        """Rows that are about to be answered."""
        if not self._asked and any(row["status"] == "kept" for row in rows):
            self._asked = True
            self._progress.add.remote({"tokens": 0})

    def answered(self, rows: list[Row], engine: Mapping[str, float]) -> None:
        """Rows after the answers, those that were dropped before among them; `engine` holds vLLM's counters."""
        done = [row for row in rows if row["status"] == "kept" or row["failed_at"] == "respond"]
        self._count("respond", done)
        tokens = sum(answer["completion_tokens"] for row in done for answer in row["answers"])
        tokens += sum(clip["caption_tokens"] or 0 for row in done for clip in row["clips"])
        if done:
            if tokens:
                self._tokens.inc(tokens, {"model": str(done[0]["model"])})
            self._progress.add.remote({"tokens": tokens} | self._looked_up(engine))
        if engine.get("mm_cache_queries"):
            self._media.set(engine["mm_cache_hits"] / engine["mm_cache_queries"])

    def _looked_up(self, engine: Mapping[str, float]) -> dict[str, float]:
        """Media shown to this actor's engine since the last call, and those of them that it knew."""
        now = {
            "media": engine.get("mm_cache_queries", 0.0),
            "media_known": engine.get("mm_cache_hits", 0.0),
        }
        with self._lock:
            since = {name: count - self._media_before.get(name, 0.0) for name, count in now.items()}
            self._media_before = now
        return since

    def _count(self, step: str, rows: list[Row]) -> None:
        outcomes = Counter((row["status"], (row["reason"] or "").split(" (")[0]) for row in rows)
        for (status, reason), number in outcomes.items():
            self._videos.inc(number, {"step": step, "outcome": status, "reason": reason})
        self._progress.add.remote(Counter(row["status"] for row in rows))


def line(
    now: Mapping[str, float],
    before: Mapping[str, float],
    seconds: float,
    total: int,
    elapsed: float,
) -> str:
    """Videos done of `total`, outcomes, and speeds over the last `seconds`; time left at the speed of the whole run."""
    done, earlier = (
        sum(counts.get(name, 0) for name in ("kept", "dropped", "failed"))
        for counts in (now, before)
    )
    outcomes = ", ".join(f"{name} {now.get(name, 0):.0f}" for name in ("kept", "dropped", "failed"))
    tokens = (now.get("tokens", 0) - before.get("tokens", 0)) / seconds
    left = "?" if not done else _span((total - done) * elapsed / done)
    return f"{done:.0f}/{total} videos ({outcomes})  {(done - earlier) / seconds:.1f} videos/s  {tokens:.0f} tokens/s  {left} left"


def _span(seconds: float) -> str:
    minutes, rest = divmod(round(max(0.0, seconds)), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d} h" if hours else f"{minutes}:{rest:02d}"


@contextlib.contextmanager
def reported(total: int, report: Callable[[str], None], every_s: float = 10.0) -> Iterator[Any]:
    """Yields the `Progress` actor that the run's meters report to, and reports a line of it every few seconds."""
    progress = Progress.remote()  # type: ignore[attr-defined]
    ended = threading.Event()
    began = time.monotonic()

    def watch() -> None:
        before: dict[str, float] = {}
        while not ended.wait(every_s):
            try:
                now = ray.get(progress.counts.remote(), timeout=5)
            except (ray.exceptions.RayError, TimeoutError):
                continue  # the next look will tell
            if now != before:
                report("  " + line(now, before, every_s, total, time.monotonic() - began))
                before = now

    watcher = threading.Thread(target=watch, name="progress", daemon=True)
    watcher.start()
    try:
        yield progress
    finally:
        ended.set()
        watcher.join(10)
        ray.kill(progress)
