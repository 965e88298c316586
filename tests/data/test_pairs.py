"""Pair rules, by hand."""

from dataclasses import replace

import pytest

from tempo_ray.config import PairsConfig
from tempo_ray.data.pairs import broken_rules, judge, make_pairs
from tempo_ray.records import Answer, RuleResult
from tests.data.rows import answer, kept_video


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
def test_each_rule(chosen: Answer, rejected: Answer, broken: list[str]) -> None:
    row = kept_video(chosen, rejected)
    assert broken_rules(row, PairsConfig()) == broken
    assert len(make_pairs(row, ("p",), PairsConfig(), 0, "h")) == (not broken)


def result(name: str, chosen: Answer, rejected: Answer, **config: bool) -> RuleResult:
    results = judge(chosen, rejected, PairsConfig(**config))
    (found,) = [result for result in results if result.name == name]
    return found


def test_the_length_ratio_does_not_apply_to_a_drop_pair() -> None:
    chosen, rejected = answer("clean", "x" * 201), answer("drop", "y" * 20)
    assert result("length_ratio", chosen, rejected) == RuleResult(
        "length_ratio", None, "applies to shuffle and reverse"
    )
    assert result("length_ratio", chosen, replace(rejected, perturbation="shuffle")) == RuleResult(
        "length_ratio", False, "characters 201 : 20, at most 1.5 : 1"
    )


@pytest.mark.parametrize("perturbation", ["shuffle", "reverse"])
def test_longer_for_drop_applies_to_drop_alone(perturbation: str) -> None:
    chosen, rejected = answer("clean", "ab"), answer("drop", "cd")
    assert result("drop_chosen_longer", chosen, rejected).passed is False
    other = replace(rejected, perturbation=perturbation)
    assert result("drop_chosen_longer", chosen, other) == RuleResult(
        "drop_chosen_longer", None, "applies to drop"
    )


def test_a_disabled_rule_says_so_and_drops_nothing() -> None:
    contained = answer("clean", "a b c"), answer("shuffle", "x a b c")
    assert result("chosen_not_in_rejected", *contained, forbid_substring=False) == RuleResult(
        "chosen_not_in_rejected", None, "disabled: pairs.forbid_substring=false"
    )
    shorter = answer("clean", "ab"), answer("drop", "cd")
    assert result("drop_chosen_longer", *shorter, require_longer_for_drop=False) == RuleResult(
        "drop_chosen_longer", None, "disabled: pairs.require_longer_for_drop=false"
    )
    lenient = PairsConfig(forbid_substring=False, require_longer_for_drop=False)
    for candidate in (contained, shorter):
        assert broken_rules(kept_video(*candidate), lenient) == []
        assert len(make_pairs(kept_video(*candidate), ("p",), lenient, 0, "h")) == 1


def test_a_pair_has_its_origin_and_is_drawn_the_same_again() -> None:
    row = kept_video(
        answer("clean", "a b c"),
        answer("clean", "a b d", sample=1),
        answer("shuffle", "c b a", order=(3, 2, 1, 0), order_distance=1.0),
    )
    (pair,) = make_pairs(row, tuple("pqrstu"), PairsConfig(), 7, "h")
    assert pair.text_distance == pytest.approx(2 / 3)
    assert (pair.chosen, pair.rejected, pair.rejected_order) == ("a b c", "c b a", (3, 2, 1, 0))
    assert [rule.passed for rule in pair.rules] == [True, True, True, None, True]
    assert make_pairs(row, tuple("pqrstu"), PairsConfig(), 7, "h") == [pair]
