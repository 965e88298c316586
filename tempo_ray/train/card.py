"""A run's facts -> the README.md that lies beside its model."""

from typing import Any

from tempo_ray.config import TrainConfig


def _rows(stages: list[dict[str, Any]]) -> list[str]:
    rows = [
        "| stage | pairs | examples | videos | steps | skipped | first loss | last loss |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for one in stages:
        numbers = [one["pairs"], one["groups"], one["videos"], one["steps"], sum(one["skipped"].values())]
        losses = [f"{one[when]['loss']:.4f}" for when in ("first", "last")]
        rows.append("| " + " | ".join(map(str, [one["name"], *numbers, *losses])) + " |")
    return rows


def model_card(config: TrainConfig, stages: list[dict[str, Any]]) -> str:
    """What the model was made from and how, in the order of its making."""
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
        "```yaml",
        config.to_yaml().rstrip(),
        "```",
    ]
    return "\n".join(lines) + "\n"
