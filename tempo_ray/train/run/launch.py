"""Stages -> one Ray Train run, in which they are trained one after the other.

Tested in tests/integration/test_train.py.
"""

import os
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from functools import partial
from typing import Any

import ray
from ray.train import FailureConfig, RunConfig, ScalingConfig
from ray.train.torch import TorchConfig, TorchTrainer

from tempo_ray.cluster import (
    PROCESS_BYTES,
    NodeRequest,
    check_memory,
    check_nodes,
    connect,
    is_shared,
    on_this_node,
)
from tempo_ray.config import TrainConfig
from tempo_ray.errors import UserError
from tempo_ray.job import Log
from tempo_ray.models.check import weight_bytes
from tempo_ray.paths import RunPaths
from tempo_ray.records import StageResult, Stopped
from tempo_ray.train.run.worker import StageTask, run_stages

POLL_SECONDS = 0.5
COLLECTIVE_TIMEOUT_SECONDS = 7200
"""How long ranks wait for each other: one may load a model from far away, or convert a checkpoint,
while the others wait."""


def launch_stages(
    tasks: Sequence[StageTask], run_name: str, log: Log
) -> list[StageResult | Stopped]:
    """Runs stages of one config on the same workers, up to one that stops, and logs their progress.
    `run_name` is Ray Train's name of the run, and of its own folder.

    Raises:
        UserError: the workers do not fit into this machine, or no node of the cluster holds one.
    """
    _connect(tasks[0].config)
    with _mailbox(log) as mailbox:
        return _fit(_trainer(tasks, run_name, mailbox))


def _connect(config: TrainConfig) -> None:
    """Connects to Ray, with the settings that Ray Train reads from this process's environment:
    notice a finished stage at once, wait for nodes, and leave paths as they are."""
    os.environ.setdefault("RAY_TRAIN_HEALTH_CHECK_INTERVAL_S", "0.2")
    os.environ.setdefault("RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S", "600")
    os.environ.setdefault("RAY_CHDIR_TO_TRIAL_DIR", "0")
    if not config.workers.gpus and not ray.is_initialized():
        widening = 2 if config.deepspeed.dtype == "float32" else 1
        bytes_per_worker = PROCESS_BYTES + widening * weight_bytes(config.model)
        advice = "lower workers.count, or train on a cluster"
        check_memory(config.ray, config.workers.count * bytes_per_worker, advice)
    connect(config.ray)
    if is_shared(config.ray):
        check_nodes(config.ray, [_worker(config)])
    else:
        _check_fits(config)
        # there is no node to lose, and the watcher's process takes seconds to start
        os.environ.setdefault("RAY_TRAIN_ENABLE_PREEMPTION_WATCHER", "0")


def _worker(config: TrainConfig) -> NodeRequest:
    workers = config.workers
    return NodeRequest.of("one of workers", workers.cpus, workers.gpus, workers)


def _check_fits(config: TrainConfig) -> None:
    """Raises UserError if a Ray started here can never hold the workers; a cluster may grow."""
    available = ray.cluster_resources()
    for name, per_worker in (("CPU", config.workers.cpus), ("GPU", config.workers.gpus)):
        if per_worker * config.workers.count > available.get(name, 0):
            raise UserError(
                f"{config.workers.count} workers x {per_worker:g} {name} do not fit into "
                f"{available.get(name, 0):g}: lower workers.count or workers.{name.lower()}s"
            )


@contextmanager
def _mailbox(log: Log) -> Iterator[Any]:
    """Yields an actor; lines that workers put into it are logged until the block ends.

    Ray could forward the whole output of every worker, frameworks included; users want these lines.
    """
    mailbox = _start_mailbox()
    ended = threading.Event()

    def forward() -> None:
        last = False
        while not last:
            last = ended.wait(POLL_SECONDS)
            for line in ray.get(mailbox.take.remote()):
                log(line)

    thread = threading.Thread(target=forward, daemon=True)
    thread.start()
    try:
        yield mailbox
    finally:
        ended.set()
        thread.join()
        ray.kill(mailbox)


def _start_mailbox() -> Any:
    """The class is local, so that the actor's process imports nothing of this package."""

    class Mailbox:
        def __init__(self) -> None:
            self.lines: list[str] = []

        def put(self, line: str) -> None:
            self.lines.append(line)

        def take(self) -> list[str]:
            lines, self.lines = self.lines, []
            return lines

    return ray.remote(num_cpus=0)(Mailbox).options(scheduling_strategy=on_this_node()).remote()


def _trainer(tasks: Sequence[StageTask], run_name: str, mailbox: Any) -> TorchTrainer:
    """Without Ray's own checkpoints: a stage finds its last checkpoint by itself, whether a worker
    or the driver died."""
    config = tasks[0].config
    workers = config.workers
    return TorchTrainer(
        # Ray's annotation has no return value; its Result has
        partial(run_stages, tasks, mailbox),  # type: ignore[arg-type]
        scaling_config=ScalingConfig(
            num_workers=workers.count,
            use_gpu=workers.gpus > 0,
            resources_per_worker=dict(_worker(config).resources),
            # mypy takes the class for that of Ray Train's first version
            label_selector=workers.label_selector,  # type: ignore[call-arg]
        ),
        torch_config=TorchConfig(timeout_s=COLLECTIVE_TIMEOUT_SECONDS),
        run_config=RunConfig(
            name=run_name,
            storage_path=RunPaths(config.run).train,
            failure_config=FailureConfig(max_failures=workers.max_failures),
        ),
    )


def _fit(trainer: TorchTrainer) -> list[StageResult | Stopped]:
    """What rank 0 returns. Not on the main thread, where Ray Train would handle Ctrl-C and
    train on."""
    outcome: Future[list[StageResult | Stopped]] = Future()

    def fit() -> None:
        try:
            result: Any = trainer.fit()
            outcome.set_result(result.return_value)
        except BaseException as error:  # noqa: BLE001, raised where the outcome is awaited
            outcome.set_exception(error)

    threading.Thread(target=fit, daemon=True).start()
    return outcome.result()
