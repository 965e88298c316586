"""A study's table -> a picture: every arm's difference to the baseline, with its interval.

Tested in tests/study/test_table.py.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
from matplotlib import pyplot


def draw_study(rows: Sequence[Mapping[str, Any]], file: Path) -> None:
    """`rows` are the fields of StudyRow; groups of single kinds are left out."""
    shown = [row for row in rows if ":" not in row["group"]]
    groups = list(dict.fromkeys(row["group"] for row in shown))
    arms = list(dict.fromkeys(row["arm"] for row in shown))
    figure, axes = pyplot.subplots(
        1, len(groups), figsize=(3.2 * len(groups), 1.2 + 0.45 * len(arms)), sharey=True
    )
    for axis, group in zip([axes] if len(groups) == 1 else axes, groups, strict=True):
        for place, arm in enumerate(arms):
            row = next(row for row in shown if (row["arm"], row["group"]) == (arm, group))
            low, high, mean = (100 * row[name] for name in ("low", "high", "difference"))
            axis.plot([low, high], [place, place], color="#1f6feb", linewidth=2)
            axis.plot(mean, place, "o", color="#1f6feb")
        axis.axvline(0, color="#8a93a3", linewidth=1)
        axis.set_yticks(range(len(arms)), arms)
        axis.set_title(group, fontsize=10)
        axis.set_xlabel(f"points over {shown[0]['baseline']}, 95%", fontsize=8)
    figure.tight_layout()
    figure.savefig(file, dpi=150)
    pyplot.close(figure)
