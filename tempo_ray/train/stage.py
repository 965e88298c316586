"""One stage's groups and the model it starts from -> trained weights: what every worker runs.

Needs torch's process group and nothing of Ray: saving and resuming are handed in. Every decision that changes how many
times the model is called (groups that cannot be read, micro-batches, a stop) is taken from numbers that all workers have,
so that all make the same calls; ZeRO-3 would wait for ever otherwise.
"""

import json
import math
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch.utils.tensorboard import SummaryWriter

from tempo_ray.models.vlm import load_model_config, load_processor
from tempo_ray.train import deepspeed
from tempo_ray.train.batch import Batch, Tokens, Unusable, blank, pack, read_group, split
from tempo_ray.train.curriculum import Group
from tempo_ray.train.learner import Learner, Work, align_losses, make_learner, sft_losses
from tempo_ray.train.lora import save_merged

TAG = "state"
PROGRESS_LINES = 20
SHOWN = ("loss", "accuracy", "margin")


@dataclass
class Progress:
    """What a save carries besides the weights; the same on all workers."""

    step: int = 0
    history: list[dict[str, float]] = field(default_factory=list)
    skipped: list[dict[str, str]] = field(default_factory=list)
    seconds: float = 0.0


@dataclass(frozen=True)
class Reader:
    """Group -> Tokens on this worker, one step ahead of the training."""

    work: Work
    groups: Sequence[Group]
    processor: Any
    model_config: Any

    def read(self, indices: Sequence[int]) -> tuple[list[Tokens], list[dict[str, str]]]:
        """The groups that can be trained on, and why the others cannot."""
        kept, skipped = [], []
        for index in indices:
            group = self.groups[index]
            try:
                config = self.work.config
                kept.append(read_group(self.processor, self.model_config, group, config.frames, config.max_tokens))
            except Unusable as error:
                skipped.append({"uri": group.uri, "reason": error.reason, "message": str(error)})
        return kept, skipped

    def ahead(self, hands: Sequence[Sequence[int]]) -> Iterator[tuple[list[Tokens], list[dict[str, str]]]]:
        with ThreadPoolExecutor(max_workers=1) as pool:
            coming = [pool.submit(self.read, hand) for hand in hands[:1]]
            for following in [*hands[1:], None]:
                ready = coming.pop().result()
                if following is not None:
                    coming.append(pool.submit(self.read, following))
                yield ready


def _gather(value: Any) -> list[Any]:
    """Every worker's value, in the order of their ranks."""
    values = [None] * dist.get_world_size()
    dist.all_gather_object(values, value)
    return values


def _sum(values: dict[str, torch.Tensor], device: torch.device) -> dict[str, float]:
    """Sums over all workers; every worker brings the same names."""
    flat = torch.stack([value.detach().to(device, torch.float64) for value in values.values()])
    dist.all_reduce(flat)
    return dict(zip(values, flat.tolist(), strict=True))


class Steps:
    """One call is one optimiser step, the same number of forwards and backwards on every worker."""

    def __init__(self, work: Work, learner: Learner, spare: Tokens) -> None:
        self.work, self.learner, self.spare = work, learner, spare

    def batches(self, kept: Sequence[Tokens], count: int) -> list[Batch]:
        real = [pack(row) for row in split(kept, self.work.config.max_tokens)]
        return real + [pack([self.spare], weight=0.0)] * (count - len(real))

    def losses(self, batch: Batch) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        if self.work.kind == "align":
            return align_losses(self.learner, batch, self.work.config.align.loss)
        return sft_losses(self.learner, batch)

    def units(self, kept: Sequence[Tokens]) -> int:
        """What the loss is the mean of: pairs, or answer tokens."""
        return sum(one.answers - 1 if self.work.kind == "align" else one.answer_tokens for one in kept)

    def __call__(self, kept: Sequence[Tokens], skipped: list[dict[str, str]], progress: Progress, steps: int) -> dict[str, float]:
        """Trains on what all workers have kept. Moves `progress` on; returns its new entry: means over all workers."""
        began = time.monotonic()
        told = _gather((self.units(kept), len(split(kept, self.work.config.max_tokens)), sum(map(len, kept)), skipped))
        units, count, tokens = sum(one[0] for one in told), max(one[1] for one in told), sum(one[2] for one in told)
        progress.skipped += [entry for one in told for entry in one[3]]
        rate = deepspeed.learning_rate(progress.step, steps, self.work.optimizer)
        progress.step += 1
        entry: dict[str, float] = {"step": progress.step, "units": units, "lr": rate}
        if units:
            entry |= self._update(kept, units, count, rate)
        seconds = time.monotonic() - began
        progress.seconds += seconds
        entry |= {"seconds": seconds, "tokens_per_second": tokens / seconds}
        progress.history.append(entry)
        return entry

    def _update(self, kept: Sequence[Tokens], units: int, count: int, rate: float) -> dict[str, float]:
        """`units` and `count` (micro-batches) are those of all workers."""
        engine = self.learner.engine
        sums: dict[str, torch.Tensor] = {}
        for number, batch in enumerate(self.batches(kept, count)):
            batch = batch.to(engine.device)
            losses, metrics = self.losses(batch)
            engine.set_gradient_accumulation_boundary(number == count - 1)
            # DeepSpeed takes the mean over the workers; ours is the mean over what they all trained on
            engine.backward(losses.sum() * (batch.weight * dist.get_world_size() / units))
            for name, value in ({"loss": losses.detach()} | metrics).items():
                sums[name] = sums.get(name, 0.0) + value.sum() * batch.weight
        means = {name: value / units for name, value in _sum(sums, engine.device).items()}
        if math.isfinite(means["loss"]):
            for group in engine.optimizer.param_groups:
                group["lr"] = rate
            engine.step()
            norm = engine.get_global_grad_norm()
            if norm is not None:  # zero_stage 0 does not keep it
                means["grad_norm"] = float(norm)
        return means


