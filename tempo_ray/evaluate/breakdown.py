"""Scores -> accuracy by group of questions, of one model and of two compared; and their tables.

Which groups there are is the benchmark's to say (`Task.groups`); here `all` is added. Order
sensitivity, for example, is ShapeWorld's group `order` beside `other`.
"""

from collections.abc import Mapping, Sequence

import numpy as np

from tempo_ray.evaluate.scores import same_questions
from tempo_ray.evaluate.statistics import compare, wilson_interval
from tempo_ray.records import GroupComparison, GroupScore, Score

ALL = "all"


def group_names(scores: Sequence[Score]) -> list[str]:
    """The groups in the order of a table: widest first, `all`, then the `FACET:VALUE` ones."""
    rank: dict[str, int] = {}
    for score in scores:
        for position, name in enumerate(score.groups):
            rank[name] = min(position, rank.get(name, position))
    plain = sorted((name for name in rank if ":" not in name), key=lambda name: (rank[name], name))
    return [*plain, ALL, *sorted(name for name in rank if ":" in name)]


def in_group(score: Score, group: str) -> bool:
    return group == ALL or group in score.groups


def accuracies(scores: Sequence[Score]) -> dict[str, GroupScore]:
    """Group -> accuracy, of at least one score."""
    return {
        group: _accuracy([score for score in scores if in_group(score, group)])
        for group in group_names(scores)
    }


def _accuracy(scores: Sequence[Score]) -> GroupScore:
    right = sum(score.correct for score in scores)
    low, high = wilson_interval(right, len(scores))
    return GroupScore(
        value=right / len(scores),
        low=low,
        high=high,
        questions=len(scores),
        chance=float(np.mean([score.chance for score in scores])),
        unanswered=sum(score.error is not None for score in scores),
    )


def comparisons(
    first: Sequence[Score], second: Sequence[Score], resamples: int, seed: int
) -> dict[str, GroupComparison]:
    """Group -> the paired difference, second minus first.

    Raises UserError where the two do not answer the same questions.
    """
    first, second = same_questions(first, second)
    first_right = np.array([score.correct for score in first], dtype=bool)
    second_right = np.array([score.correct for score in second], dtype=bool)
    videos = np.array([score.video for score in first])
    rows = {}
    for group in group_names(first):
        members = np.array([in_group(score, group) for score in first], dtype=bool)
        rows[group] = compare(
            first_right[members], second_right[members], videos[members], resamples, seed
        )
    return rows


def _label(group: str) -> str:
    """`kind:count` is shown as `count`."""
    return group.partition(":")[2] or group


def accuracy_table(rows: Mapping[str, GroupScore]) -> str:
    """One model's accuracies as human-readable lines."""
    lines = [
        f"{'':14} {'accuracy':>8} {'95%':>15} {'chance':>7} {'questions':>9} {'unanswered':>10}"
    ]
    for group, row in rows.items():
        interval = f"{row.low:.3f} to {row.high:.3f}"
        lines.append(
            f"{_label(group):14} {row.value:8.3f} {interval:>15} {row.chance:7.3f} "
            f"{row.questions:9d} {row.unanswered:10d}"
        )
    return "\n".join(lines)


def comparison_table(rows: Mapping[str, GroupComparison], first: str, second: str) -> str:
    """Two models' comparison as human-readable lines; `first` and `second` head their columns."""
    width = max(8, len(first), len(second))
    lines = [
        f"{'':14} {first:>{width}} {second:>{width}} {'difference':>10} {'95%':>17} "
        f"{'p':>8} {'questions':>9}"
    ]
    for group, row in rows.items():
        interval = f"{row.low:+.3f} to {row.high:+.3f}"
        lines.append(
            f"{_label(group):14} {row.first:{width}.3f} {row.second:{width}.3f} "
            f"{row.difference:+10.3f} {interval:>17} {row.p:8.2g} {row.questions:9d}"
        )
    return "\n".join(lines)
