"""Verdicts with their reasons, and richness."""

import pytest

from tempo_ray.config import VerdictConfig
from tempo_ray.data.verdict import judge_clips, judge_cuts, richness

CONFIG = VerdictConfig()


def cuts(*seconds: float) -> list[dict]:
    return [{"start": 0, "end": int(one * 10)} for one in seconds]


def clips(*groups: int, frames: int = 10) -> list[dict]:
    return [
        {"start": index * frames, "end": (index + 1) * frames, "group": group}
        for index, group in enumerate(groups)
    ]


@pytest.mark.parametrize(
    ("given", "reason"),
    [
        (cuts(1, 1, 1), "too few cuts (3 < 4)"),
        (cuts(*[1] * 33), "too many cuts (33 > 32)"),
        (cuts(1, 1, 1, 16.1), "cut too long (16.1 s > 16 s)"),
        (cuts(1, 1, 1, 16), None),
    ],
)
def test_cuts(given: list[dict], reason: str | None) -> None:
    assert judge_cuts(given, 10.0, CONFIG) == reason


@pytest.mark.parametrize(
    ("given", "reason"),
    [
        (clips(0, 1, 2), "too few clips (3 < 4)"),
        (clips(0, 1, 2, 3), None),
        (clips(0, 1, 0, 2), "a scene recurs too often (2 > 1 of 4 clips)"),
        (clips(0, 1, 0, 2, 3, 4), None),
        (clips(0, 1, 0, 2, 0, 3, 4, 5, 6, 7, 0, 8), "a scene recurs too often (4 > 3 of 12 clips)"),
    ],
)
def test_clips(given: list[dict], reason: str | None) -> None:
    assert judge_clips(given, 9.0, CONFIG) == reason


def test_least_richness() -> None:
    config = VerdictConfig(min_richness=1.5)
    assert judge_clips(clips(0, 1, 2, 3), 2.0, config) is None
    assert (
        judge_clips(clips(0, 1, 2, 3), 1.25, config) == "not rich enough in time (1.25 < 1.5 bits)"
    )


def test_richness_is_the_entropy_of_time() -> None:
    assert richness(clips(0, 0)) == 0
    assert richness(clips(0, 1, 2, 3)) == pytest.approx(2)
    assert richness(clips(0, 1, 0, 1)) == pytest.approx(1)
    assert richness([]) == 0
