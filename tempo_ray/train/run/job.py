"""A config -> every stage of its recipe, trained in order -> the run's model.

Tested in tests/integration/test_train.py.
"""

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import FileLock, Timeout

from tempo_ray.config import TrainConfig
from tempo_ray.errors import UserError
from tempo_ray.job import Job, Log
from tempo_ray.paths import RunPaths
from tempo_ray.records import StageResult, StageSpec, Stopped, TrainSummary
from tempo_ray.storage import delete_folder, is_uri, join
from tempo_ray.train.run.plan import Plan, finished_stages, make_plan, pairs_folder


def train(config: TrainConfig, job: Job, log: Log) -> None:
    """Trains the stages that are not finished and writes the run's model. Raises UserError."""
    config = config.model_copy(update={"pairs": pairs_folder(config)})
    plan = make_plan(config)
    log(plan.table)
    with _exclusive(config):
        results = _train_stages(config, plan, log)

        from tempo_ray.train.run.model import write_model  # matplotlib takes a second to import

        write_model(config, results)
    summary = TrainSummary(tuple(results), plan.left_out, RunPaths(config.run).model)
    job.summary = summary
    log(summary_table(summary))


@contextmanager
def _exclusive(config: TrainConfig) -> Iterator[None]:
    """Raises UserError if another process trains the same run. In a bucket, or on a disk without
    locks, that goes unnoticed."""
    if is_uri(config.run):
        yield
        return
    file = Path(RunPaths(config.run).train, ".lock")
    file.parent.mkdir(parents=True, exist_ok=True)
    lock = FileLock(file, timeout=0)
    try:
        with suppress(NotImplementedError):
            lock.acquire()
    except Timeout:
        raise UserError(
            f"another process is training run={config.run}: wait for it, or choose another run="
        ) from None
    try:
        yield
    finally:
        lock.release()


def _train_stages(config: TrainConfig, plan: Plan, log: Log) -> list[StageResult]:
    """Each stage starts from the merged model of the one before it."""
    models = [config.model]
    results = []
    for stage, finished in zip(plan.stages, finished_stages(config, plan.stages), strict=True):
        if finished is not None:
            log(f"{stage.name}: already finished")
        results.append(finished or _train_stage(config, stage, models, log))
        delete_folder(join(RunPaths(config.run).train, _ray_run_name(stage)))
        for zero_stage in (0, 2, 3):
            delete_folder(_checkpoints(config, stage, zero_stage))
        models.append(join(RunPaths(config.run).stage(stage.name), "merged"))
    return results


def _train_stage(
    config: TrainConfig, stage: StageSpec, models: Sequence[str], log: Log
) -> StageResult:
    """`models` are what the stages so far started from, this one last. Raises UserError if the
    stage stopped."""
    # here, because Ray takes seconds to import
    from tempo_ray.train.run.launch import launch_stage
    from tempo_ray.train.run.worker import StageTask

    began = time.monotonic()
    task = StageTask(
        config=config,
        spec=stage,
        start=models[-1],
        obsolete=tuple(models[1:-1]),
        checkpoints=_checkpoints(config, stage, config.deepspeed.zero_stage),
        run_name=_ray_run_name(stage),
    )
    result = launch_stage(task, log)
    if isinstance(result, Stopped):
        raise UserError(f"{stage.name} stopped: {result.reason}")
    skipped = "".join(f", {count} {reason}" for reason, count in result.skipped.items())
    log(f"{stage.name}: done in {time.monotonic() - began:.1f} s{skipped}")
    return result


def _ray_run_name(stage: StageSpec) -> str:
    return f"{stage.name}-{stage.digest}"


def _checkpoints(config: TrainConfig, stage: StageSpec, zero_stage: int) -> str:
    """The name has all that a checkpoint depends on, except the number of workers, for which it
    can be converted."""
    name = f"{stage.name}-{stage.digest}-zero{zero_stage}"
    return RunPaths(config.run).checkpoints(name)


def summary_table(summary: TrainSummary) -> str:
    """Human-readable: what was trained."""
    lines = [
        f"{'stage':<12} {'steps':>6} {'loss':>17} {'accuracy':>15} {'skipped':>8} {'seconds':>8}"
    ]
    for stage in summary.stages:
        loss, accuracy = (_change(stage, name) for name in ("loss", "accuracy"))
        skipped = sum(stage.skipped.values())
        lines.append(
            f"{stage.name:<12} {stage.steps:>6} {loss:>17} {accuracy:>15} {skipped:>8} "
            f"{stage.seconds:>8}"
        )
    return "\n".join([*lines, f"model: {summary.model}"])


def _change(stage: StageResult, name: str) -> str:
    if name not in stage.last:
        return ""
    return f"{stage.first[name]:.3f} -> {stage.last[name]:.3f}"
