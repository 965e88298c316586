"""Verdicts with their reasons, and richness."""

import pytest

from tempo_ray.config import VerdictConfig
from tempo_ray.data.verdict import judge_clips, judge_shots, richness
from tempo_ray.records import Clip, Shot

CONFIG = VerdictConfig()


def shots(*seconds: float) -> list[Shot]:
    """At 10 frames per second."""
    return [Shot(0, int(length * 10)) for length in seconds]


def clips(*scenes: int, frames: int = 10) -> list[Clip]:
    return [Clip(index * frames, (index + 1) * frames, scene) for index, scene in enumerate(scenes)]


@pytest.mark.parametrize(
    ("found", "reason"),
    [
        (shots(1, 1, 1), "too few shots (3 < 4)"),
        (shots(*[1] * 33), "too many shots (33 > 32)"),
        (shots(1, 1, 1, 16.1), "shot too long (16.1 s > 16 s)"),
        (shots(1, 1, 1, 16), None),
    ],
)
def test_shots(found: list[Shot], reason: str | None) -> None:
    assert judge_shots(found, 10.0, CONFIG) == reason


@pytest.mark.parametrize(
    ("found", "reason"),
    [
        (clips(0, 1, 2), "too few clips (3 < 4)"),
        (clips(0, 1, 2, 3), None),
        (clips(0, 1, 0, 2), "a scene recurs too often (2 > 1 of 4 clips)"),
        (clips(0, 1, 0, 2, 3, 4), None),
        (clips(0, 1, 0, 2, 0, 3, 4, 5, 6, 7, 0, 8), "a scene recurs too often (4 > 3 of 12 clips)"),
    ],
)
def test_clips(found: list[Clip], reason: str | None) -> None:
    assert judge_clips(found, 9.0, CONFIG) == reason


def test_minimum_richness() -> None:
    config = VerdictConfig(min_richness=1.5)
    reason = "not rich enough in time (1.25 < 1.5 bits)"
    assert judge_clips(clips(0, 1, 2, 3), 2.0, config) is None
    assert judge_clips(clips(0, 1, 2, 3), 1.25, config) == reason


def test_richness_is_the_entropy_of_time() -> None:
    assert richness(clips(0, 0)) == 0
    assert richness(clips(0, 1, 2, 3)) == pytest.approx(2)
    assert richness(clips(0, 1, 0, 1)) == pytest.approx(1)
    assert richness([]) == 0
