"""One stage's groups and the model it starts from -> trained weights: what every worker runs.

Needs torch's process group and nothing of Ray.
"""

import json
import math
import os
import platform
import shutil
import time
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from tempo_ray.models.check import NotAModel
from tempo_ray.models.vlm import load_model_config, load_processor
from tempo_ray.train import deepspeed, saves
from tempo_ray.train.batch import blank
from tempo_ray.train.curriculum import Group, hold_out
from tempo_ray.train.health import plateaued, too_many_skipped, wrong
from tempo_ray.train.learner import Work, make_learner
from tempo_ray.train.lora import save_merged
from tempo_ray.train.steps import Progress, Reader, Steps

PROGRESS_LINES = 20
SHOWN = ("loss", "accuracy", "margin")
LOOKED_AT = 4
"""Held-out groups that a worker has in memory at a time."""
PACKAGES = ("tempo_ray", "torch", "transformers", "peft", "deepspeed", "ray")


@dataclass(frozen=True)
class Outside:
    """What a stage says, and where it leaves things. `result` and `events` are rank 0's local folders, `saves` may be a URI."""

    tell: Callable[[str], object]
    """Lines for a person."""
    observe: Callable[[dict[str, float]], object]
    """Entries of the history, of rank 0."""
    saves: str
    result: Path
    events: Path


def make_trackers(work: Work, events: Path, history: Sequence[dict[str, float]]) -> list[Any]:
    """accelerate's trackers, started, and told the history where they begin without what was logged of it before; for rank 0
    alone."""
    from accelerate import PartialState
    from accelerate.tracking import LOGGER_TYPE_TO_CLASS

    PartialState(
        cpu=True
    )  # what accelerate's own logging asks for; the process group is there already
    started: list[Any] = []
    anew = not events.exists()
    for name in work.config.trackers:
        kind = LOGGER_TYPE_TO_CLASS[name]
        where = {"logging_dir": str(events.parent)} if kind.requires_logging_directory else {}
        tracker = kind(run_name=events.name if name == "tensorboard" else "tempo_ray", **where)
        tracker.start()
        started.append(tracker)
    for entry in history if anew else ():
        _log(work.name, entry, started)
    return started


def _log(name: str, entry: dict[str, float], trackers: Sequence[Any]) -> None:
    for tracker in trackers:
        tracker.log(
            {f"{name}/{key}": value for key, value in entry.items()}, step=int(entry["step"])
        )


def _show(
    name: str,
    entry: dict[str, float],
    steps: int,
    trackers: Sequence[Any],
    tell: Callable[[str], object],
) -> None:
    """The curves at every step, a line at some."""
    step = int(entry["step"])
    _log(name, entry, trackers)
    if step % math.ceil(steps / PROGRESS_LINES) == 0 or step in (1, steps):
        shown = (
            "  ".join(f"{key} {entry[key]:.4f}" for key in SHOWN if key in entry)
            or "nothing readable"
        )
        tell(f"{name}  step {step}/{steps}  {shown}  {entry['seconds']:.2f} s")


