"""A config -> every stage of its recipe, trained in order -> the run's model.

Tested in tests/integration/test_train.py.
"""

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
from tempo_ray.train.run.plan import (
    Plan,
    delete_checkpoints,
    finished_stages,
    make_plan,
    pairs_folders,
)


def train(config: TrainConfig, job: Job, log: Log) -> None:
    """Trains the stages that are not finished and writes the run's model. Raises UserError."""
    config = config.model_copy(update={"pairs": pairs_folders(config)})
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
    """Each stage starts from the merged model of the one before it. Raises UserError if one
    stopped."""
    finished = finished_stages(config, plan.stages)
    for stage, result in zip(plan.stages, finished, strict=True):
        if result is not None:
            log(f"{stage.name}: already finished")
            delete_checkpoints(config, stage)  # a driver that died may have left some
    trained = iter(_launch(config, plan.stages, finished, log))
    return [result or next(trained) for result in finished]


def _launch(
    config: TrainConfig,
    stages: Sequence[StageSpec],
    finished: Sequence[StageResult | None],
    log: Log,
) -> list[StageResult]:
    """The results of the stages that were not finished."""
    unfinished = [number for number, result in enumerate(finished) if result is None]
    if not unfinished:
        return []
    # here, because Ray takes seconds to import
    from tempo_ray.train.run.launch import launch_stages
    from tempo_ray.train.run.worker import StageTask

    merged = [join(RunPaths(config.run).stage(stage.name), "merged") for stage in stages]
    models = [config.model, *merged]
    tasks = [
        StageTask(config, stages[number], models[number], obsolete=tuple(models[1:number]))
        for number in unfinished
    ]
    run_name = f"stages-{stages[-1].digest}"
    results = []
    for task, result in zip(tasks, launch_stages(tasks, run_name, log), strict=False):
        if isinstance(result, Stopped):
            raise UserError(f"{task.spec.name} stopped: {result.reason}")
        results.append(result)
    delete_folder(join(RunPaths(config.run).train, run_name))
    return results


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
