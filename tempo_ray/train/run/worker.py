"""What Ray Train runs on every worker: stages, each from the run's folders to the stage's own.

Tested in tests/integration/test_train.py.
"""

import gc
import json
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import ray.train

from tempo_ray import metrics
from tempo_ray.config import TrainConfig
from tempo_ray.paths import RunPaths
from tempo_ray.records import StageResult, StageSpec, StepMetrics, Stopped, write_row
from tempo_ray.storage import (
    delete_local_copy,
    is_uri,
    join,
    local_copy,
    publish,
    staging_folder,
    write_bytes,
)

if TYPE_CHECKING:
    from tempo_ray.train.stage.context import StageContext


@dataclass(frozen=True)
class StageTask:
    """One stage, as the driver hands it to the workers."""

    config: TrainConfig
    spec: StageSpec
    start: str
    """Folder, URI or hub name of the model that the stage starts from."""
    obsolete: tuple[str, ...]
    """Models that no stage will start from again."""


def run_stages(tasks: Sequence[StageTask], mailbox: Any) -> list[StageResult | Stopped]:
    """Trains the stages on this worker, one after the other, up to one that stops. `mailbox` takes
    lines of progress.

    Ray Train calls it again after a worker has died: stages that are finished stay so.
    """
    _set_environment(tasks[0].config)
    from tempo_ray.train.run.plan import read_result
    from tempo_ray.train.stage.collectives import broadcast
    from tempo_ray.train.stage.zero import initialise_deepspeed

    _share_threads(tasks[0].config)
    initialise_deepspeed()
    results: list[StageResult | Stopped] = []
    for task in tasks:
        finished = broadcast(read_result(RunPaths(task.config.run).stage(task.spec.name)))
        results.append(finished or _run_stage(task, mailbox))
        if isinstance(results[-1], Stopped):
            break
    return results


def _run_stage(task: StageTask, mailbox: Any) -> StageResult | Stopped:
    """Rank 0 publishes the stage's folder; its stage.json comes last, and a stage that has it is
    finished. The other ranks wait for it: the next stage starts from this one's model."""
    import torch.distributed as dist

    from tempo_ray.train.run.plan import checkpoints_of, delete_checkpoints, stage_examples
    from tempo_ray.train.stage.context import StageIO
    from tempo_ray.train.stage.loop import train_stage

    config, name = task.config, task.spec.name
    is_rank_0 = ray.train.get_context().get_world_rank() == 0
    began = time.monotonic()
    context = _make_context(task)
    target = RunPaths(config.run).stage(name)
    with tempfile.TemporaryDirectory() as scratch:
        curves = scratch if is_uri(config.run) else RunPaths(config.run).tensorboard
        io = StageIO(
            log=mailbox.put.remote if is_rank_0 else _discard,
            observe=_observer(name),
            checkpoints=checkpoints_of(config, task.spec, config.deepspeed.zero_stage),
            output=staging_folder(target) if is_rank_0 else Path(scratch),
            tensorboard=Path(curves, name),
        )
        result = train_stage(context, stage_examples(config, name), io)
        _free_memory()
        if isinstance(result, Stopped):
            return result
        result = replace(result, start=task.start)
        if is_rank_0:
            if is_uri(config.run) and io.tensorboard.exists():
                shutil.copytree(io.tensorboard, io.output / "tensorboard")
            publish(io.output, target)
            stage_json = json.dumps(write_row(result), indent=1) + "\n"
            write_bytes(join(target, "stage.json"), stage_json.encode())
            delete_checkpoints(config, task.spec)
            skipped = "".join(f", {count} {reason}" for reason, count in result.skipped.items())
            seconds = time.monotonic() - began
            ray.get(mailbox.put.remote(f"{name}: done in {seconds:.1f} s{skipped}"))
    dist.barrier()
    return result


def _free_memory() -> None:
    """DeepSpeed's engines are in reference cycles; the next stage needs the room."""
    import torch

    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def _set_environment(config: TrainConfig) -> None:
    """What torch and DeepSpeed read when they are imported."""
    if not config.workers.gpus:
        os.environ.setdefault("DS_ACCELERATOR", "cpu")
    # rows differ in length from step to step
    os.environ.setdefault("PYTORCH_CUDA_ALLOC_CONF", "expandable_segments:True")


def _share_threads(config: TrainConfig) -> None:
    import torch

    if not config.workers.gpus:
        workers_here = ray.train.get_context().get_local_world_size()
        torch.set_num_threads(max(1, (os.cpu_count() or 1) // workers_here))


def _make_context(task: StageTask) -> "StageContext":
    """The stage's context, with local copies of its models."""
    from tempo_ray.train.objective import objective_of
    from tempo_ray.train.stage.context import StageContext

    for uri in task.obsolete:
        delete_local_copy(uri)
    return StageContext(
        config=task.config,
        spec=task.spec,
        objective=objective_of(task.spec.objective, task.config),
        start=local_copy(task.start),
        initial=local_copy(task.config.model),
    )


def _observer(stage: str) -> Callable[[StepMetrics], None]:
    """Takes the metrics of steps."""

    def observe(of_step: StepMetrics) -> None:
        for name, value in of_step.items():
            metrics.TRAIN[name].set(value, stage=stage)

    return observe


def _discard(line: str) -> None:
    """Lines of progress come from rank 0 alone."""
