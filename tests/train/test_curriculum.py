"""Stages of examples, and each rank's examples of every step."""

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tempo_ray.config import CurriculumConfig
from tempo_ray.train.curriculum import (
    assign_examples,
    curriculum_table,
    divide_pairs,
    hold_out,
    make_stage,
    make_stages,
)
from tempo_ray.train.examples import PromptPairs, VideoPairs
from tempo_ray.train.pairs import TrainingPair


def pair(
    rejected: str,
    *,
    video: str = "a",
    prompt: str = "p",
    strength: int = 16,
    order_distance: float | None = 0.5,
    kept_share: float | None = 1.0,
    text_distance: float | None = None,
) -> TrainingPair:
    return TrainingPair(
        video, prompt, "chosen", rejected, strength, order_distance, kept_share, text_distance
    )


def rejected_by_stage(pairs: list[TrainingPair], **settings: object) -> list[tuple[str, list[str]]]:
    parts = divide_pairs(pairs, CurriculumConfig(**settings))
    return [(name, [pair.rejected for pair in part]) for name, part in parts]


def test_stages_by_strength() -> None:
    pairs = [pair("w", strength=4), pair("x"), pair("y", strength=2), pair("z", strength=8)]
    assert rejected_by_stage(pairs, strengths=(2, 16, 4)) == [
        ("align-16", ["x"]),
        ("align-4", ["w"]),
        ("align-2", ["y"]),
    ]
    assert rejected_by_stage(pairs, strengths=(2, 16), schedule="hard_to_easy") == [
        ("align-2", ["y"]),
        ("align-16", ["x"]),
    ]
    assert rejected_by_stage(pairs, schedule="mixed") == [("align-mixed", ["x", "z", "w", "y"])]


def test_stages_by_measured_difficulty() -> None:
    measures = {
        "a": (1.0, 1.0),
        "b": (0.0, 0.25),
        "c": (0.1, 0.5),
        "d": (0.2, 1.0),
        "e": (0.1, 1.0),
        "f": (0.0, 0.9),
    }
    pairs = [
        pair(name, order_distance=distance, kept_share=kept)
        for name, (distance, kept) in measures.items()
    ]
    lost = [round(pair.order_lost or 0, 3) for pair in pairs]
    assert lost == [1, 0.75, 0.55, 0.2, 0.1, 0.1]
    unmeasured = pair("?", order_distance=None)
    assert rejected_by_stage([*pairs, unmeasured], difficulty="order", quantiles=3) == [
        ("align-q1", ["a", "b"]),
        ("align-q2", ["c", "d"]),
        ("align-q3", ["e", "f"]),
    ]
    assert rejected_by_stage(pairs, difficulty="order", quantiles=2, schedule="hard_to_easy")[
        0
    ] == ("align-q2", ["d", "e", "f"])
    distances = (("a", 0.1), ("b", 0.9), ("c", None))
    texts = [pair(name, text_distance=distance) for name, distance in distances]
    assert rejected_by_stage(texts, difficulty="text", quantiles=2) == [
        ("align-q1", ["b"]),
        ("align-q2", ["a"]),
    ]


@given(
    distances=st.lists(st.sampled_from([0.0, 0.1, 0.3, 0.5, 1.0]), min_size=1, max_size=40),
    quantiles=st.integers(1, 6),
)
def test_quantiles_divide_all_pairs_and_keep_equal_ones_together(
    distances: list[float], quantiles: int
) -> None:
    pairs = [
        pair(str(number), order_distance=distance) for number, distance in enumerate(distances)
    ]
    parts = divide_pairs(pairs, CurriculumConfig(difficulty="order", quantiles=quantiles))
    divided = [pair.rejected for _, part in parts for pair in part]
    assert sorted(divided) == sorted(pair.rejected for pair in pairs)
    ranges = [[pair.order_lost or 0.0 for pair in part] for _, part in parts if part]
    assert all(min(easier) > max(harder) for easier, harder in pairwise(ranges))


