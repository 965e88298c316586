"""A config -> every stage of its recipe, one Ray Train run each -> the merged model."""

import json
import os
import shutil
import threading
import time
from collections.abc import Iterator
from concurrent.futures import Future
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import ray
from filelock import FileLock, Timeout
from pyarrow import fs
from ray.train import FailureConfig, RunConfig, ScalingConfig
from ray.train.torch import TorchConfig, TorchTrainer

from tempo_ray.cluster import PROCESS_BYTES, check_memory, connect
from tempo_ray.config import TrainConfig
from tempo_ray.job import BadInput
from tempo_ray.models.check import weight_bytes
from tempo_ray.paths import RunPaths, delete_folder, read_bytes, resolve
from tempo_ray.train.card import curves, model_card
from tempo_ray.train.folders import fetch, forget, publish, work_folder
from tempo_ray.train.loop import run_stage
from tempo_ray.train.plan import Plan, Planned, digests, finished

POLL_SECONDS = 0.5
COLLECTIVE_SECONDS = 7200
"""How long workers wait for one another: one may load a model from far away, or make a save over, while the others wait."""


def _mailbox() -> Any:
    """An actor that takes lines from workers. Its class is made here, so that its process imports nothing of ours."""

    class Lines:
        def __init__(self) -> None:
            self.lines: list[str] = []

        def put(self, line: str) -> None:
            self.lines.append(line)

        def take(self) -> list[str]:
            lines, self.lines = self.lines, []
            return lines

    return ray.remote(num_cpus=0)(Lines).remote()


@contextmanager
def _printed() -> Iterator[Any]:
    """Yields a mailbox; what workers put into it is printed until the block ends.

    Ray could bring every worker's whole output, frameworks and all; a person wants the lines meant for people.
    """
    mailbox = _mailbox()
    over = threading.Event()

    def show() -> None:
        ended = False
        while not ended:
            ended = over.wait(POLL_SECONDS)
            for line in ray.get(mailbox.take.remote()):
                print(line, flush=True)

    thread = threading.Thread(target=show, daemon=True)
    thread.start()
    try:
        yield mailbox
    finally:
        over.set()
        thread.join()
        ray.kill(mailbox)


def _connect(config: TrainConfig) -> None:
    """To Ray, with what Ray Train reads from this process's environment: notice a finished stage at once, wait for nodes,
    and leave paths as they are."""
    os.environ.setdefault("RAY_TRAIN_HEALTH_CHECK_INTERVAL_S", "0.2")
    os.environ.setdefault("RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S", "600")
    os.environ.setdefault("RAY_CHDIR_TO_TRIAL_DIR", "0")
    if not config.workers.gpus and not ray.is_initialized():
        weights = weight_bytes(config.model) * (2 if config.deepspeed.dtype == "float32" else 1)
        check_memory(
            config.ray,
            config.workers.count * (PROCESS_BYTES + weights),
            "lower workers.count, or train on a cluster",
        )
    connect(config.ray)
    if config.ray.address is None and "RAY_ADDRESS" not in os.environ:
        _check_room(config)
        # there is no node to lose, and the watcher's process takes seconds to start
        os.environ.setdefault("RAY_TRAIN_ENABLE_PREEMPTION_WATCHER", "0")


def _check_room(config: TrainConfig) -> None:
    """Raises BadInput where a Ray that was started here can never hold the workers; a cluster may still grow."""
    have = ray.cluster_resources()
    for name, each in (("CPU", config.workers.cpus), ("GPU", config.workers.gpus)):
        if each * config.workers.count > have.get(name, 0):
            needed = f"{config.workers.count} workers x {each:g} {name}"
            raise BadInput(
                f"{needed} do not fit into {have.get(name, 0):g}: lower workers.count or workers.{name.lower()}s"
            )


def _trainer(config: TrainConfig, arguments: dict[str, Any]) -> TorchTrainer:
    """Without checkpoints of Ray's own: a stage finds its last save by itself, after a dead worker as after a dead driver."""
    workers = config.workers
    resources = {"CPU": workers.cpus} | ({"GPU": workers.gpus} if workers.gpus else {})
    return TorchTrainer(
        run_stage,  # type: ignore[arg-type]  # Ray's annotation has no return value; its Result does
        train_loop_config=arguments,
        scaling_config=ScalingConfig(
            num_workers=workers.count, use_gpu=workers.gpus > 0, resources_per_worker=resources
        ),
        torch_config=TorchConfig(timeout_s=COLLECTIVE_SECONDS),
        run_config=RunConfig(
            name=f"{arguments['name']}-{arguments['digest']}",
            storage_path=RunPaths(config.run).train,
            failure_config=FailureConfig(max_failures=workers.max_failures),
        ),
    )


def _fit(trainer: TorchTrainer) -> Any:
    """What the workers return. Beside the main thread, where Ray Train leaves Ctrl-C to this process: it would train on."""
    ended: Future[Any] = Future()

    def fit() -> None:
        try:
            ended.set_result(trainer.fit().return_value)  # type: ignore[attr-defined]
        except BaseException as error:  # noqa: BLE001, raised where it is waited for
            ended.set_exception(error)

    threading.Thread(target=fit, daemon=True).start()
    return ended.result()


