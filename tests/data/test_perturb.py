"""The guarantees of perturbations, for every number of clips that can occur."""

import itertools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tempo_ray.data.perturb import distinct, order_distance, published

TYPES = ("drop", "shuffle", "reverse")
STRENGTHS = (16, 8, 4, 2)


@pytest.mark.parametrize("n", range(1, 65))
@settings(max_examples=20)
@given(seed=st.integers(0, 5), video=st.text(max_size=8))
def test_never_the_clean_order_and_no_order_twice(n: int, seed: int, video: str) -> None:
    found = distinct(n, TYPES, STRENGTHS, seed, video)
    orders = [drawn.order for drawn in found]
    assert tuple(range(n)) not in orders
    assert len(set(orders)) == len(orders)
    assert found == distinct(n, TYPES, STRENGTHS, seed, video)


@pytest.mark.parametrize("n", range(1, 65))
@settings(max_examples=5)
@given(seed=st.integers(0, 5))
def test_each_type_does_what_it_says(n: int, seed: int) -> None:
    for drawn in distinct(n, TYPES, STRENGTHS, seed, "v"):
        order = drawn.order
        size = max(1, n // drawn.strength)
        if drawn.type == "drop":
            assert list(order) == sorted(order)
            assert len(order) == size
            continue
        blocks = [tuple(range(start, min(start + size, n))) for start in range(0, n, size)]
        assert sorted(order) == list(range(n))
        if drawn.type == "reverse":
            assert order == tuple(itertools.chain.from_iterable(reversed(blocks)))
        else:
            for block in blocks:
                start = order.index(block[0])
                assert order[start : start + len(block)] == block


def test_sixteen_clips_have_every_strength_of_every_type() -> None:
    found = {(drawn.type, drawn.strength) for drawn in distinct(16, TYPES, STRENGTHS, 0, "v")}
    assert found == {(kind, strength) for kind in TYPES for strength in STRENGTHS} - {
        ("shuffle", 2)
    }


def test_a_single_clip_cannot_be_perturbed() -> None:
    assert distinct(1, TYPES, STRENGTHS, 0, "v") == []


def test_two_blocks_have_one_more_order_and_the_reversal_takes_it() -> None:
    found = distinct(8, ("shuffle", "reverse"), (2,), 0, "v")
    assert [(drawn.type, drawn.order) for drawn in found] == [("reverse", (4, 5, 6, 7, 0, 1, 2, 3))]


def test_the_published_levels_collapse_and_leave_orders_unchanged() -> None:
    drawn = [published(4, ("shuffle",), (2,), seed, "v")[0].order for seed in range(200)]
    unchanged = drawn.count((0, 1, 2, 3))
    assert 60 < unchanged < 140  # two blocks: half of all shuffles
    full = {drawn.strength: drawn.order for drawn in published(6, ("reverse",), STRENGTHS, 0, "v")}
    assert full[16] == full[8] == (5, 4, 3, 2, 1, 0)
    assert len(published(5, TYPES, STRENGTHS, 0, "v")) == 12


@pytest.mark.parametrize(
    ("order", "distance"),
    [((0, 1, 2), 0.0), ((2, 1, 0), 1.0), ((1, 0, 2), 1 / 3), ((5,), 0.0), ((0, 3, 7), 0.0)],
)
def test_order_distance_is_kendalls(order: tuple[int, ...], distance: float) -> None:
    assert order_distance(order) == pytest.approx(distance)
