"""Distances between texts, by hand."""

import pytest

from tempo_ray.data.difficulty import edit_distance, length_ratio, text_distance


def test_distances_by_hand() -> None:
    assert edit_distance("kitten", "sitting") == 3
    assert text_distance("a b c", "a b c") == 0
    assert text_distance("", "a b") == 1
    assert text_distance("a b c", "c b a") == pytest.approx(2 / 3)
    assert length_ratio("a b", "a b c") == 1.5
    assert length_ratio("", "a") is None