def _run(config: TrainConfig, stage: Planned, made: str, starts: list[str]) -> dict[str, Any]:
    """Trains the stage and returns its facts; `made` is its digest, `starts` the models that the stages up to it start from.
    Raises BadInput where trying again would not help."""
    _connect(config)
    began = time.monotonic()
    start, number = starts[-1], len(starts) - 1
    arguments: dict[str, Any] = {
        "config": config.model_dump(mode="json"),
        "name": stage.name,
        "kind": stage.kind,
        "start": start,
        "initial": config.model,
        "spent": starts[1:-1],
        "number": number,
        "digest": made,
        "saves": _saves(config, stage, made, config.deepspeed.zero_stage),
    }
    with _printed() as lines:
        facts = _fit(_trainer(config, arguments | {"lines": lines}))
    if "stopped" in facts:
        raise BadInput(f"{stage.name} stopped: {facts['stopped']}")
    skipped = "".join(f", {number} {reason}" for reason, number in facts["skipped"].items())
    print(f"{stage.name}: done in {time.monotonic() - began:.1f} s{skipped}", flush=True)
    return facts


def _clear(config: TrainConfig, stage: Planned, made: str) -> None:
    """What a finished stage needs no more: its saves, and Ray Train's own folder."""
    paths = RunPaths(config.run)
    for left in (
        f"{paths.train}/{stage.name}-{made}",
        *(_saves(config, stage, made, zero) for zero in (0, 2, 3)),
    ):
        delete_folder(left)


def _saves(config: TrainConfig, stage: Planned, made: str, zero_stage: int) -> str:
    """All that a save depends on is in the name, but the number of workers, for which it can be made over."""
    return RunPaths(config.run).saves(f"{stage.name}-{made}-zero{zero_stage}")


@contextmanager
def _alone(config: TrainConfig) -> Iterator[None]:
    """Raises BadInput where another process trains the same run; in a bucket, or on a disk without locks, nobody can tell."""
    if "://" in config.run:
        yield
        return
    lock = Path(RunPaths(config.run).train, ".lock")
    lock.parent.mkdir(parents=True, exist_ok=True)
    held = FileLock(lock, timeout=0)
    try:
        with suppress(NotImplementedError):
            held.acquire()
    except Timeout:
        raise BadInput(
            f"another process is training run={config.run}: wait for it, or choose another run="
        ) from None
    try:
        yield
    finally:
        held.release()


def _sizes(folder: str) -> dict[str, int]:
    filesystem, path = resolve(folder)
    found = filesystem.get_file_info(fs.FileSelector(path, allow_not_found=True))
    return {info.base_name: info.size for info in found if info.type == fs.FileType.File}


def _write_model(config: TrainConfig, stages: list[dict[str, Any]]) -> None:
    """The last stage's merged model, with the record of its making, as the run's model."""
    paths = RunPaths(config.run)
    merged = f"{paths.stage(stages[-1]['name'])}/merged"
    trained = {one["name"]: one["digest"] for one in stages}
    record = (
        json.dumps({"base": config.model, "recipe": config.recipe, "stages": trained}, indent=1)
        + "\n"
    )
    there = _sizes(paths.model)
    if "training.json" in there and read_bytes(f"{paths.model}/training.json").decode() == record:
        weights = {
            name: size for name, size in _sizes(merged).items() if name.endswith(".safetensors")
        }
        if weights.items() <= there.items():
            return
    part = work_folder(paths.model)
    shutil.copytree(fetch(merged), part, dirs_exist_ok=True)
    forget(merged)
    Path(part, "training.json").write_text(record)
    Path(part, "README.md").write_text(model_card(config, stages))
    histories = {
        one["name"]: read_bytes(f"{paths.stage(one['name'])}/history.jsonl").decode().splitlines()
        for one in stages
    }
    curves(
        {name: [json.loads(line) for line in lines] for name, lines in histories.items()},
        Path(part, "curves.png"),
    )
    publish(part, paths.model)


def train(config: TrainConfig, plan: Plan) -> dict[str, Any]:
    """Trains what is not trained yet and leaves the model in the run's model/. Returns the facts of all stages.

    `config` is `resolved`, `plan` made from it. Raises BadInput.
    """
    starts = [config.model]
    facts = []
    with _alone(config):
        made = zip(
            plan.stages, digests(config, plan.stages), finished(config, plan.stages), strict=True
        )
        for stage, digest, before in made:
            if before is not None:
                print(f"{stage.name}: finished before", flush=True)
            facts.append(before or _run(config, stage, digest, starts))
            _clear(config, stage, digest)
            starts.append(f"{RunPaths(config.run).stage(stage.name)}/merged")
        _write_model(config, facts)
    return {"stages": facts, "left_out": plan.left_out, "model": RunPaths(config.run).model}


def summary(facts: dict[str, Any]) -> str:
    """What was trained, for a person to read."""
    lines = [
        f"{'stage':<12} {'steps':>6} {'loss':>17} {'accuracy':>15} {'skipped':>8} {'seconds':>8}"
    ]
    for stage in facts["stages"]:
        first, last = stage["first"], stage["last"]
        loss, accuracy = (
            f"{first[key]:.3f} -> {last[key]:.3f}" if key in last else ""
            for key in ("loss", "accuracy")
        )
        skipped = sum(stage["skipped"].values())
        lines.append(
            f"{stage['name']:<12} {stage['steps']:>6} {loss:>17} {accuracy:>15} {skipped:>8} {stage['seconds']:>8}"
        )
    return "\n".join([*lines, f"model: {facts['model']}"])
