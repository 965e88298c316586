"""The figures of an examination, computed by hand. With a real engine:
tests/integration/test_models.py."""

from tempo_ray.shapeworld.exam import compare, events_in, pairs_in_order
from tempo_ray.shapeworld.record import Retelling


def test_events_are_found_in_any_phrasing() -> None:
    text = "It begins when a red square grows. Next an orange circle moves left slowly. It ends."
    assert events_in(text) == ["red square grows", "orange circle moves left slowly"]
    assert events_in("Caption: nothing at all.") == []


def test_only_pairs_of_events_that_are_both_told_count() -> None:
    assert pairs_in_order(["a", "b", "c"], ["a", "b", "c"]) == (3, 3)
    assert pairs_in_order(["c", "a"], ["a", "b", "c"]) == (0, 1)
    assert pairs_in_order(["b"], ["a", "b", "c"]) == (0, 0)


def test_a_comparison_by_hand() -> None:
    captions = [
        (["a", "b", "c"], ["a", "b", "c"]),
        (["c", "a", "x"], ["a", "b", "c"]),
        ([], ["a", "b"]),
    ]
    assert compare(captions) == Retelling(
        events_named=0.625,  # 5 of 8
        pairs_in_order=0.75,  # 3 of 4
        all_events_in_order=0.3333,  # 1 of 3
    )
