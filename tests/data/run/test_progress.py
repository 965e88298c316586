"""Counts of a run, and the line that reports them. The actor and its reports over Ray are in
tests/integration/test_generate_pairs.py."""

import time
from typing import Any

import pytest

from tempo_ray.data.run.progress import Counts, EngineSpeed, Meter, Progress, progress_line
from tempo_ray.records import TransientFailure
from tests.data.rows import answer, kept_video
from tests.recorded import Recorded


class LocalActor:
    """A `Progress` in this process, called as Ray's handle is."""

    def __init__(self, total: int = 10) -> None:
        self.progress = Progress(total, "runs/a")

    def __getattr__(self, name: str) -> Any:
        method = getattr(self.progress, name)
        return type("Method", (), {"remote": staticmethod(method)})


def test_every_video_counts_once_however_it_ends(recorded: list[Recorded]) -> None:
    actor = LocalActor(total=10)
    meter = Meter(actor, "model")
    kept = kept_video(answer("clean", "a b c"), frames=50, fps=25.0)
    dropped = kept_video(video_id="b", status="dropped", reason="too few shots (3 < 4)")
    transient = TransientFailure("c", "c.mp4", "open", "m")
    refused = kept_video(
        video_id="d", status="failed", reason="refused by the engine", failed_at="respond"
    )
    meter.selected([kept, dropped, transient, kept, kept, kept])
    meter.asking([kept, dropped])
    meter.answered([kept, dropped, refused], {"mm_cache_queries": 10.0, "mm_cache_hits": 4.0})
    meter.answered([kept], {"mm_cache_queries": 30.0, "mm_cache_hits": 19.0})
    counts = actor.progress.counts()
    tokens = 3 * (4 * 5) + 2 * 3  # four captions of 5 tokens each, and an answer of 3
    assert counts == Counts(
        2, 1, 2, selected=4, answered=3, tokens=tokens, media=30.0, cached_media=19.0
    )
    select, respond = {"operator": "select"}, {"operator": "respond"}
    assert [(value, tags) for name, value, tags in recorded if name == "tempo_videos"] == [
        (1, select | {"outcome": "dropped", "reason": "too few shots"}),
        (1, select | {"outcome": "failed", "reason": "cannot be read now"}),
        (1, respond | {"outcome": "kept", "reason": ""}),
        (1, respond | {"outcome": "failed", "reason": "refused by the engine"}),
        (1, respond | {"outcome": "kept", "reason": ""}),
    ]
    seconds = [(value, tags) for name, value, tags in recorded if name == "tempo_video_seconds"]
    assert seconds == [(12.0, select), (6.0, respond), (2.0, respond)]
    model = {"model": "model"}
    assert [(value, tags) for name, value, tags in recorded if name == "tempo_texts"] == [
        (8, model | {"kind": "caption"}),
        (1, model | {"kind": "answer"}),
        (4, model | {"kind": "caption"}),
        (1, model | {"kind": "answer"}),
    ]
    left = [value for name, value, _ in recorded if name == "tempo_videos_left"]
    waiting = [value for name, value, _ in recorded if name == "tempo_videos_waiting"]
    assert left == [10, 8, 6, 5]
    assert waiting == [0, 4, 2, 1]


def test_speed_is_from_the_first_request_to_the_last_answer(
    monkeypatch: pytest.MonkeyPatch, recorded: list[Recorded]
) -> None:
    progress = Progress(10, "runs/a")
    assert progress.speed() == EngineSpeed(None, None)
    for now in (100.0, 104.0, 110.0):
        monkeypatch.setattr(time, "monotonic", lambda now=now: now)
        progress.engine_active()
    progress.add(Counts(tokens=50, media=3.0, cached_media=2.0))
    assert progress.speed() == EngineSpeed(5.0, 0.667)


def test_the_line_has_outcomes_speeds_and_time_left() -> None:
    counts, before = Counts(kept=6, dropped=3, failed=1, tokens=5000), Counts(kept=5, tokens=1000)
    assert progress_line(counts, before, 10.0, total=100, elapsed_s=20.0) == (
        "10/100 videos (kept 6, dropped 3, failed 1)  0.5 videos/s  400 tokens/s  3:00 left"
    )
    line = progress_line(Counts(), Counts(), 10.0, total=100, elapsed_s=20.0)
    assert line.endswith("? left")
    hours = progress_line(Counts(kept=1), Counts(), 10.0, total=101, elapsed_s=75.0)
    assert hours.endswith("2:05 h left")
