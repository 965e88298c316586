"""A run's facts and histories -> the README.md that lies beside its model, and its curves."""

from pathlib import Path
from typing import Any

import matplotlib

from tempo_ray.config import TrainConfig

matplotlib.use("Agg")
from matplotlib import pyplot

CURVES = {
    "loss": ("loss",),
    "reward accuracy": ("accuracy", "held_out_accuracy"),
    "reward margin": ("margin", "held_out_margin"),
    "chosen against the reference (nats a token)": ("chosen_drift",),
    "KL estimate (nats a token)": ("kl",),
    "gradient norm": ("grad_norm",),
}
"""Titles of the panels, and the entries of the history that they show."""


def curves(histories: dict[str, list[dict[str, float]]], file: Path) -> None:
    """Stages side by side, each as wide as the others however many steps it has; in red what is held out."""
    figure, axes = pyplot.subplots(2, 3, figsize=(13, 6.5), layout="constrained")
    for axis, (title, names) in zip(axes.flat, CURVES.items(), strict=True):
        for place, history in enumerate(histories.values()):
            for number, name in enumerate(names):
                points = [
                    (place + entry["step"] / len(history), entry[name])
                    for entry in history
                    if name in entry
                ]
                if points:
                    dot = "o" if len(points) == 1 else None
                    axis.plot(
                        *zip(*points, strict=True),
                        color="#1f6feb" if not number else "#c0392b",
                        lw=1.2,
                        marker=dot,
                    )
            axis.axvline(place + 1, color="#d0d4da", lw=0.8)
        if title.startswith(
            "KL"
        ):  # one token that the model now finds unlikely outweighs all others
            axis.set_yscale("symlog", linthresh=0.1)
            axis.set_ylim(bottom=0)
        steps = [f"{name}\n{len(history)} steps" for name, history in histories.items()]
        axis.set_xticks([place + 0.5 for place in range(len(histories))], steps, fontsize=7)
        axis.set_xlim(0, len(histories))
        axis.set_title(title, fontsize=9)
        axis.tick_params(labelsize=7, length=0)
        axis.spines[["top", "right"]].set_visible(False)
    figure.savefig(file, dpi=110)
    pyplot.close(figure)


def _rows(stages: list[dict[str, Any]]) -> list[str]:
    rows = [
        "| stage | pairs | examples | videos | steps | skipped | first loss | last loss | accuracy | hours |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for one in stages:
        numbers = [
            one["pairs"],
            one["groups"],
            one["videos"],
            one["steps"],
            sum(one["skipped"].values()),
        ]
        losses = [f"{one[when]['loss']:.4f}" for when in ("first", "last")]
        accuracy = f"{one['last']['accuracy']:.3f}" if "accuracy" in one["last"] else ""
        hours = f"{one['seconds'] / 3600:.2f}"
        rows.append(
            "| " + " | ".join(map(str, [one["name"], *numbers, *losses, accuracy, hours])) + " |"
        )
    return rows


def model_card(config: TrainConfig, stages: list[dict[str, Any]]) -> str:
    """What the model was made from and how, in the order of its making."""
    last = stages[-1]
    versions = ", ".join(f"{name} {number}" for name, number in last["versions"].items())
    lines = [
        "---",
        f"base_model: {config.model}",
        "pipeline_tag: video-text-to-text",
        "tags: [tempo_ray, dpo, video]",
        "---",
        "",
        f"Made by tempo_ray with recipe `{config.recipe}`, seed {config.seed}, weights in {config.deepspeed.dtype}.",
        "An alignment stage prefers answers that keep to the order of a video's events over answers that do not.",
        "",
        *_rows(stages),
        "",
        "![curves](curves.png)",
        "",
        f"{last['workers']} workers, ZeRO stage {last['zero_stage']}, on {last['hardware']}. {versions}.",
        f"Config {config.hash()}:",
        "",
        "```yaml",
        config.to_yaml().rstrip(),
        "```",
    ]
    return "\n".join(lines) + "\n"
