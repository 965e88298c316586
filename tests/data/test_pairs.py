"""Pair rules by hand, difficulty by hand."""

from typing import Any

import pytest

from tempo_ray.config import PairsConfig
from tempo_ray.data.difficulty import edit_distance, length_ratio, text_distance
from tempo_ray.data.pairs import broken_rules, make_pairs
from tempo_ray.schema import PAIR


def answer(kind: str, text: str, **other: Any) -> dict[str, Any]:
    made = {
        "answer_id": f"{kind}-{text}",
        "form": "caption",
        "perturbation": kind,
        "strength": None if kind == "clean" else 4,
        "sample": 0,
        "order": [0, 1, 2, 3],
        "order_distance": 0.0,
        "kept_share": 1.0,
        "text": text,
        "completion_tokens": 3,
        "finish_reason": "stop",
    }
    return made | other


def row(*answers: dict[str, Any]) -> dict[str, Any]:
    return {
        "video_id": "v",
        "uri": "v.mp4",
        "answers": list(answers),
        "model": "m",
        "model_hash": "h",
        "config_hash": "c",
    }


@pytest.mark.parametrize(
    ("chosen", "rejected", "broken"),
    [
        (answer("clean", "a b c"), answer("shuffle", "c b a"), []),
        (answer("clean", "a b"), answer("shuffle", "x a b"), ["chosen_not_in_rejected"]),
        (
            answer("clean", "a b c", finish_reason="length"),
            answer("shuffle", "c b a"),
            ["chosen_complete"],
        ),
        (answer("clean", "ab"), answer("drop", "cd"), ["drop_chosen_longer"]),
        (answer("clean", "abc"), answer("drop", "cd"), []),
        (answer("clean", "abcd"), answer("reverse", "x" * 6), []),
        (answer("clean", "abcd"), answer("reverse", "x" * 7), ["length_ratio"]),
        (answer("clean", "x" * 7), answer("shuffle", "abcd"), ["length_ratio"]),
        (answer("clean", "x" * 7), answer("drop", "abcd"), []),
        (answer("clean", "abc"), answer("shuffle", " "), ["not_empty"]),
    ],
)
def test_each_rule(chosen: dict[str, Any], rejected: dict[str, Any], broken: list[str]) -> None:
    judged = row(chosen, rejected)
    assert broken_rules(judged, PairsConfig()) == broken
    assert len(make_pairs(judged, ("p",), PairsConfig(), 0, "h")) == (not broken)


def test_a_pair_carries_its_origin_and_is_drawn_alike_again() -> None:
    judged = row(
        answer("clean", "a b c"), answer("shuffle", "c b a", order=[3, 2, 1, 0], order_distance=1.0)
    )
    pair, *none = make_pairs(judged, tuple("pqrstu"), PairsConfig(), 7, "h")
    assert not none
    assert set(pair) == set(PAIR.names)
    assert pair["text_distance"] == pytest.approx(2 / 3)
    assert all(rule["passed"] for rule in pair["rules"])
    assert make_pairs(judged, tuple("pqrstu"), PairsConfig(), 7, "h") == [pair]


def test_distances_by_hand() -> None:
    assert edit_distance("kitten", "sitting") == 3
    assert text_distance("a b c", "a b c") == 0
    assert text_distance("", "a b") == 1
    assert length_ratio("a b", "a b c") == 1.5
    assert length_ratio("", "a") is None
