"""Groups of all workers -> one optimiser step, or one look at what is held out.

Every decision that changes how many times the model is called (groups that cannot be read, micro-batches) is taken from
numbers that all workers have, so that all make the same calls; ZeRO-3 would wait for ever otherwise.
"""

import math
import resource
import sys
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.distributed as dist

from tempo_ray.train import deepspeed
from tempo_ray.train.batch import Batch, Tokens, Unusable, pack, read_group, split
from tempo_ray.train.curriculum import Group
from tempo_ray.train.learner import Learner, Work, align_losses, sft_losses

Skipped = dict[str, str]
Ready = tuple[list[Tokens], list[Skipped]]
"""Groups that can be trained on, and why the others cannot."""


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
    """Group -> Tokens on this worker, one hand ahead of its use."""

    work: Work
    processor: Any
    model_config: Any

    def read(self, groups: Sequence[Group]) -> Ready:
        kept, skipped = [], []
        config = self.work.config
        for group in groups:
            try:
                kept += read_group(self.processor, self.model_config, group, config.frames, config.max_tokens)
            except Unusable as error:
                skipped.append({"uri": group.uri, "reason": error.reason, "message": str(error)})
        return kept, skipped

    def ahead(self, hands: Sequence[Sequence[Group]]) -> Iterator[Ready]:
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

    def _rows(self, kept: Sequence[Tokens]) -> list[list[Tokens]]:
        return split(kept, self.work.config.max_tokens)

    def _batches(self, kept: Sequence[Tokens], count: int) -> list[Batch]:
        real = [pack(row) for row in self._rows(kept)]
        return real + [pack([self.spare], weight=0.0)] * (count - len(real))

    def _losses(self, batch: Batch) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        if self.work.kind == "align":
            return align_losses(self.learner, batch, self.work.config.align.loss)
        return sft_losses(self.learner, batch)

    def _units(self, kept: Sequence[Tokens]) -> int:
        """What the loss is the mean of: pairs, or answer tokens."""
        return sum(len(one.pairs) if self.work.kind == "align" else one.answer_tokens for one in kept)

    def __call__(self, ready: Ready, progress: Progress, steps: int) -> dict[str, float]:
        """Trains on what all workers have kept. Moves `progress` on; returns its new entry: means over all workers."""
        began = time.monotonic()
        kept, skipped = ready
        mine = (self._units(kept), len(self._rows(kept)), sum(map(len, kept)), len(kept) + len(skipped), skipped)
        units, rows, tokens, seen, skips = zip(*_gather(mine), strict=True)
        progress.seen += sum(seen)
        progress.skipped += [entry for one in skips for entry in one]
        rate = deepspeed.learning_rate(progress.step, steps, self.work.optimizer)
        progress.step += 1
        entry: dict[str, float] = {"step": progress.step, "units": sum(units), "lr": rate}
        if sum(units):
            entry |= self._update(kept, sum(units), max(rows), rate)
        seconds = time.monotonic() - began
        progress.seconds += seconds
        entry |= {"seconds": seconds, "tokens_per_second": sum(tokens) / seconds}
        if self.work.kind == "align":
            entry["pairs_per_second"] = sum(units) / seconds
        entry["memory_gb"] = _memory_gb(self.learner.engine.device)
        progress.history.append(entry)
        return entry

    def _update(self, kept: Sequence[Tokens], units: int, count: int, rate: float) -> dict[str, float]:
        """`units` and `count` (micro-batches) are those of all workers."""
        engine = self.learner.engine
        sums: dict[str, torch.Tensor] = {}
        for number, batch in enumerate(self._batches(kept, count)):
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
        for kept, _ in hands:
            told = _gather((self._units(kept), len(self._rows(kept))))
            seen += sum(units for units, _ in told)
            for batch in self._batches(kept, max(rows for _, rows in told)):
                batch = batch.to(self.learner.engine.device)
                losses, metrics = self._losses(batch)
                named = {"loss": losses, "accuracy": metrics["accuracy"], "margin": metrics["margin"]}
                _add(sums, named, batch.weight)
        if not seen:
            return {}
        return {f"held_out_{name}": value / seen for name, value in _sum(sums, self.learner.engine.device).items()}


def _add(sums: dict[str, torch.Tensor], values: dict[str, torch.Tensor], weight: float) -> None:
    for name, value in values.items():
        sums[name] = sums.get(name, 0.0) + value.sum() * weight