def test_replay_brings_back_pairs_of_earlier_stages() -> None:
    pairs = [
        pair(f"{strength}-{number}", strength=strength)
        for strength in (16, 8, 4)
        for number in range(10)
    ]
    config = CurriculumConfig(strengths=(16, 8, 4), replay=0.3)
    stages = make_stages(pairs, config, seed=0)
    assert [(stage.pairs, stage.replayed) for stage in stages] == [(10, 0), (13, 3), (13, 3)]
    assert stages == make_stages(pairs, config, seed=0)
    assert stages != make_stages(pairs, config, seed=1)
    assert "replayed" in curriculum_table(stages)


def test_whole_videos_are_held_out() -> None:
    examples = [
        VideoPairs(f"{number // 2}", (PromptPairs("p", str(number), ("x",)),))
        for number in range(40)
    ]
    trained, held_out = hold_out(examples, 0.1, seed=0)
    assert (len(trained), len(held_out)) == (36, 4)
    assert not {example.uri for example in trained} & {example.uri for example in held_out}
    assert hold_out(examples, 0.1, seed=0) == (trained, held_out)
    with pytest.raises(ValueError, match="too few"):
        hold_out(examples[:2], 0.1, seed=0)


def test_an_example_is_one_video_with_all_its_prompts() -> None:
    stage = make_stage(
        "align-16", [pair("x"), pair("z", prompt="q"), pair("x", video="b"), pair("y")]
    )
    assert stage.examples == (
        VideoPairs(
            "a", (PromptPairs("p", "chosen", ("x", "y")), PromptPairs("q", "chosen", ("z",)))
        ),
        VideoPairs("b", (PromptPairs("p", "chosen", ("x",)),)),
    )
    assert [example.pairs for example in stage.examples] == [3, 1]
    assert (stage.pairs, stage.videos, stage.order_lost) == (4, 2, 0.5)


def test_useless_pairs_are_counted_and_left_out() -> None:
    stage = make_stage(
        "align-16", [pair("x"), pair("x"), pair("chosen"), pair("y", order_distance=None)]
    )
    assert (stage.pairs, stage.duplicated, stage.identical, stage.order_lost) == (2, 1, 1, 0.5)
    assert "align-16" in curriculum_table([stage])


def test_a_stage_without_pairs_has_no_examples() -> None:
    stage = make_stages([pair("x")], CurriculumConfig(strengths=(2,)), 0)[0]
    assert stage.examples == ()
    assert "align-2" in curriculum_table([stage])


@given(
    sizes=st.lists(st.integers(1, 6), max_size=60),
    step_size=st.integers(1, 16),
    ranks=st.integers(1, 5),
    epochs=st.integers(1, 3),
    seed=st.integers(0, 5),
)
def test_every_example_is_assigned_once_an_epoch_and_no_step_is_too_large(
    sizes: list[int], step_size: int, ranks: int, epochs: int, seed: int
) -> None:
    steps = assign_examples(sizes, step_size, ranks, epochs, seed)
    assert steps == assign_examples(sizes, step_size, ranks, epochs, seed)
    assigned = [index for assignment in steps for indices in assignment for index in indices]
    assert sorted(assigned) == sorted(list(range(len(sizes))) * epochs)
    assert sorted(assigned[: len(sizes)]) == list(range(len(sizes)))
    for assignment in steps:
        loads = [sum(sizes[index] for index in indices) for indices in assignment]
        assert len(assignment) == ranks
        assert sum(loads) <= step_size or sum(len(indices) for indices in assignment) == 1
        assert max(loads) - min(loads) <= max(sizes)


def test_epochs_and_seeds_differ_in_order() -> None:
    steps = assign_examples([1] * 32, 4, 1, 2, 0)
    assert steps[:8] != steps[8:]
    assert steps[:8] != assign_examples([1] * 32, 4, 1, 1, 1)
