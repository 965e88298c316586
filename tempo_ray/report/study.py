"""The rows of a study -> table.md, table.parquet and study.png.

Tested in tests/study/test_table.py.
"""

from collections.abc import Sequence
from pathlib import Path

import matplotlib
import pyarrow as pa
import pyarrow.parquet as pq

from tempo_ray.records import StudyRow, write_row

matplotlib.use("Agg")
from matplotlib import pyplot


def write_study(rows: Sequence[StudyRow], folder: Path) -> str:
    """Writes the three files; what to print of them."""
    table = markdown(rows)
    (folder / "table.md").write_text(table)
    pq.write_table(pa.Table.from_pylist([write_row(row) for row in rows]), folder / "table.parquet")
    draw_study(rows, folder / "study.png")
    return f"\n{table}\n{folder / 'table.md'}, table.parquet and study.png beside it"


def markdown(rows: Sequence[StudyRow]) -> str:
    """A table for each arm, in points. Its seeds are those of its widest group."""
    parts = []
    for arm in dict.fromkeys(row.arm for row in rows):
        own = [row for row in rows if row.arm == arm]
        parts.append(
            f"**{arm}** against {own[0].baseline}, {max(row.seeds for row in own)} seeds\n\n"
            f"| questions | {own[0].baseline} | {arm} | difference | 95% | p (Holm) | "
            "detectable | blind guess | questions |\n|---|---|---|---|---|---|---|---|---|"
        )
        for row in own:
            p = f"{row.p:.2g}" if row.p_holm is None else f"{row.p:.2g} ({row.p_holm:.2g})"
            parts[-1] += (
                f"\n| {row.group.partition(':')[2] or row.group} | {row.baseline_accuracy:.1%} | "
                f"{row.accuracy:.1%} | {100 * row.difference:+.1f} | {100 * row.low:+.1f} to "
                f"{100 * row.high:+.1f} | {p} | {100 * row.detectable:.1f} | {row.chance:.1%} | "
                f"{row.questions} |"
            )
    return "\n\n".join(parts) + "\n"


def draw_study(rows: Sequence[StudyRow], file: Path) -> None:
    """Every arm's difference to the baseline with its interval; single kinds are left out."""
    shown = {(row.arm, row.group): row for row in rows if ":" not in row.group}
    arms = list(dict.fromkeys(arm for arm, _ in shown))
    groups = list(dict.fromkeys(group for _, group in shown))
    size = (3.2 * len(groups), 1.2 + 0.45 * len(arms))
    figure, axes = pyplot.subplots(1, len(groups), figsize=size, sharey=True, squeeze=False)
    for axis, group in zip(axes[0], groups, strict=True):
        for place, arm in enumerate(arms):
            row = shown[arm, group]
            axis.plot([100 * row.low, 100 * row.high], [place, place], color="#1f6feb", linewidth=2)
            axis.plot(100 * row.difference, place, "o", color="#1f6feb")
        axis.axvline(0, color="#8a93a3", linewidth=1)
        axis.set_yticks(range(len(arms)), arms)
        axis.set_title(group, fontsize=10)
        axis.set_xlabel(f"points over {rows[0].baseline}, 95%", fontsize=8)
    figure.tight_layout()
    figure.savefig(file, dpi=150)
    pyplot.close(figure)
