"""A stage's settings -> the model in its engine, and the losses of a batch."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch

from tempo_ray.config import (
    AlignConfig,
    LoraConfig,
    LossConfig,
    OptimizerConfig,
    SftConfig,
    TrainConfig,
)
from tempo_ray.models.vlm import load_model
from tempo_ray.train import deepspeed
from tempo_ray.train.attention import use_packed_attention
from tempo_ray.train.batch import Batch
from tempo_ray.train.curriculum import Group, Step, plan_steps
from tempo_ray.train.lora import add_adapter, open_weights
from tempo_ray.train.loss import PairScores, kl_estimate, pair_losses
from tempo_ray.train.score import Scorer, answer_sums

Kind = Literal["align", "sft"]


@dataclass(frozen=True)
class Work:
    """What one stage needs; `start` and `initial` are local model folders or hub names."""

    config: TrainConfig
    name: str
    kind: Kind
    start: str
    initial: str
    number: int
    """The stage's place in the run; each stage draws its own adapter."""

    @property
    def part(self) -> AlignConfig | SftConfig:
        return self.config.align if self.kind == "align" else self.config.sft

    @property
    def optimizer(self) -> OptimizerConfig:
        return self.part.optimizer

    @property
    def lora(self) -> LoraConfig | None:
        return self.part.lora

    @property
    def train_vision(self) -> bool:
        return self.part.train_vision

    @property
    def reference(self) -> str | None:
        """The model that a reference of its own is made of; None where there is none, or it is this one without its adapter."""
        align = self.config.align
        if self.kind != "align" or align.loss.type == "simpo":
            return None
        model = self.start if align.reference == "stage" else self.initial
        return model if align.lora is None or model != self.start else None

    @property
    def dtype(self) -> torch.dtype:
        return getattr(torch, self.config.deepspeed.dtype)

    def steps(self, groups: Sequence[Group], workers: int) -> list[Step]:
        epochs = (
            self.config.align.curriculum.epochs if self.kind == "align" else self.config.sft.epochs
        )
        return plan_steps(
            [group.size for group in groups],
            self.part.batch,
            workers,
            epochs,
            self.config.seed + self.number,
        )


@dataclass(frozen=True)
class Learner:
    engine: Any
    reference: Any
    """An engine of its own, or None: then the reference is this model with its adapter off."""

    flex: bool = False
    """Attention by FlexAttention, in the place of SDPA."""

    def logps(self, batch: Batch) -> torch.Tensor:
        """(answer tokens,)"""
        batch = self._ready(batch)
        return self.engine(batch.inputs, batch.source, batch.target)[0]

    def both_logps(self, batch: Batch) -> tuple[torch.Tensor, torch.Tensor]:
        """(answer tokens,) each: the model's, and without gradient the reference's."""
        batch = self._ready(batch)
        given = (batch.inputs, batch.source, batch.target)
        if self.reference is None:
            return self.engine(*given, reference=True)
        with torch.no_grad():
            theirs = self.reference(*given)[0]
        return self.engine(*given)[0], theirs

    def _ready(self, batch: Batch) -> Batch:
        return batch.for_flex() if self.flex else batch


def attention_kind(config: TrainConfig) -> str:
    """`sdpa` or `flex`; FlexAttention has no backward on a CPU."""
    if config.attention != "auto":
        return config.attention
    return "flex" if config.workers.gpus else "sdpa"


def make_learner(work: Work, universal: bool = False) -> Learner:
    """`universal`: a universal checkpoint is to be loaded into it."""
    settings = work.config.deepspeed
    config = deepspeed.engine_config(settings, work.optimizer, universal)
    sharded = deepspeed.sharded_loading(settings, config)
    kind = attention_kind(work.config)
    model = use_packed_attention(load_model(work.start, work.dtype), kind)
    adapter = None
    if work.lora is None:
        open_weights(model, work.train_vision)
    else:
        adapter = add_adapter(model, work.lora, work.config.seed + work.number, work.train_vision)
    if settings.gradient_checkpointing:
        model.gradient_checkpointing_enable({"use_reentrant": False})
    model.train()
    torch.distributed.barrier()  # some have loaded sooner, and DeepSpeed's own group waits for ten minutes only
    engine = deepspeed.make_engine(Scorer(model, adapter), config, work.optimizer.weight_decay)
    reference = None
    if work.reference is not None:
        frozen = use_packed_attention(load_model(work.reference, work.dtype), kind).eval()
        reference = deepspeed.make_frozen_engine(Scorer(frozen), config)
    del sharded
    return Learner(engine, reference, kind == "flex")


def align_losses(
    learner: Learner, batch: Batch, config: LossConfig
) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    """(pairs,) losses and metrics."""
    logps, reference = (
        learner.both_logps(batch) if config.type != "simpo" else (learner.logps(batch), None)
    )
    if reference is None:
        return pair_losses(_scores(answer_sums(logps, batch), None, batch), config)
    ours, theirs = answer_sums(logps, batch), answer_sums(reference, batch)
    losses, metrics = pair_losses(_scores(ours, theirs, batch), config)
    kl = answer_sums(kl_estimate(logps.detach(), reference), batch) / batch.lengths
    return losses, metrics | {"kl": kl[batch.chosen]}


def _scores(ours: torch.Tensor, theirs: torch.Tensor | None, batch: Batch) -> PairScores:
    """(answers,) log-probs of whole answers -> those of the pairs."""
    chosen, rejected = batch.chosen, batch.rejected
    return PairScores(
        chosen=ours[chosen],
        rejected=ours[rejected],
        reference_chosen=None if theirs is None else theirs[chosen],
        reference_rejected=None if theirs is None else theirs[rejected],
        chosen_tokens=batch.lengths[chosen],
        rejected_tokens=batch.lengths[rejected],
    )


def sft_losses(learner: Learner, batch: Batch) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    """(answer tokens,) negative log-likelihoods."""
    return -learner.logps(batch), {}
