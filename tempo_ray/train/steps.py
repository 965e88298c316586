"""Groups of all workers -> one optimiser step, or one look at what is held out.

Every decision that changes how many times the model is called (groups that cannot be read, micro-batches) is taken from
numbers that all workers have, so that all make the same calls; ZeRO-3 would wait for ever otherwise.
"""

import math
import resource
import sys
import time
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from typing import Any

import torch
import torch.distributed as dist

from tempo_ray.train import deepspeed
from tempo_ray.train.batch import Batch, Tokens, Unusable, pack, read_group, split
from tempo_ray.train.curriculum import Group
from tempo_ray.train.learner import Learner, Work, align_losses, sft_losses
from tempo_ray.train.saves import gathered

Skipped = dict[str, str]
HANDS_AHEAD = 2


@dataclass(frozen=True)
class Ready:
    """A worker's groups of one step in packed rows, and why some are not among them."""

    rows: list[Batch]
    skipped: list[Skipped]
    groups: int
    """Read or skipped."""


@dataclass
class Progress:
    """What a save carries besides the weights; the same on all workers."""

    step: int = 0
    seen: int = 0
    history: list[dict[str, float]] = field(default_factory=list)
    skipped: list[Skipped] = field(default_factory=list)
    seconds: float = 0.0


@dataclass(frozen=True)
class Reader:
    """Groups -> packed rows on this worker, some hands ahead of their use."""

    work: Work
    processor: Any
    model_config: Any

    def read(self, group: Group) -> list[Tokens] | Skipped:
        config = self.work.config
        try:
            found = read_group(
                self.processor, self.model_config, group, config.frames, config.max_tokens
            )
        except Unusable as error:
            return {"uri": group.uri, "reason": error.reason, "message": str(error)}
        return [replace(one, pixels=one.pixels.to(self.work.dtype)) for one in found]

    def packed(self, reading: Sequence[Future[list[Tokens] | Skipped]]) -> Ready:
        """Waits for the groups of a hand."""
        found = [one.result() for one in reading]
        kept = [tokens for one in found if isinstance(one, list) for tokens in one]
        rows = [pack(row) for row in split(kept, self.work.config.max_tokens)]
        return Ready(rows, [one for one in found if isinstance(one, dict)], len(found))

    def ahead(self, hands: Sequence[Sequence[Group]]) -> Iterator[Ready]:
        threads = max(1, int(self.work.config.workers.cpus) - 1)
        coming: deque[Future[Ready]] = deque()
        with ThreadPoolExecutor(threads) as readers, ThreadPoolExecutor(1) as packer:
            for hand in hands:
                coming.append(
                    packer.submit(self.packed, [readers.submit(self.read, group) for group in hand])
                )
                if len(coming) > HANDS_AHEAD:
                    yield coming.popleft().result()
            while coming:
                yield coming.popleft().result()


def _sum(values: dict[str, torch.Tensor], device: torch.device) -> dict[str, float]:
    """Sums over all workers; every worker brings the same names."""
    flat = torch.stack([value.detach().to(device, torch.float64) for value in values.values()])
    dist.all_reduce(flat)
    return dict(zip(values, flat.tolist(), strict=True))


def _memory_gb(device: torch.device) -> float:
    """The most that this process has held: of the GPU, or without one of the machine."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 1e9
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak * (1 if sys.platform == "darwin" else 1024) / 1e9


class Steps:
    """One call is one optimiser step, the same number of forwards and backwards on every worker."""

    def __init__(self, work: Work, learner: Learner, spare: Tokens) -> None:
        self.work, self.learner, self.spare = work, learner, spare

    def _filled(self, rows: list[Batch], count: int) -> list[Batch]:
        return rows + [pack([self.spare], weight=0.0)] * (count - len(rows))

    def _losses(self, batch: Batch) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        if self.work.kind == "align":
            return align_losses(self.learner, batch, self.work.config.align.loss)
        return sft_losses(self.learner, batch)

    def _units(self, rows: Sequence[Batch]) -> int:
        """What the loss is the mean of: pairs, or answer tokens."""
        return sum(len(row.chosen if self.work.kind == "align" else row.target) for row in rows)

    def __call__(self, ready: Ready, progress: Progress, steps: int) -> dict[str, float]:
        """Trains on what all workers have kept. Moves `progress` on; returns its new entry: means over all workers."""
        began = time.monotonic()
        tokens_here = sum(row.inputs["input_ids"].numel() for row in ready.rows)
        mine = (self._units(ready.rows), len(ready.rows), tokens_here, ready.groups, ready.skipped)
        units, rows, tokens, seen, skips = zip(*gathered(mine), strict=True)
        progress.seen += sum(seen)
        progress.skipped += [entry for one in skips for entry in one]
        rate = deepspeed.learning_rate(progress.step, steps, self.work.optimizer)
        progress.step += 1
        entry: dict[str, float] = {"step": progress.step, "units": sum(units), "lr": rate}
        if sum(units):
            entry |= self._update(ready.rows, sum(units), max(rows), rate)
        seconds = time.monotonic() - began
        progress.seconds += seconds
        entry |= {"seconds": seconds, "tokens_per_second": sum(tokens) / seconds}
        if self.work.kind == "align":
            entry["pairs_per_second"] = sum(units) / seconds
        entry["memory_gb"] = _memory_gb(self.learner.engine.device)
        progress.history.append(entry)
        return entry

    def _update(self, rows: list[Batch], units: int, count: int, rate: float) -> dict[str, float]:
        """`units` and `count` (micro-batches) are those of all workers."""
        engine = self.learner.engine
        sums: dict[str, torch.Tensor] = {}
        for number, batch in enumerate(self._filled(rows, count)):
            batch = batch.to(engine.device)
            losses, metrics = self._losses(batch)
            engine.set_gradient_accumulation_boundary(number == count - 1)
            # DeepSpeed takes the mean over the workers; ours is the mean over what they all trained on
            engine.backward(losses.sum() * (batch.weight * dist.get_world_size() / units))
            _add(sums, {"loss": losses.detach()} | metrics, batch.weight)
        means = {name: value / units for name, value in _sum(sums, engine.device).items()}
        if math.isfinite(means["loss"]):
            for group in engine.optimizer.param_groups:
                group["lr"] = rate
            engine.step()
            norm = engine.get_global_grad_norm()
            if norm is not None:  # zero_stage 0 does not keep it
                means["grad_norm"] = float(norm)
        return means

    @torch.no_grad()
    def look(self, hands: Iterator[Ready]) -> dict[str, float]:
        """Reward accuracy and margin on what is held out, over all workers; each brings as many hands."""
        sums: dict[str, torch.Tensor] = {}
        seen = 0
        for hand in hands:
            told = gathered((self._units(hand.rows), len(hand.rows)))
            seen += sum(units for units, _ in told)
            for batch in self._filled(hand.rows, max(rows for _, rows in told)):
                batch = batch.to(self.learner.engine.device)
                losses, metrics = self._losses(batch)
                named = {
                    "loss": losses,
                    "accuracy": metrics["accuracy"],
                    "margin": metrics["margin"],
                }
                _add(sums, named, batch.weight)
        if not seen:
            return {}
        return {
            f"held_out_{name}": value / seen
            for name, value in _sum(sums, self.learner.engine.device).items()
        }


def _add(sums: dict[str, torch.Tensor], values: dict[str, torch.Tensor], weight: float) -> None:
    for name, value in values.items():
        sums[name] = sums.get(name, 0.0) + value.sum() * weight
