"""The inputs of a stage beside its examples, and where it reports and writes."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch

from tempo_ray.config import TrainConfig
from tempo_ray.records import StageSpec, StepMetrics
from tempo_ray.train.objective import Objective

_DTYPES = {"bfloat16": torch.bfloat16, "float32": torch.float32}


@dataclass(frozen=True)
class StageContext:
    """What decides a stage's training beside its examples; the same on all ranks."""

    config: TrainConfig
    spec: StageSpec
    objective: Objective
    start: str
    """Local folder, or hub name, of the model that the stage starts from."""
    initial: str
    """The same of the model that the run starts from."""

    @property
    def seed(self) -> int:
        """Each stage draws its own adapter and its own order of examples."""
        return self.config.seed + self.spec.number

    @property
    def dtype(self) -> torch.dtype:
        return _DTYPES[self.config.deepspeed.dtype]

    @property
    def attention(self) -> str:
        """`sdpa` or `flex`; FlexAttention has no backward pass on a CPU."""
        if self.config.attention != "auto":
            return self.config.attention
        return "flex" if self.config.workers.gpus else "sdpa"


@dataclass(frozen=True)
class StageIO:
    """Where a stage reports and writes."""

    log: Callable[[str], object]
    """Takes human-readable lines."""
    observe: Callable[[StepMetrics], object]
    """Takes rank 0's metrics of every step."""
    checkpoints: str
    """A folder or URI that all ranks see."""
    output: Path
    """Rank 0's local folder for adapter/, merged/, history.jsonl and skipped.jsonl."""
    tensorboard: Path
    """Rank 0's local folder for the curves."""
