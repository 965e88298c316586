"""The summaries of a demo's jobs -> its figures, their table, and a picture of them."""

import posixpath
import textwrap
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np

from tempo_ray.config import FramesConfig
from tempo_ray.models.frames import read_frames
from tempo_ray.records import EvaluateSummary, Pair, PairsSummary, read_row
from tempo_ray.tables import open_dataset, records_of

matplotlib.use("Agg")
from matplotlib import pyplot
from matplotlib.axes import Axes

SFT, TEMPO = "sft", "tempo"
"""The names under which the demo serves its two models."""
DEMO_MODEL_TYPE = "qwen2_5_vl"
"""Their family, which decides the frames that they see."""
GROUPS = {
    "order": "order of events",
    "other": "everything else",
    "motion": "  motion in a shot",
    "none": "  no time needed",
}
ORDER_KINDS = {
    "kind:first": "  what comes first",
    "kind:last": "  what comes last",
    "kind:before": "  what comes before",
    "kind:after": "  what comes after",
    "kind:yes_no": "  this before that?",
    "kind:caption": "  which caption",
}
COLORS = {SFT: "#8a93a3", TEMPO: "#1f6feb", "rejected": "#c0392b", "heading": "#57606a"}


@dataclass(frozen=True)
class DemoScore:
    """Both models' accuracies on a group of questions, and a blind guess's, as shares.

    `difference` is `tempo` minus `sft`, from `low` to `high` its 95% interval, `p` McNemar's.
    """

    sft: float
    tempo: float
    chance: float
    difference: float
    low: float
    high: float
    p: float
    questions: int


@dataclass(frozen=True)
class DemoFacts:
    """What a demo's summary.json says."""

    seed: int
    seconds: dict[str, float]
    """By phase, and in `total`."""
    videos: int
    kept: int
    dropped: int
    failed: int
    pairs: int
    accuracy: dict[str, DemoScore]
    """By group of questions."""


def facts_from(
    pairs: Mapping[str, Any], scores: Mapping[str, Any], seed: int, seconds: dict[str, float]
) -> DemoFacts:
    """`pairs` and `scores` are the JSON of generate_pairs' and evaluate's summaries.

    Raises pydantic.ValidationError where they are not.
    """
    generated = read_row(PairsSummary, pairs)
    evaluated = read_row(EvaluateSummary, scores)
    return DemoFacts(
        seed=seed,
        seconds=seconds,
        videos=generated.videos_in,
        kept=generated.kept,
        dropped=generated.dropped,
        failed=generated.failed,
        pairs=generated.pairs,
        accuracy=_demo_scores(evaluated),
    )


def _demo_scores(evaluated: EvaluateSummary) -> dict[str, DemoScore]:
    baseline = evaluated.models[SFT].groups
    return {
        group: DemoScore(
            sft=round(compared.first, 4),
            tempo=round(compared.second, 4),
            chance=round(baseline[group].chance, 4),
            difference=round(compared.difference, 4),
            low=round(compared.low, 4),
            high=round(compared.high, 4),
            p=round(compared.p, 4),
            questions=compared.questions,
        )
        for group, compared in evaluated.compared[TEMPO].items()
    }


def table(facts: DemoFacts) -> str:
    """Both models' scores as human-readable lines: accuracies in per cent, differences in points.

    Groups without questions are left out.
    """
    lines = [
        f"{'questions about':20} {'SFT':>7} {'TEMPO + SFT':>12} {'difference':>11} "
        f"{'95% interval':>17} {'blind guess':>12} {'questions':>10}"
    ]
    order, *further = GROUPS.items()
    for group, name in (order, *ORDER_KINDS.items(), *further):
        if group in facts.accuracy:
            lines.append(_line(name, facts.accuracy[group]))
    minutes = facts.seconds["total"] / 60
    lines.append(
        f"\n{facts.videos} videos -> {facts.pairs} pairs, seed {facts.seed}, "
        f"{minutes:.1f} minutes in all"
    )
    return "\n".join(lines)


def _line(name: str, score: DemoScore) -> str:
    interval = f"{100 * score.low:+.1f} to {100 * score.high:+.1f}"
    return (
        f"{name:20} {100 * score.sft:6.1f}% {100 * score.tempo:11.1f}% "
        f"{100 * score.difference:+10.1f} {interval:>17} "
        f"{100 * score.chance:11.1f}% {score.questions:10d}"
    )