def hardware() -> str:
    """One worker's share of it, in words."""
    if torch.cuda.is_available():
        return torch.cuda.get_device_name()
    model = platform.processor() or platform.machine()
    with suppress(OSError), open("/proc/cpuinfo") as lines:
        model = next(
            (line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")),
            model,
        )
    return f"{model}, {torch.get_num_threads()} threads of {os.cpu_count()}"


def _facts(work: Work, groups: Sequence[Group], progress: Progress, steps: int) -> dict[str, Any]:
    """What stage.json says."""
    trained = [entry for entry in progress.history if "loss" in entry]
    return {
        "name": work.name,
        "kind": work.kind,
        "groups": len(groups),
        "pairs": sum(group.pairs for group in groups),
        "videos": len({group.uri for group in groups}),
        "steps": progress.step,
        "planned_steps": steps,
        "skipped": dict(Counter(entry["reason"] for entry in progress.skipped)),
        "first": trained[0] if trained else None,
        "last": trained[-1] if trained else None,
        "training_seconds": round(progress.seconds, 2),
        "workers": dist.get_world_size(),
        "hardware": hardware(),
        "zero_stage": work.config.deepspeed.zero_stage,
        "dtype": work.config.deepspeed.dtype,
        "versions": {package: version(package) for package in PACKAGES},
    }


def _save(engine: Any, progress: Progress, root: str) -> str | None:
    """Writes a save; returns why it cannot be, the same on all workers."""
    reason = saves.agreed(saves.no_room(root, deepspeed.state_bytes(engine)))
    if reason is None:
        state = {"progress": asdict(progress)}
        saves.write(
            root,
            progress.step,
            lambda folder: engine.save_checkpoint(
                folder, saves.TAG, client_state=state, exclude_frozen_parameters=True
            ),
        )
    return reason


def _start(work: Work, root: str) -> tuple[Any, Progress]:
    """The learner, as the last whole save has it or as the stage begins."""
    save = saves.agreed(saves.latest(root))
    if save is None:
        return make_learner(work), Progress()
    universal = save.workers != dist.get_world_size() and work.config.deepspeed.zero_stage > 0
    folder = saves.opened(save, universal)
    learner = make_learner(work, universal)
    _, state = learner.engine.load_checkpoint(folder, tag=saves.TAG, load_module_strict=False)
    saves.closed(save)
    return learner, Progress(**state["progress"])


def train_stage(work: Work, groups: Sequence[Group], outside: Outside) -> dict[str, Any]:
    """Trains and returns the stage's facts. Rank 0 leaves adapter/, merged/, history and what was skipped in the result.

    Where training had to stop, `stopped` in the facts says why, and the result stays empty.
    """
    began = time.monotonic()
    rank, world = dist.get_rank(), dist.get_world_size()
    if not saves.seen_by_all(outside.saves):
        return {
            "stopped": f"not all workers see {outside.saves}: run= must be on a disk that all nodes share, or a URI"
        }
    try:
        learner, progress = _start(work, outside.saves)
    except NotAModel as error:
        return {"stopped": str(error)}
    if rank == 0 and not progress.step:
        shutil.rmtree(outside.events, ignore_errors=True)  # curves of another training
    if rank == 0 and progress.step:
        outside.tell(f"{work.name}  goes on after step {progress.step}")
    processor = load_processor(work.start, work.config.max_video_tokens)
    model_config = load_model_config(work.start)
    one_step = Steps(
        work, learner, blank(processor, model_config, 2 if work.kind == "align" else 1)
    )
    adaptive = work.config.align.curriculum.adaptive if work.kind == "align" else None
    watched: Sequence[Group] = ()
    if adaptive is not None:
        groups, watched = hold_out(groups, adaptive.held_out, work.config.seed)
    plan = work.steps(groups, world)
    reader = Reader(work, processor, model_config)
    mine = watched[rank::world]
    looks = [
        mine[at : at + LOOKED_AT] for at in range(0, math.ceil(len(watched) / world), LOOKED_AT)
    ]
    trackers = make_trackers(work, outside.events, progress.history) if rank == 0 else []
    start_seconds = time.monotonic() - began
    hands = [[groups[index] for index in step[rank]] for step in plan[progress.step :]]
    over = adaptive is not None and bool(progress.history) and plateaued(progress.history, adaptive)
    for ready in reader.ahead([] if over else hands):
        entry = one_step(ready, progress, len(plan))
        if adaptive is not None and progress.step % adaptive.every_steps == 0:
            entry |= one_step.look(reader.ahead(looks))
        if rank == 0:
            _show(work.name, entry, len(plan), trackers, outside.tell)
            outside.observe(entry)
        reason = _must_stop(work, progress, last=progress.step == len(plan))
        if (
            reason is None
            and progress.step % work.config.save_every_steps == 0
            and progress.step < len(plan)
        ):
            reason = _save(learner.engine, progress, outside.saves)
        if reason is not None:
            return {"stopped": reason}
        if adaptive is not None and plateaued(progress.history, adaptive):
            outside.tell(
                f"{work.name}  has stopped to improve on what is held out: over after step {progress.step}"
            )
            break
    facts = _facts(work, groups, progress, len(plan))
    if facts["last"] is None:
        return {
            "stopped": f"none of its {len(groups)} groups could be trained on, {progress.skipped[0]['message']} for one"
        }
    weights = deepspeed.trained_weights(learner.engine.module.model)
    if rank == 0:
        for tracker in trackers:
            tracker.finish()
        save_merged(work.start, weights, work.lora, work.dtype, outside.result, processor)
        for name, entries in (("history", progress.history), ("skipped", progress.skipped)):
            (outside.result / f"{name}.jsonl").write_text(
                "".join(json.dumps(entry) + "\n" for entry in entries)
            )
    return facts | {
        "start_seconds": round(start_seconds, 2),
        "seconds": round(time.monotonic() - began, 2),
    }


def _must_stop(work: Work, progress: Progress, last: bool) -> str | None:
    limits = work.config.health
    reason = wrong(progress.history, limits)
    if reason is None:
        reason = too_many_skipped(len(progress.skipped), progress.seen, limits, last)
        if reason is not None:
            reason += f"; {progress.skipped[-1]['message']} for one"
    return reason
