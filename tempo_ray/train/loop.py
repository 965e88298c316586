"""What Ray Train runs on every worker: one stage, from the run's folders to the stage's own."""

import json
import os
import shutil
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import ray.train
from ray.util.metrics import Gauge

from tempo_ray.config import TrainConfig
from tempo_ray.paths import RunPaths, write_bytes
from tempo_ray.train.curriculum import Group, make_stages, read_pairs
from tempo_ray.train.folders import fetch, forget, publish, work_folder
from tempo_ray.train.sft import read_conversations


def stage_groups(config: TrainConfig, name: str) -> Sequence[Group]:
    """The groups of one stage; every worker reads them itself and finds the same."""
    if name == "sft":
        assert config.sft.data is not None
        return read_conversations(config.sft.data)
    pairs = read_pairs(config.pairs or RunPaths(config.run).pairs)
    return next(
        stage.groups
        for stage in make_stages(pairs, config.align.curriculum, config.seed)
        if stage.name == name
    )


def _observer(stage: str) -> Callable[[dict[str, float]], None]:
    """Entries of the history -> Ray metrics, one gauge a name."""
    gauges: dict[str, Gauge] = {}

    def observe(entry: dict[str, float]) -> None:
        for name, value in entry.items():
            if name not in gauges:
                gauges[name] = Gauge(
                    f"tempo_train_{name}", name.replace("_", " "), tag_keys=("stage",)
                )
            gauges[name].set(value, {"stage": stage})

    return observe


def run_stage(arguments: dict[str, Any]) -> dict[str, Any]:
    """`arguments`: `config` and the other fields of learner.Work, `digest`, `saves`, `spent`, models that no stage will start
    from again, and `lines`, the mailbox for progress.

    Returns the stage's facts, which stage.json holds too.
    """
    config = TrainConfig.model_validate(arguments["config"])
    if not config.workers.gpus:
        os.environ.setdefault("DS_ACCELERATOR", "cpu")
    # rows differ in length from step to step
    os.environ.setdefault("PYTORCH_CUDA_ALLOC_CONF", "expandable_segments:True")
    import torch

    from tempo_ray.train import deepspeed
    from tempo_ray.train.learner import Work
    from tempo_ray.train.stage import Outside, train_stage

    context = ray.train.get_context()
    if not config.workers.gpus:
        torch.set_num_threads(max(1, (os.cpu_count() or 1) // context.get_local_world_size()))
    deepspeed.prepare()
    for uri in arguments["spent"]:
        forget(uri)
    start, initial = fetch(arguments["start"]), fetch(arguments["initial"])
    work = Work(config, arguments["name"], arguments["kind"], start, initial, arguments["number"])
    paths = RunPaths(config.run)
    target = paths.stage(work.name)
    with tempfile.TemporaryDirectory() as spare:
        result = work_folder(target) if context.get_world_rank() == 0 else Path(spare)
        outside = Outside(
            tell=arguments["lines"].put.remote if context.get_world_rank() == 0 else _silent,
            observe=_observer(work.name),
            saves=arguments["saves"],
            result=result,
            events=Path(paths.train, "tensorboard", work.name)
            if "://" not in config.run
            else Path(spare, work.name),
        )
        facts = train_stage(work, stage_groups(config, work.name), outside)
        if context.get_world_rank() == 0 and "stopped" not in facts:
            facts |= {"digest": arguments["digest"], "start": arguments["start"]}
            if "://" in config.run and outside.events.exists():
                shutil.copytree(outside.events, result / "tensorboard")
            publish(result, target)
            # written last: a stage that has it is never run again
            write_bytes(f"{target}/stage.json", (json.dumps(facts, indent=1) + "\n").encode())
    return facts


def _silent(line: str) -> None:
    """Lines for a person come from rank 0."""
