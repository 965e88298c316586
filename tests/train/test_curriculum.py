from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tempo_ray.config import CurriculumConfig
from tempo_ray.train.curriculum import (
    Group,
    Pair,
    hold_out,
    make_stage,
    make_stages,
    parted,
    plan_steps,
    table,
)


def pair(
    rejected: str,
    *,
    video: str = "a",
    prompt: str = "p",
    strength: int = 16,
    distance: float | None = 0.5,
    kept: float | None = 1.0,
    text: float | None = None,
) -> Pair:
    return Pair(video, prompt, "chosen", rejected, strength, distance, kept, text)


def names(pairs: list[Pair], **settings: object) -> list[tuple[str, list[str]]]:
    return [
        (name, [one.rejected for one in part])
        for name, part in parted(pairs, CurriculumConfig(**settings))
    ]


def test_stages_by_strength() -> None:
    pairs = [pair("w", strength=4), pair("x"), pair("y", strength=2), pair("z", strength=8)]
    assert names(pairs, strengths=(2, 16, 4)) == [
        ("align-16", ["x"]),
        ("align-4", ["w"]),
        ("align-2", ["y"]),
    ]
    assert names(pairs, strengths=(2, 16), order="hard_to_easy") == [
        ("align-2", ["y"]),
        ("align-16", ["x"]),
    ]
    assert names(pairs, order="mixed") == [("align-mixed", ["x", "z", "w", "y"])]


def test_stages_by_measured_difficulty() -> None:
    lost = {
        "a": (1.0, 1.0),
        "b": (0.0, 0.25),
        "c": (0.1, 0.5),
        "d": (0.2, 1.0),
        "e": (0.1, 1.0),
        "f": (0.0, 0.9),
    }
    pairs = [pair(name, distance=distance, kept=kept) for name, (distance, kept) in lost.items()]
    assert [round(one.order_lost or 0, 3) for one in pairs] == [1, 0.75, 0.55, 0.2, 0.1, 0.1]
    assert names([*pairs, pair("?", distance=None)], by="order", quantiles=3) == [
        ("align-q1", ["a", "b"]),
        ("align-q2", ["c", "d"]),
        ("align-q3", ["e", "f"]),
    ]
    assert names(pairs, by="order", quantiles=2, order="hard_to_easy")[0] == (
        "align-q2",
        ["d", "e", "f"],
    )
    texts = [pair(name, text=far) for name, far in (("a", 0.1), ("b", 0.9), ("c", None))]
    assert names(texts, by="text", quantiles=2) == [("align-q1", ["b"]), ("align-q2", ["a"])]


@given(
    far=st.lists(st.sampled_from([0.0, 0.1, 0.3, 0.5, 1.0]), min_size=1, max_size=40),
    quantiles=st.integers(1, 6),
)
def test_quantiles_part_all_pairs_and_keep_equals_together(
    far: list[float], quantiles: int
) -> None:
    pairs = [pair(str(number), distance=one) for number, one in enumerate(far)]
    parts = parted(pairs, CurriculumConfig(by="order", quantiles=quantiles))
    assert sorted(one.rejected for _, part in parts for one in part) == sorted(
        one.rejected for one in pairs
    )
    ranges = [[one.order_lost or 0.0 for one in part] for _, part in parts if part]
    assert all(min(easier) > max(harder) for easier, harder in pairwise(ranges))


def test_replay_brings_back_what_came_before() -> None:
    pairs = [
        pair(f"{strength}-{number}", strength=strength)
        for strength in (16, 8, 4)
        for number in range(10)
    ]
    stages = make_stages(pairs, CurriculumConfig(strengths=(16, 8, 4), replay=0.3), seed=0)
    assert [(stage.pairs, stage.replayed) for stage in stages] == [(10, 0), (13, 3), (13, 3)]
    assert stages == make_stages(pairs, CurriculumConfig(strengths=(16, 8, 4), replay=0.3), seed=0)
    assert stages != make_stages(pairs, CurriculumConfig(strengths=(16, 8, 4), replay=0.3), seed=1)
    assert "replayed" in table(stages)


def test_what_is_held_out_are_whole_videos() -> None:
    groups = [Group(f"{number // 2}", (None, "p"), str(number), ("x",)) for number in range(40)]
    trained, watched = hold_out(groups, 0.1, seed=0)
    assert (len(trained), len(watched)) == (36, 4)
    assert not {group.uri for group in trained} & {group.uri for group in watched}
    assert hold_out(groups, 0.1, seed=0) == (trained, watched)
    with pytest.raises(ValueError, match="too few"):
        hold_out(groups[:2], 0.1, seed=0)


def test_a_group_is_one_video_with_all_its_prompts() -> None:
    stage = make_stage(
        "align-16", [pair("x"), pair("z", prompt="q"), pair("x", video="b"), pair("y")]
    )
    prompts = [
        [(one.uri, one.parts, one.rejected) for one in group.prompts] for group in stage.groups
    ]
    assert prompts == [
        [("a", (None, "p"), ("x", "y")), ("a", (None, "q"), ("z",))],
        [("b", (None, "p"), ("x",))],
    ]
    assert [(group.pairs, group.size) for group in stage.groups] == [(3, 3), (1, 1)]
    assert (stage.pairs, stage.videos, stage.difficulty) == (4, 2, 0.5)


def test_useless_pairs_are_counted_and_left_out() -> None:
    stage = make_stage("align-16", [pair("x"), pair("x"), pair("chosen"), pair("y", distance=None)])
    assert (stage.pairs, stage.duplicated, stage.identical, stage.difficulty) == (2, 1, 1, 0.5)
    assert "align-16" in table([stage])


def test_a_stage_without_pairs_has_no_groups() -> None:
    stage = make_stages([pair("x")], CurriculumConfig(strengths=(2,)), 0)[0]
    assert stage.groups == ()
    assert "align-2" in table([stage])


@given(
    sizes=st.lists(st.integers(1, 6), max_size=60),
    batch=st.integers(1, 16),
    workers=st.integers(1, 5),
    epochs=st.integers(1, 3),
    seed=st.integers(0, 5),
)
def test_every_group_once_an_epoch_and_no_batch_too_large(
    sizes: list[int], batch: int, workers: int, epochs: int, seed: int
) -> None:
    steps = plan_steps(sizes, batch, workers, epochs, seed)
    assert steps == plan_steps(sizes, batch, workers, epochs, seed)
    seen = [index for step in steps for hand in step for index in hand]
    assert sorted(seen) == sorted(list(range(len(sizes))) * epochs)
    assert sorted(seen[: len(sizes)]) == list(range(len(sizes)))
    for step in steps:
        loads = [sum(sizes[index] for index in hand) for hand in step]
        assert len(step) == workers
        assert sum(loads) <= batch or sum(len(hand) for hand in step) == 1
        assert max(loads) - min(loads) <= max(sizes)


def test_epochs_and_seeds_differ_in_order() -> None:
    steps = plan_steps([1] * 32, 4, 1, 2, 0)
    assert steps[:8] != steps[8:]
    assert steps[:8] != plan_steps([1] * 32, 4, 1, 1, 1)