def wrong(entry: dict[str, float]) -> str | None:
    """Why training must stop, or None."""
    for name in ("loss", "grad_norm"):
        if not math.isfinite(entry.get(name, 0.0)):
            return (
                f"the {name.replace('_', ' ')} of step {int(entry['step'])} is {entry[name]}: lower the learning rate, "
                "or train in float32 (deepspeed.dtype)"
            )
    return None


def _show(name: str, entry: dict[str, float], steps: int, writer: SummaryWriter, tell: Callable[[str], object]) -> None:
    """TensorBoard at every step, a line at some."""
    step = int(entry["step"])
    for key, value in entry.items():
        writer.add_scalar(f"{name}/{key}", value, step)
    if step % math.ceil(steps / PROGRESS_LINES) == 0 or step in (1, steps):
        shown = "  ".join(f"{key} {entry[key]:.4f}" for key in SHOWN if key in entry) or "nothing readable"
        tell(f"{name}  step {step}/{steps}  {shown}  {entry['seconds']:.2f} s")


def _facts(work: Work, groups: Sequence[Group], progress: Progress, steps: int) -> dict[str, Any]:
    """What stage.json says."""
    trained = [entry for entry in progress.history if "loss" in entry]
    return {
        "name": work.name,
        "kind": work.kind,
        "groups": len(groups),
        "pairs": sum(len(group.rejected) for group in groups),
        "videos": len({group.uri for group in groups}),
        "steps": steps,
        "skipped": dict(Counter(entry["reason"] for entry in progress.skipped)),
        "first": trained[0] if trained else None,
        "last": trained[-1] if trained else None,
        "training_seconds": round(progress.seconds, 2),
        "workers": dist.get_world_size(),
        "zero_stage": work.config.deepspeed.zero_stage,
        "dtype": work.config.deepspeed.dtype,
    }


def _write_state(engine: Any, progress: Progress, folder: str) -> None:
    engine.save_checkpoint(folder, tag=TAG, client_state={"progress": asdict(progress)}, exclude_frozen_parameters=True)


def _read_state(engine: Any, folder: str | None) -> Progress:
    if folder is None:
        return Progress()
    _, state = engine.load_checkpoint(folder, tag=TAG, load_module_strict=False)
    return Progress(**state["progress"])


def train_stage(
    work: Work,
    groups: Sequence[Group],
    resume_from: str | None,
    save: Callable[[Callable[[str], None], dict[str, float]], None],
    tell: Callable[[str], object],
    result: Path,
    events: Path,
) -> dict[str, Any]:
    """Trains and returns the stage's facts. Rank 0 leaves adapter/, merged/, history and what was skipped in `result`, and
    TensorBoard's events in `events`.

    `save` is given a function that writes this worker's part of the state into a folder, `tell` lines for a person. Where
    training had to stop, `stopped` in the facts says why, and `result` stays empty.
    """
    began = time.monotonic()
    rank = dist.get_rank()
    learner = make_learner(work)
    processor, model_config = load_processor(work.start), load_model_config(work.start)
    progress = _read_state(learner.engine, resume_from)
    spare = blank(processor, model_config, 2 if work.kind == "align" else 1)
    one_step = Steps(work, learner, spare)
    plan = work.steps(groups, dist.get_world_size())
    reader = Reader(work, groups, processor, model_config)
    writer = SummaryWriter(str(events)) if rank == 0 else None
    start_seconds = time.monotonic() - began
    for kept, skipped in reader.ahead([step[rank] for step in plan[progress.step :]]):
        entry = one_step(kept, skipped, progress, len(plan))
        if writer is not None:
            _show(work.name, entry, len(plan), writer, tell)
        reason = wrong(entry)
        if reason is not None:
            return {"stopped": reason}
        if progress.step % work.config.save_every_steps == 0 and progress.step < len(plan):
            save(lambda folder: _write_state(learner.engine, progress, folder), {"step": progress.step})
    facts = _facts(work, groups, progress, len(plan))
    if facts["last"] is None:
        return {"stopped": f"none of its {len(groups)} groups could be trained on, {progress.skipped[0]['message']} for one"}
    weights = deepspeed.trained_weights(learner.engine.module.model)
    if writer is not None:
        writer.close()
        save_merged(work.start, weights, work.lora, work.dtype, result)
        for name, entries in (("history", progress.history), ("skipped", progress.skipped)):
            (result / f"{name}.jsonl").write_text("".join(json.dumps(entry) + "\n" for entry in entries))
    return facts | {"start_seconds": round(start_seconds, 2), "seconds": round(time.monotonic() - began, 2)}
