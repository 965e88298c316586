"""Counts of a run, and the line that reports them. The actor and its reports over Ray are in
tests/integration/test_generate_pairs.py."""

import time
from typing import Any

import pytest

from tempo_ray.data.run.progress import Counts, EngineSpeed, Meter, Progress, progress_line
from tempo_ray.records import TransientFailure
from tests.data.rows import answer, kept_video


class LocalActor:
    """A `Progress` in this process, called as Ray's handle is."""

    def __init__(self) -> None:
        self.progress = Progress()

    def __getattr__(self, name: str) -> Any:
        method = getattr(self.progress, name)
        return type("Method", (), {"remote": staticmethod(method)})


class Metric:
    """Stands in for a Ray metric, which needs a cluster."""

    recorded: list[tuple[str, float, dict[str, str] | None]]

    def __init__(self, name: str, description: str, tag_keys: tuple[str, ...] = ()) -> None:
        self._name = name
        self._tag_keys = tag_keys

    def record(self, value: float, tags: dict[str, str] | None = None) -> None:
        assert tuple(tags or ()) == self._tag_keys
        Metric.recorded.append((self._name, value, tags))

    inc = set = record


@pytest.fixture
def recorded(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, float, dict[str, str] | None]]:
    monkeypatch.setattr(Metric, "recorded", [], raising=False)
    monkeypatch.setattr("tempo_ray.data.run.progress.metrics.Counter", Metric)
    monkeypatch.setattr("tempo_ray.data.run.progress.metrics.Gauge", Metric)
    return Metric.recorded


def test_every_video_counts_once_however_it_ends(recorded: list[Any]) -> None:
    actor = LocalActor()
    meter = Meter(actor, "model")
    kept = kept_video(answer("clean", "a b c"))
    dropped = kept_video(video_id="b", status="dropped", reason="too few shots (3 < 4)")
    transient = TransientFailure("c", "c.mp4", "open", "m")
    refused = kept_video(
        video_id="d", status="failed", reason="refused by the engine", failed_at="respond"
    )
    meter.selected([kept, dropped, transient])
    meter.asking([kept, dropped])
    meter.answered([kept, dropped, refused], {"mm_cache_queries": 10.0, "mm_cache_hits": 4.0})
    meter.answered([kept], {"mm_cache_queries": 30.0, "mm_cache_hits": 19.0})
    counts = actor.progress.counts()
    tokens = 3 * (4 * 5) + 2 * 3  # four captions of 5 tokens each, and an answer of 3
    assert counts == Counts(2, 1, 2, tokens, media=30.0, cached_media=19.0)
    videos = [(value, tags) for name, value, tags in recorded if name == "tempo_videos"]
    select, respond = {"operator": "select"}, {"operator": "respond"}
    assert videos == [
        (1, select | {"outcome": "dropped", "reason": "too few shots"}),
        (1, select | {"outcome": "failed", "reason": "cannot be read now"}),
        (1, respond | {"outcome": "kept", "reason": ""}),
        (1, respond | {"outcome": "failed", "reason": "refused by the engine"}),
        (1, respond | {"outcome": "kept", "reason": ""}),
    ]
    assert ("tempo_generated_tokens", 43, {"model": "model"}) in recorded
    hit_rates = [value for name, value, _ in recorded if name == "tempo_media_cache_hit_rate"]
    assert hit_rates == [0.4, 19 / 30]


def test_speed_is_from_the_first_request_to_the_last_answer(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    progress = Progress()
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
