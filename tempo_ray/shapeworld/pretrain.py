"""A family's name -> a tiny Video LLM trained from nothing.

It plays the paper's pre-trained model: it sees what is in a shot, writes faithfully what it is told
in words, and ties whole videos to time only weakly (see tasks.py).
"""

import math
import os
import platform
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import PreTrainedModel

from tempo_ray.config import PretrainConfig
from tempo_ray.job import Log
from tempo_ray.records import PretrainSummary
from tempo_ray.shapeworld import build
from tempo_ray.shapeworld.batches import Batch, Predictions, collate, predict, tokenize
from tempo_ray.shapeworld.exam import examine
from tempo_ray.shapeworld.language import ABOUT_ORDER
from tempo_ray.shapeworld.record import PretrainRecord, PretrainSettings
from tempo_ray.shapeworld.story import draw_split
from tempo_ray.shapeworld.tasks import (
    EVERYTHING,
    LETTERS,
    MIX,
    NEIGHBOURS,
    SINGLE_SHOTS,
    Example,
    Practice,
    Tasks,
)
from tempo_ray.shapeworld.vision import initialise, pretrain_vision
from tempo_ray.train.attention import use_packed_attention
from tempo_ray.train.batch import split_into_rows

LONGEST = 12
"""Events of the longest stories."""


@dataclass
class Progress:
    """How far the training has come."""

    step: int = 0
    longest: int = 3
    """Events of the longest stories in words that are practised."""
    mastered: list[tuple[int, int]] = field(default_factory=list)
    """(step, events)."""
    curve: list[tuple[int, float]] = field(default_factory=list)
    """(step, loss), every 25 steps."""
    seconds: float = 0.0


def pretrain_job(config: PretrainConfig, log: Log) -> PretrainSummary:
    """Trains a model in `config.output`, examines it, and completes its record. Called again after
    an interruption, it resumes from the last checkpoint."""
    torch.set_num_threads(config.threads)
    output = Path(config.output)
    settings = PretrainSettings(config.family, seed=config.seed, steps=config.steps)
    record = pretrain(settings, output, log)
    examination = examine(output)
    replace(record, examination=examination).write(output)
    return PretrainSummary(asdict(examination))


def pretrain(settings: PretrainSettings, output: Path, log: Log = print) -> PretrainRecord:
    """Trains the model and writes its folder and record, or resumes from the last checkpoint."""
    torch.manual_seed(settings.seed)
    tokenizer = build.make_tokenizer()
    processor = build.make_processor(settings.family, tokenizer)
    model = build.make_model(settings.family, tokenizer)
    initialise(model)
    use_packed_attention(model, "sdpa")
    optimizers = make_optimizers(model, settings)
    checkpoint = output.with_name(f".{output.name}.pretraining") / "checkpoint.pt"
    progress = Progress()
    if checkpoint.exists():
        progress = _load_checkpoint(checkpoint, model, optimizers)
        log(f"resumes after step {progress.step}")
    else:
        checkpoint.parent.mkdir(parents=True, exist_ok=True)
    trainer = _Trainer(settings, model, processor, optimizers)
    model.train()
    began = time.monotonic() - progress.seconds
    for step in range(progress.step, settings.steps):
        if step == settings.language_steps:
            pretrain_vision(model, processor, settings, log)
        loss = trainer.step(step, practice_at(step, settings, progress.longest))
        progress.step = step + 1
        progress.seconds = time.monotonic() - began
        if progress.step % 25 == 0:
            progress.curve.append((progress.step, round(loss, 4)))
            log(f"step {progress.step}/{settings.steps}  loss {loss:.4f}  {progress.seconds:.0f} s")
        in_words = settings.letter_steps <= progress.step <= settings.neighbour_steps
        if in_words and progress.step % settings.check_every == 0:
            share = trainer.mastery(progress.step, progress.longest)
            log(f"stories of {progress.longest} events in words: {share:.2f} right")
            if share >= settings.mastery:
                progress.mastered.append((progress.step, progress.longest))
                progress.longest = min(progress.longest + 1, LONGEST)
        if progress.step % settings.save_every == 0 or progress.step == settings.steps:
            _save_checkpoint(checkpoint, model, optimizers, progress)
    model.eval()
    build.save(model, processor, output)
    record = _record(settings, model, progress)
    record.write(output)
    return record


def practice_at(step: int, settings: PretrainSettings, longest: int) -> Practice:
    """What is practised at a step. `longest`: events of the longest stories in words by then."""
    if step < settings.letter_steps:
        return LETTERS
    if step < settings.neighbour_steps:
        return Practice({"letters": 0.25, "words": 0.75}, NEIGHBOURS, longest)
    if step < settings.language_steps:
        return Practice({"words": 1.0}, EVERYTHING, LONGEST)
    if step < settings.language_steps + settings.single_shot_steps:
        return SINGLE_SHOTS
    return Practice(MIX, EVERYTHING, LONGEST)


