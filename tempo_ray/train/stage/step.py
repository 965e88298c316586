"""Packed rows of all ranks -> one optimiser step, or one held-out evaluation.

Every decision that changes how often the model is called (unreadable examples, numbers of rows) is
made from numbers that all ranks have, so that all make the same calls: ZeRO-3 would hang otherwise.
"""

import math
import resource
import sys
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import torch
import torch.distributed as dist

from tempo_ray.records import StepMetrics
from tempo_ray.train.batch import PackedRow, pack
from tempo_ray.train.policy import Policy
from tempo_ray.train.sequences import ExampleTokens
from tempo_ray.train.stage.collectives import all_gather
from tempo_ray.train.stage.context import StageContext
from tempo_ray.train.stage.prefetch import RankRows, SkippedExample
from tempo_ray.train.stage.zero import learning_rate

HELD_OUT_METRICS = ("accuracy", "margin")


@dataclass
class Progress:
    """What a checkpoint holds beside the weights; the same on all ranks."""

    step: int = 0
    examples: int = 0
    """Trained on or skipped so far."""
    skipped: list[SkippedExample] = field(default_factory=list)
    history: list[StepMetrics] = field(default_factory=list)
    seconds: float = 0.0
    """In optimiser steps, their waits for data included."""

    def to_state(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_state(cls, state: Mapping[str, Any]) -> "Progress":
        skipped = [SkippedExample(**example) for example in state["skipped"]]
        return cls(**{**state, "skipped": skipped})


@dataclass(frozen=True)
class _RankCounts:
    """What a rank tells the others about its rows of a step."""

    units: int
    rows: int
    tokens: int
    examples: int
    skipped: list[SkippedExample]
    data_seconds: float


@dataclass(frozen=True)
class StepRunner:
    """Runs the same number of forward and backward passes on every rank; all ranks must call it."""

    context: StageContext
    policy: Policy
    dummy: ExampleTokens
    """Fills the place of rows that a rank lacks, with weight 0."""

    def train(
        self, rank_rows: RankRows, data_seconds: float, progress: Progress, steps: int
    ) -> StepMetrics:
        """One optimiser step, of `steps` in all, whose rows this rank has waited `data_seconds`
        for. Advances `progress`, but for the history; returns the metrics, means over the units of
        all ranks."""
        began = time.monotonic() - data_seconds
        ranks = all_gather(self._count(rank_rows, data_seconds))
        units = sum(rank.units for rank in ranks)
        unit = self.context.objective.unit
        rate = learning_rate(progress.step, steps, self.context.objective.config.optimizer)
        progress.examples += sum(rank.examples for rank in ranks)
        progress.skipped += [example for rank in ranks for example in rank.skipped]
        progress.step += 1
        metrics: StepMetrics = {"step": progress.step, unit: units, "lr": rate}
        if units:
            metrics |= self._update(rank_rows.rows, units, max(rank.rows for rank in ranks), rate)
        seconds = time.monotonic() - began
        progress.seconds += seconds
        tokens = sum(rank.tokens for rank in ranks)
        return metrics | {
            "seconds": seconds,
            "data_seconds": max(rank.data_seconds for rank in ranks),
            "skipped_share": len(progress.skipped) / progress.examples,
            "tokens_per_second": tokens / seconds,
            f"{unit}_per_second": units / seconds,
            "memory_gb": _peak_memory_gb(self.policy.engine.device),
        }

    def _count(self, rank_rows: RankRows, data_seconds: float = 0.0) -> _RankCounts:
        rows = rank_rows.rows
        return _RankCounts(
            units=self._units(rows),
            rows=len(rows),
            tokens=sum(row.inputs["input_ids"].numel() for row in rows),
            examples=rank_rows.examples,
            skipped=rank_rows.skipped,
            data_seconds=data_seconds,
        )

    def _units(self, rows: Sequence[PackedRow]) -> int:
        return sum(self.context.objective.units(row) for row in rows)

    def _update(
        self, rows: Sequence[PackedRow], units: int, count: int, rate: float
    ) -> StepMetrics:
        """`units` are those of all ranks, `count` the most rows that a rank has."""
        engine = self.policy.engine
        sums: dict[str, torch.Tensor] = {}
        for number, row in enumerate(self._padded(rows, count)):
            losses, metrics = self.context.objective.losses(self.policy, row)
            engine.set_gradient_accumulation_boundary(number == count - 1)
            # DeepSpeed takes the mean over ranks; the loss is the mean over the units of all ranks
            engine.backward(losses.sum() * (row.weight * dist.get_world_size() / units))
            _add(sums, {"loss": losses.detach()} | metrics, row.weight)
        means = {name: total / units for name, total in self._sum(sums).items()}
        if math.isfinite(means["loss"]):
            for parameters in engine.optimizer.param_groups:
                parameters["lr"] = rate
            engine.step()
            norm = engine.get_global_grad_norm()
            if norm is not None:  # zero_stage 0 does not record it
                means["grad_norm"] = float(norm)
        return means

    @torch.no_grad()
    def evaluate(self, batches: Iterable[RankRows]) -> StepMetrics:
        """One held-out evaluation: loss, accuracy and margin, means over all ranks; all ranks must
        have as many batches. Empty if none of the examples can be read."""
        sums: dict[str, torch.Tensor] = {}
        units = 0
        for batch in batches:
            ranks = all_gather(self._count(batch))
            units += sum(rank.units for rank in ranks)
            for row in self._padded(batch.rows, max(rank.rows for rank in ranks)):
                losses, metrics = self.context.objective.losses(self.policy, row)
                kept = {name: metrics[name] for name in HELD_OUT_METRICS}
                _add(sums, {"loss": losses} | kept, row.weight)
        if not units:
            return {}
        return {f"held_out_{name}": total / units for name, total in self._sum(sums).items()}

    def _padded(self, rows: Sequence[PackedRow], count: int) -> Iterator[PackedRow]:
        """`count` rows on the engine's device, dummies of weight 0 at their end."""
        dummies = [pack([self.dummy], weight=0.0)] * (count - len(rows))
        for row in (*rows, *dummies):
            yield row.to(self.policy.engine.device)

    def _sum(self, values: dict[str, torch.Tensor]) -> dict[str, float]:
        """Sums over all ranks; every rank has the same names."""
        device = self.policy.engine.device
        flat = torch.stack([value.detach().to(device, torch.float64) for value in values.values()])
        dist.all_reduce(flat)
        return dict(zip(values, flat.tolist(), strict=True))


def _add(sums: dict[str, torch.Tensor], values: dict[str, torch.Tensor], weight: float) -> None:
    for name, value in values.items():
        sums[name] = sums.get(name, 0.0) + value.sum() * weight


def _peak_memory_gb(device: torch.device) -> float:
    """Of the GPU, or without one of this process, since it started."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 1e9
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    bytes_per_unit = 1 if sys.platform == "darwin" else 1024
    return peak * bytes_per_unit / 1e9
