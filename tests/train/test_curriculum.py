from hypothesis import given
from hypothesis import strategies as st

from tempo_ray.config import CurriculumConfig
from tempo_ray.train.curriculum import Pair, make_stage, plan_steps, stage_strengths, table


def pair(rejected: str, *, video: str = "a", prompt: str = "p", strength: int = 16, distance: float | None = 0.5) -> Pair:
    return Pair(video, prompt, "chosen", rejected, strength, distance)


def test_orders() -> None:
    def names(order: str) -> list[tuple[str, tuple[int, ...]]]:
        return stage_strengths(CurriculumConfig(order=order, strengths=(2, 16, 4)))

    assert names("easy_to_hard") == [("align-16", (16,)), ("align-4", (4,)), ("align-2", (2,))]
    assert names("hard_to_easy") == names("easy_to_hard")[::-1]
    assert names("mixed") == [("align-mixed", (16, 4, 2))]


def test_a_group_is_one_video_one_prompt_one_chosen() -> None:
    pairs = [pair("x"), pair("y"), pair("z", prompt="q"), pair("x", video="b"), pair("w", strength=8)]
    stage = make_stage("align-16", [16], pairs)
    assert [(group.uri, group.parts, group.rejected) for group in stage.groups] == [
        ("a", (None, "p"), ("x", "y")),
        ("a", (None, "q"), ("z",)),
        ("b", (None, "p"), ("x",)),
    ]
    assert (stage.pairs, stage.videos, stage.difficulty) == (4, 2, 0.5)


def test_useless_pairs_are_counted_and_left_out() -> None:
    stage = make_stage("align-16", [16], [pair("x"), pair("x"), pair("chosen"), pair("y", distance=None)])
    assert (stage.pairs, stage.duplicated, stage.identical, stage.difficulty) == (2, 1, 1, 0.5)
    assert "align-16" in table([stage])


def test_a_stage_without_pairs_has_no_groups() -> None:
    stage = make_stage("align-2", [2], [pair("x")])
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
