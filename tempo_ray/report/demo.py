"""A demo's figures, videos and pairs -> its table and its picture."""

import textwrap
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import pyarrow.dataset as ds

from tempo_ray.config import FramesConfig
from tempo_ray.models.frames import read_frames

matplotlib.use("Agg")
from matplotlib import pyplot

NAMES = {
    "order": "order of events",
    "other": "everything else",
    "motion": "  motion in a shot",
    "none": "  no time needed",
}
KINDS = {
    "kind:first": "  what comes first",
    "kind:last": "  what comes last",
    "kind:before": "  what comes before",
    "kind:after": "  what comes after",
    "kind:yes_no": "  this before that?",
    "kind:caption": "  which caption",
}
SFT, TEMPO, REJECTED = "#8a93a3", "#1f6feb", "#c0392b"


def table(facts: dict[str, Any]) -> str:
    """The scores of both models, for people. Accuracies in per cent, differences in points."""
    columns = f"{'SFT':>7} {'TEMPO + SFT':>12} {'difference':>11} {'95% interval':>17} {'blind guess':>12} {'questions':>10}"
    lines = [f"{'questions about':20} {columns}"]
    order, *others = NAMES.items()
    for key, name in (order, *KINDS.items(), *others):
        if key not in facts["accuracy"]:
            continue
        row = facts["accuracy"][key]
        interval = f"{100 * row['low']:+.1f} to {100 * row['high']:+.1f}"
        lines.append(
            f"{name:20} {100 * row['sft']:6.1f}% {100 * row['tempo']:11.1f}% {100 * row['difference']:+10.1f} {interval:>17} "
            f"{100 * row['chance']:11.1f}% {row['questions']:10d}"
        )
    seconds = facts["seconds"]["total"]
    lines.append(
        f"\n{facts['videos']} videos -> {facts['pairs']} pairs, seed {facts['seed']}, {seconds / 60:.1f} minutes in all"
    )
    return "\n".join(lines)


def pick_pair(folder: Path) -> dict[str, Any]:
    """A pair whose rejected answer has the same number of events and a very different order."""
    rows = ds.dataset(folder, format="parquet").to_table().to_pylist()
    return max(
        rows,
        key=lambda row: (
            row["perturbation"] != "drop",
            row["order_distance"],
            -row["text_distance"],
            row["pair_id"],
        ),
    )


def _filmstrip(axes: Any, pair: dict[str, Any], videos: Path) -> None:
    uri = pair["uri"]
    pixels = read_frames(uri, FramesConfig(), "qwen2_5_vl").pixels
    gap = np.full((pixels.shape[1], 3, 3), 255, np.uint8)
    axes.imshow(np.concatenate([part for frame in pixels for part in (frame, gap)], axis=1))
    axes.set_title(
        f"{Path(uri).name}: two frames a second, read from the left", loc="left", fontsize=10
    )
    axes.axis("off")


def _texts(axes: Any, pair: dict[str, Any]) -> None:
    shown = " ".join(str(clip + 1) for clip in pair["rejected_order"])
    blocks = (
        ("asked", pair["prompt"], "black"),
        ("chosen: written from the clips in order", pair["chosen"], TEMPO),
        (
            f"rejected: written from the clips as {shown} ({pair['perturbation']}, r = {pair['strength']})",
            pair["rejected"],
            REJECTED,
        ),
    )
    height = 1.0
    for head, text, color in blocks:
        wrapped = textwrap.wrap(text, 128)
        axes.text(0, height, head, fontsize=9, color="#57606a", va="top")
        axes.text(
            0,
            height - 0.11,
            "\n".join(wrapped),
            fontsize=10,
            color=color,
            va="top",
            family="monospace",
        )
        height -= 0.2 + 0.12 * len(wrapped)
    axes.axis("off")


def _scores(axes: Any, facts: dict[str, Any]) -> None:
    keys = list(NAMES)
    where = np.arange(len(keys))
    for offset, name, color, label in (
        (-0.2, "sft", SFT, "SFT"),
        (0.2, "tempo", TEMPO, "TEMPO + SFT"),
    ):
        values = [100 * facts["accuracy"][key][name] for key in keys]
        bars = axes.bar(where + offset, values, 0.38, color=color, label=label)
        axes.bar_label(bars, fmt="%.0f%%", fontsize=9)
    chance = [100 * facts["accuracy"][key]["chance"] for key in keys]
    axes.hlines(
        chance, where - 0.42, where + 0.42, colors="black", linestyles="dotted", label="blind guess"
    )
    names = []
    for key in keys:
        row = facts["accuracy"][key]
        names.append(
            f"{NAMES[key].strip()}\n{100 * row['difference']:+.1f} ({100 * row['low']:+.1f} to {100 * row['high']:+.1f})"
        )
    axes.set_xticks(where, names, fontsize=9)
    axes.set_ylim(0, 112)
    axes.set_ylabel("right answers, %")
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, loc="upper left", ncols=3, fontsize=9)
    axes.set_title(
        "same questions to both models; difference in points with its 95% interval",
        loc="left",
        fontsize=10,
    )


def draw_summary(facts: dict[str, Any], videos: Path, pairs: Path, file: Path) -> None:
    """One PNG: a video, what was chosen and rejected about it, and what the model learnt from such pairs."""
    pair = pick_pair(pairs)
    figure, axes = pyplot.subplots(
        3, 1, figsize=(12, 8.6), height_ratios=(1.1, 2.2, 3.2), layout="constrained"
    )
    _filmstrip(axes[0], pair, videos)
    _texts(axes[1], pair)
    _scores(axes[2], facts)
    figure.suptitle(
        "TEMPO: a preference pair from a time perturbation, and the scores after training with and without such pairs",
        fontsize=13,
    )
    figure.savefig(file, dpi=120)
    pyplot.close(figure)
