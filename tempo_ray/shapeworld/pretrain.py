"""A family's name -> a tiny Video LLM trained from nothing.

It plays the paper's pre-trained model: it sees what is in a shot, writes faithfully what it is told
in words, and ties whole videos to time only weakly (see tasks.py).
"""

import math
import os
import platform
import time
from dataclasses import asdict, dataclass, field, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import PretrainedConfig, PreTrainedModel

from tempo_ray.config import PretrainConfig
from tempo_ray.job import Log
from tempo_ray.records import PretrainSummary
from tempo_ray.shapeworld import build
from tempo_ray.shapeworld.batches import (
    Batch,
    answer_loss,
    answer_weights,
    collate,
    encode_examples,
)
from tempo_ray.shapeworld.exam import examine
from tempo_ray.shapeworld.record import PretrainRecord, PretrainSettings
from tempo_ray.shapeworld.tasks import MIX, Tasks
from tempo_ray.shapeworld.vision import initialise, pretrain_vision


@dataclass
class Progress:
    """How far the training has come."""

    step: int = 0
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
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=settings.lr, betas=(0.9, 0.98), weight_decay=settings.weight_decay
    )
    checkpoint = output.with_name(f".{output.name}.pretraining") / "checkpoint.pt"
    if checkpoint.exists():
        progress = _load_checkpoint(checkpoint, model, optimizer)
        log(f"resumes after step {progress.step}")
    else:
        checkpoint.parent.mkdir(parents=True, exist_ok=True)
        pretrain_vision(model, processor, settings, log)
        progress = Progress()
    tasks = Tasks(settings.family, "train", settings.shuffled_share)
    model.train()
    began = time.monotonic() - progress.seconds
    for step in range(progress.step, settings.steps):
        batches = step_batches(tasks, settings, processor, model.config, step)
        loss = _train_step(model, optimizer, batches, settings.lr * _rate(step, settings))
        progress.step = step + 1
        progress.seconds = time.monotonic() - began
        if progress.step % 25 == 0:
            progress.curve.append((progress.step, round(loss, 4)))
            log(f"step {progress.step}/{settings.steps}  loss {loss:.4f}  {progress.seconds:.0f} s")
        if progress.step % settings.save_every == 0 or progress.step == settings.steps:
            _save_checkpoint(checkpoint, model, optimizer, progress)
    model.eval()
    build.save(model, processor, output)
    record = _record(settings, model, progress)
    record.write(output)
    return record


def step_batches(
    tasks: Tasks,
    settings: PretrainSettings,
    processor: Any,
    config: PretrainedConfig,
    step: int,
) -> list[Batch]:
    """The micro-batches of one step. They depend on the step's number alone, so that a resumed run
    sees the same."""
    rng = np.random.default_rng((settings.seed, step))
    single_shots = step < settings.single_shot_steps
    examples = [tasks.draw(rng, single_shots) for _ in range(settings.batch)]
    sequences = encode_examples(processor, config, examples)
    # similar lengths together: padding would be half of the work
    by_length = sorted(sequences, key=len)
    parts = np.array_split(np.arange(settings.batch), settings.micro_batches)
    pad = processor.tokenizer.pad_token_id
    return [collate([by_length[row] for row in part], pad) for part in parts]


def _train_step(
    model: PreTrainedModel, optimizer: torch.optim.Optimizer, batches: list[Batch], lr: float
) -> float:
    """One optimiser step; the mean loss."""
    for group in optimizer.param_groups:
        group["lr"] = lr
    optimizer.zero_grad(set_to_none=True)
    weight = sum(float(answer_weights(batch.labels).sum()) for batch in batches)
    loss = 0.0
    for batch in batches:
        part: Any = answer_loss(model, batch) / weight
        part.backward()
        loss += part.item()
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimizer.step()
    return loss


def _rate(step: int, settings: PretrainSettings) -> float:
    """Share of the learning rate: linear warm-up, then a cosine down to 2%."""
    if step < settings.warmup_steps:
        return (step + 1) / settings.warmup_steps
    share = (step - settings.warmup_steps) / max(1, settings.steps - settings.warmup_steps)
    return 0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * share))


def _load_checkpoint(
    file: Path, model: PreTrainedModel, optimizer: torch.optim.Optimizer
) -> Progress:
    state = torch.load(file, weights_only=True)
    model.load_state_dict(state["model"])
    optimizer.load_state_dict(state["optimizer"])
    return Progress(**state["progress"])


def _save_checkpoint(
    file: Path, model: PreTrainedModel, optimizer: torch.optim.Optimizer, progress: Progress
) -> None:
    state = {
        "model": model.state_dict(),
        "optimizer": optimizer.state_dict(),
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
        parameters=sum(parameter.numel() for parameter in model.parameters()),
        seconds=round(progress.seconds),
        loss_curve=progress.curve,
        machine=(
            f"{os.cpu_count()} CPU cores, {platform.machine()}, {torch.get_num_threads()} used"
        ),
        date=time.strftime("%Y-%m-%d"),
        versions={name: version(name) for name in ("torch", "transformers")},
    )
