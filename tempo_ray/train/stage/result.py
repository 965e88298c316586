"""A trained stage -> its result, and its output on rank 0."""

import json
import os
import platform
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from tempo_ray.records import StageResult
from tempo_ray.schema import SCHEMA_VERSION
from tempo_ray.train.examples import Example
from tempo_ray.train.lora import save_merged
from tempo_ray.train.stage.context import StageContext
from tempo_ray.train.stage.step import Progress

PACKAGES = ("tempo_ray", "torch", "transformers", "peft", "deepspeed", "ray")
"""Whose versions a stage's result names."""


def stage_result(
    context: StageContext,
    examples: Sequence[Example],
    progress: Progress,
    planned_steps: int,
    start_seconds: float,
    seconds: float,
) -> StageResult:
    trained = [metrics for metrics in progress.history if "loss" in metrics]
    return StageResult(
        schema_version=SCHEMA_VERSION,
        name=context.spec.name,
        objective=context.spec.objective,
        digest=context.spec.digest,
        start=context.start,
        examples=len(examples),
        pairs=sum(example.pairs for example in examples),
        videos=len({example.uri for example in examples}),
        steps=progress.step,
        planned_steps=planned_steps,
        skipped=dict(Counter(example.reason for example in progress.skipped)),
        first=trained[0],
        last=trained[-1],
        training_seconds=round(progress.seconds, 2),
        start_seconds=round(start_seconds, 2),
        seconds=round(seconds, 2),
        workers=dist.get_world_size(),
        hardware=hardware(),
        zero_stage=context.config.deepspeed.zero_stage,
        dtype=context.config.deepspeed.dtype,
        versions={package: version(package) for package in PACKAGES},
    )


def write_output(
    context: StageContext,
    weights: dict[str, torch.Tensor],
    progress: Progress,
    processor: Any,
    folder: Path,
) -> None:
    """`folder`/merged and adapter, history.jsonl and skipped.jsonl; `weights` are those of
    `zero.trained_weights`."""
    lora = context.objective.config.lora
    save_merged(context.start, weights, lora, context.dtype, folder, processor)
    _write_lines(folder / "history.jsonl", progress.history)
    _write_lines(folder / "skipped.jsonl", [asdict(example) for example in progress.skipped])


def _write_lines(file: Path, rows: Sequence[dict[str, Any]]) -> None:
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))


def hardware() -> str:
    """Human-readable: the GPU of one worker, or its CPU and threads."""
    if torch.cuda.is_available():
        return torch.cuda.get_device_name()
    model = platform.processor() or platform.machine()
    with suppress(OSError), open("/proc/cpuinfo") as lines:
        for line in lines:
            if line.startswith("model name"):
                model = line.split(":", 1)[1].strip()
                break
    return f"{model}, {torch.get_num_threads()} threads of {os.cpu_count()}"
