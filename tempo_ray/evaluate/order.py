"""Scores -> accuracy by what a question needs and by kind, of one model, and of two compared.

Order-sensitivity is `accuracy.order` (questions that only the order of events answers) beside `accuracy.other` (all others).
"""

from dataclasses import asdict
from typing import Any

import numpy as np
import pyarrow as pa

from tempo_ray.evaluate.scores import same_questions
from tempo_ray.evaluate.statistics import compare, wilson


def groups(scores: pa.Table) -> dict[str, np.ndarray]:
    """Name -> which rows (questions,) belong to it: order, other, motion, none, all, and `kind:NAME`. Empty ones are left out."""
    needs = np.array(scores["needs"].to_pylist())
    kinds = np.array(scores["kind"].to_pylist())
    found = {
        "order": needs == "order",
        "other": needs != "order",
        "motion": needs == "motion",
        "none": needs == "none",
        "all": np.ones(len(needs), dtype=bool),
    }
    found |= {f"kind:{kind}": kinds == kind for kind in sorted(set(kinds.tolist()))}
    return {name: rows for name, rows in found.items() if rows.any()}


def table(scores: pa.Table) -> dict[str, dict[str, Any]]:
    """Group -> accuracy with its Wilson interval, chance level, questions, and how many of them got no answer."""
    correct = np.array(scores["correct"].to_pylist(), dtype=bool)
    chance = np.array(scores["chance"].to_pylist())
    silent = np.array([error is not None for error in scores["error"].to_pylist()])
    rows = {}
    for name, chosen in groups(scores).items():
        accuracy = wilson(int(correct[chosen].sum()), int(chosen.sum()))
        rows[name] = asdict(accuracy) | {
            "chance": float(chance[chosen].mean()),
            "unanswered": int(silent[chosen].sum()),
        }
    return rows


def compare_table(
    first: pa.Table, second: pa.Table, resamples: int, seed: int
) -> dict[str, dict[str, Any]]:
    """Group -> the paired difference, second minus first. Raises NotScores where the questions are not the same."""
    first, second = same_questions(first, second)
    one, other = (np.array(scores["correct"].to_pylist(), dtype=bool) for scores in (first, second))
    videos = np.array(first["video"].to_pylist())
    rows = {}
    for name, chosen in groups(first).items():
        rows[name] = asdict(
            compare(one[chosen], other[chosen], videos[chosen].tolist(), resamples, seed)
        )
    return rows


def text_table(rows: dict[str, dict[str, Any]]) -> str:
    """The table of one model, for people."""
    lines = [
        f"{'':14} {'accuracy':>8} {'95%':>15} {'chance':>7} {'questions':>9} {'unanswered':>10}"
    ]
    for name, row in rows.items():
        interval = f"{row['low']:.3f} to {row['high']:.3f}"
        lines.append(
            f"{name.removeprefix('kind:'):14} {row['value']:8.3f} {interval:>15} {row['chance']:7.3f} "
            f"{row['questions']:9d} {row['unanswered']:10d}"
        )
    return "\n".join(lines)


def text_comparison(rows: dict[str, dict[str, Any]], first: str, second: str) -> str:
    """The table of two models, for people."""
    width = max(8, len(first), len(second))
    lines = [
        f"{'':14} {first:>{width}} {second:>{width}} {'difference':>10} {'95%':>17} {'p':>8} {'questions':>9}"
    ]
    for name, row in rows.items():
        interval = f"{row['low']:+.3f} to {row['high']:+.3f}"
        lines.append(
            f"{name.removeprefix('kind:'):14} {row['first']:{width}.3f} {row['second']:{width}.3f} {row['difference']:+10.3f} "
            f"{interval:>17} {row['p']:8.2g} {row['questions']:9d}"
        )
    return "\n".join(lines)