def draw_summary(facts: DemoFacts, videos: Path, pairs: Path, file: Path) -> None:
    """Draws a PNG: a video, a chosen and a rejected answer about it, and both models' scores.

    `pairs` is the run's folder of pairs, `videos` the folder of the videos that they are about.
    """
    pair = pick_pair(pairs)
    figure, axes = pyplot.subplots(
        3, 1, figsize=(12, 8.6), height_ratios=(1.1, 2.2, 3.2), layout="constrained"
    )
    _draw_filmstrip(axes[0], videos / posixpath.basename(pair.uri))
    _draw_answers(axes[1], pair)
    _draw_scores(axes[2], facts)
    figure.suptitle(
        "TEMPO: a preference pair from a time perturbation, and the scores after training with "
        "and without such pairs",
        fontsize=13,
    )
    figure.savefig(file, dpi=120)
    pyplot.close(figure)


def pick_pair(folder: Path) -> Pair:
    """A pair whose rejected answer saw as many events in a very different order, if there is one.

    Raises UserError where the pairs are of another schema version.
    """
    dataset = open_dataset(str(folder))
    assert dataset is not None, f"no pairs in {folder}"
    return max(
        records_of(Pair, dataset.to_table()),
        key=lambda pair: (
            pair.perturbation != "drop",
            pair.order_distance,
            -pair.text_distance,
            pair.pair_id,
        ),
    )


def _draw_filmstrip(axes: Axes, video: Path) -> None:
    frames = read_frames(str(video), FramesConfig(), DEMO_MODEL_TYPE).pixels
    gap = np.full((frames.shape[1], 3, 3), 255, np.uint8)
    axes.imshow(np.concatenate([part for frame in frames for part in (frame, gap)], axis=1))
    title = f"{video.name}: two frames a second, read from the left"
    axes.set_title(title, loc="left", fontsize=10)
    axes.axis("off")


def _draw_answers(axes: Axes, pair: Pair) -> None:
    order = " ".join(str(clip + 1) for clip in pair.rejected_order)
    perturbation = f"{pair.perturbation}, r = {pair.strength}"
    blocks = (
        ("asked", pair.prompt, "black"),
        ("chosen: written from the clips in order", pair.chosen, COLORS[TEMPO]),
        (
            f"rejected: written from the clips as {order} ({perturbation})",
            pair.rejected,
            COLORS["rejected"],
        ),
    )
    top = 1.0
    for heading, text, color in blocks:
        lines = textwrap.wrap(text, 128)
        axes.text(0, top, heading, fontsize=9, color=COLORS["heading"], va="top")
        axes.text(
            0,
            top - 0.11,
            "\n".join(lines),
            fontsize=10,
            color=color,
            va="top",
            family="monospace",
        )
        top -= 0.2 + 0.12 * len(lines)
    axes.axis("off")


def _draw_scores(axes: Axes, facts: DemoFacts) -> None:
    scores = [facts.accuracy[group] for group in GROUPS]
    positions = np.arange(len(scores))
    bars = (
        (-0.2, [100 * score.sft for score in scores], COLORS[SFT], "SFT"),
        (0.2, [100 * score.tempo for score in scores], COLORS[TEMPO], "TEMPO + SFT"),
    )
    for offset, heights, color, label in bars:
        drawn = axes.bar(positions + offset, heights, 0.38, color=color, label=label)
        axes.bar_label(drawn, fmt="%.0f%%", fontsize=9)
    axes.hlines(
        [100 * score.chance for score in scores],
        positions - 0.42,
        positions + 0.42,
        colors="black",
        linestyles="dotted",
        label="blind guess",
    )
    names = [_tick(name, score) for name, score in zip(GROUPS.values(), scores, strict=True)]
    axes.set_xticks(positions, names, fontsize=9)
    axes.set_ylim(0, 112)
    axes.set_ylabel("right answers, %")
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, loc="upper left", ncols=3, fontsize=9)
    axes.set_title(
        "same questions to both models; difference in points with its 95% interval",
        loc="left",
        fontsize=10,
    )


def _tick(name: str, score: DemoScore) -> str:
    interval = f"{100 * score.low:+.1f} to {100 * score.high:+.1f}"
    return f"{name.strip()}\n{100 * score.difference:+.1f} ({interval})"