@dataclass(frozen=True)
class _Trainer:
    settings: PretrainSettings
    model: PreTrainedModel
    processor: Any
    optimizers: Sequence[torch.optim.Optimizer]

    def step(self, step: int, practice: Practice) -> float:
        """One optimiser step; the mean loss. The examples depend on the step's number and the
        practice alone, so that a resumed run sees the same."""
        settings = self.settings
        for optimizer in self.optimizers:
            optimizer.zero_grad(set_to_none=True)
            for group in optimizer.param_groups:
                group["lr"] = group["initial_lr"] * _rate(step, settings)
        tasks = Tasks(settings.family, "train", settings.shuffled_share, settings.exchanges)
        rng = np.random.default_rng((settings.seed, step))
        rows = self._rows([tasks.draw(rng, practice) for _ in range(settings.batch)])
        weight = sum(float(row.weights.sum()) for row in rows)
        loss = 0.0
        for row in rows:
            part = self._predict(row).loss() / weight
            part.backward()
            loss += part.item()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        for optimizer in self.optimizers:
            optimizer.step()
        return loss

    @torch.no_grad()
    def mastery(self, step: int, events: int) -> float:
        """Share of right answers about the order of new stories in words with so many events."""
        settings = self.settings
        tasks = Tasks(settings.family, "train", settings.shuffled_share)
        rng = np.random.default_rng((settings.seed, 2, step))
        examples = [
            tasks.about(draw_split(rng, "train", events), "words", list(ABOUT_ORDER), rng)
            for _ in range(32)
        ]
        right = torch.cat([self._predict(row).right() for row in self._rows(examples)])
        return right.mean().item()

    def _rows(self, examples: Sequence[Example]) -> list[Batch]:
        sequences = tokenize(self.processor, self.model.config, examples)
        return [collate(row) for row in split_into_rows(sequences, self.settings.row_tokens)]

    def _predict(self, batch: Batch) -> Predictions:
        return predict(self.model, batch)


def make_optimizers(
    model: PreTrainedModel, settings: PretrainSettings
) -> tuple[torch.optim.Optimizer, ...]:
    """Muon for the matrices, AdamW for embeddings, norms and biases, as Muon's author has it.

    With AdamW alone, what the letters of options mean takes ten times as many examples.
    """
    named = list(model.named_parameters())
    matrices = [weight for name, weight in named if weight.ndim == 2 and "embed" not in name]
    inner = set(map(id, matrices))
    others = [weight for _, weight in named if id(weight) not in inner]
    optimizers = (
        torch.optim.Muon(
            matrices, lr=settings.muon_lr, momentum=0.95, weight_decay=settings.weight_decay
        ),
        torch.optim.AdamW(
            others, lr=settings.lr, betas=(0.9, 0.98), weight_decay=settings.weight_decay
        ),
    )
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            group["initial_lr"] = group["lr"]
    return optimizers


def _rate(step: int, settings: PretrainSettings) -> float:
    """Share of the learning rate: a linear warm-up, then all of it, and at the end a half cosine
    down to 2%."""
    if step < settings.warmup_steps:
        return (step + 1) / settings.warmup_steps
    decay = settings.decay_share * settings.steps
    share = max(0.0, (step - (settings.steps - decay)) / decay)
    return 0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * share))


def _load_checkpoint(
    file: Path, model: PreTrainedModel, optimizers: Sequence[torch.optim.Optimizer]
) -> Progress:
    state = torch.load(file, weights_only=True)
    model.load_state_dict(state["model"])
    for optimizer, saved in zip(optimizers, state["optimizers"], strict=True):
        optimizer.load_state_dict(saved)
    return Progress(**state["progress"])


def _save_checkpoint(
    file: Path,
    model: PreTrainedModel,
    optimizers: Sequence[torch.optim.Optimizer],
    progress: Progress,
) -> None:
    state = {
        "model": model.state_dict(),
        "optimizers": [optimizer.state_dict() for optimizer in optimizers],
        "progress": asdict(progress),
    }
    part = file.with_suffix(".part")
    torch.save(state, part)
    part.rename(file)


def _record(
    settings: PretrainSettings, model: PreTrainedModel, progress: Progress
) -> PretrainRecord:
    examples = settings.steps * settings.batch
    return PretrainRecord(
        settings=settings,
        mix=MIX,
        data=f"{examples} examples, each drawn anew from the train split of ShapeWorld",
        mastered=progress.mastered,
        parameters=sum(parameter.numel() for parameter in model.parameters()),
        seconds=round(progress.seconds),
        loss_curve=progress.curve,
        machine=(
            f"{os.cpu_count()} CPU cores, {platform.machine()}, {torch.get_num_threads()} used"
        ),
        date=time.strftime("%Y-%m-%d"),
        versions={name: version(name) for name in ("torch", "transformers")},
    )
