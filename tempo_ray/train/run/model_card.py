"""A run's results and histories -> the README.md of its model, and its curves."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import matplotlib

from tempo_ray.config import TrainConfig
from tempo_ray.records import StageResult, StepMetrics

matplotlib.use("Agg")
from matplotlib import pyplot
from matplotlib.axes import Axes

PANELS = {
    "loss": ("loss",),
    "reward accuracy": ("accuracy", "held_out_accuracy"),
    "reward margin": ("margin", "held_out_margin"),
    "chosen log-ratio to the reference (nats per token)": ("chosen_logratio_per_token",),
    "KL estimate (nats per token)": ("kl",),
    "gradient norm": ("grad_norm",),
}
"""Title of each panel, and the metrics in it: of training, and of held-out evaluations."""
COLOURS = ("#1f6feb", "#c0392b")
COLUMNS = (
    "stage",
    "pairs",
    "examples",
    "videos",
    "steps",
    "skipped",
    "first loss",
    "last loss",
    "accuracy",
    "hours",
)


def draw_curves(histories: Mapping[str, Sequence[StepMetrics]], file: Path) -> None:
    """Stages side by side, all of the same width; held-out evaluations in red."""
    figure, axes = pyplot.subplots(2, 3, figsize=(13, 6.5), layout="constrained")
    ticks = [f"{name}\n{len(history)} steps" for name, history in histories.items()]
    for axis, (title, names) in zip(axes.flat, PANELS.items(), strict=True):
        for place, history in enumerate(histories.values()):
            for name, colour in zip(names, COLOURS, strict=False):
                _draw_curve(axis, place, history, name, colour)
            axis.axvline(place + 1, color="#d0d4da", lw=0.8)
        if "kl" in names:  # one token that becomes unlikely outweighs all others
            axis.set_yscale("symlog", linthresh=0.1)
            axis.set_ylim(bottom=0)
        axis.set_xticks([place + 0.5 for place in range(len(histories))], ticks, fontsize=7)
        axis.set_xlim(0, len(histories))
        axis.set_title(title, fontsize=9)
        axis.tick_params(labelsize=7, length=0)
        axis.spines[["top", "right"]].set_visible(False)
    figure.savefig(file, dpi=110)
    pyplot.close(figure)


def _draw_curve(
    axis: Axes, place: int, history: Sequence[StepMetrics], name: str, colour: str
) -> None:
    points = [metrics for metrics in history if name in metrics]
    steps = [place + metrics["step"] / len(history) for metrics in points]
    values = [metrics[name] for metrics in points]
    if points:
        marker = "o" if len(points) == 1 else None
        axis.plot(steps, values, color=colour, lw=1.2, marker=marker)


def model_card(config: TrainConfig, stages: Sequence[StageResult]) -> str:
    """What the model was trained on and how, stage by stage."""
    last = stages[-1]
    versions = ", ".join(f"{name} {number}" for name, number in last.versions.items())
    lines = [
        "---",
        f"base_model: {config.model}",
        "pipeline_tag: video-text-to-text",
        "tags: [tempo_ray, dpo, video]",
        "---",
        "",
        f"Trained by tempo_ray with recipe `{config.recipe}`, seed {config.seed}, weights in "
        f"{config.deepspeed.dtype}.",
        "An alignment stage prefers answers that keep to the order of a video's events over "
        "answers that do not.",
        "",
        _row(COLUMNS),
        "|" + "---|" * len(COLUMNS),
        *(_row(_cells(stage)) for stage in stages),
        "",
        "![curves](curves.png)",
        "",
        f"{last.workers} workers, ZeRO stage {last.zero_stage}, on {last.hardware}. {versions}.",
        f"Config {config.hash()}:",
        "",
        "```yaml",
        config.to_yaml().rstrip(),
        "```",
    ]
    return "\n".join(lines) + "\n"


def _cells(stage: StageResult) -> list[str]:
    accuracy = f"{stage.last['accuracy']:.3f}" if "accuracy" in stage.last else ""
    return [
        stage.name,
        str(stage.pairs),
        str(stage.examples),
        str(stage.videos),
        str(stage.steps),
        str(sum(stage.skipped.values())),
        f"{stage.first['loss']:.4f}",
        f"{stage.last['loss']:.4f}",
        accuracy,
        f"{stage.seconds / 3600:.2f}",
    ]


def _row(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cells) + " |"
