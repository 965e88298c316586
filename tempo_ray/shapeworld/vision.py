"""A model with random weights -> the same with a vision tower that tells single shots apart.

Real vision towers come pre-trained too. Tested in tests/shapeworld/test_pretrain.py.
"""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from transformers import PreTrainedModel

from tempo_ray.models.frames import Frames
from tempo_ray.shapeworld.record import PretrainSettings
from tempo_ray.shapeworld.story import COLORS, SHAPES, Event, draw_event
from tempo_ray.shapeworld.tasks import clip_frames, random_story

LR = 1e-3
WARMUP_STEPS = 50
DEEDS = sorted(
    {draw_event(np.random.default_rng(seed), "red", "square").deed for seed in range(1000)}
    | {"turns red"}
)
_CLASSES: tuple[Sequence[str], ...] = (list(COLORS), SHAPES, DEEDS)
"""What the head names of a shot: its colour, its shape and its deed."""


def initialise(model: PreTrainedModel) -> None:
    """Draws weights of variance 1 / fan-in. The stock standard deviation of 0.02 is meant for
    widths in the thousands: at 128, nothing is learned for a long time."""
    for name, weight in model.named_parameters():
        if "embed" in name and weight.ndim == 2:
            torch.nn.init.normal_(weight, std=0.05)
        elif weight.ndim >= 2:
            torch.nn.init.normal_(weight, std=weight[0].numel() ** -0.5)


def pretrain_vision(
    model: PreTrainedModel,
    processor: Any,
    settings: PretrainSettings,
    log: Callable[[str], None],
) -> None:
    """Trains the vision tower, with a linear head on its mean output, to name what is in a shot."""
    network: Any = model
    tower = network.model.visual
    head = torch.nn.Linear(
        network.config.text_config.hidden_size, sum(len(names) for names in _CLASSES)
    )
    weights = [*tower.parameters(), *head.parameters()]
    optimizer = torch.optim.AdamW(
        weights, lr=LR, betas=(0.9, 0.98), weight_decay=settings.weight_decay
    )
    for step in range(settings.vision_steps):
        rng = np.random.default_rng((settings.seed, 1, step))
        shots = [random_story(rng, "train", 1, 1).shots[0] for _ in range(settings.vision_batch)]
        frames = [clip_frames(shot, rng) for shot in shots]
        targets = _targets([shot.event for shot in shots])
        logits = _split(head(_mean_output(tower, processor, frames)))
        loss = _loss(logits, targets)
        for group in optimizer.param_groups:
            group["lr"] = LR * _rate(step, settings.vision_steps)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(weights, 1.0)
        optimizer.step()
        if (step + 1) % 50 == 0:
            shares = " ".join(f"{share:.2f}" for share in _accuracies(logits, targets))
            log(
                f"vision step {step + 1}/{settings.vision_steps}  "
                f"colour, shape, deed right: {shares}"
            )


def _rate(step: int, steps: int) -> float:
    """Share of the learning rate: rises at the start, falls linearly over the second half."""
    return min(1.0, (step + 1) / WARMUP_STEPS, 2 * (1 - step / steps))


def _mean_output(tower: Any, processor: Any, frames: Sequence[Frames]) -> torch.Tensor:
    """(videos, hidden): the tower's output, averaged over the tokens of each video."""
    patches = processor.video_processor(
        videos=[video.pixels for video in frames],
        video_metadata=[video.metadata for video in frames],
        do_sample_frames=False,
        return_tensors="pt",
    )
    output = tower(patches["pixel_values_videos"], grid_thw=patches["video_grid_thw"])
    tokens: torch.Tensor = output.pooler_output
    return tokens.view(len(frames), -1, tokens.shape[-1]).mean(1)


def _split(logits: torch.Tensor) -> tuple[torch.Tensor, ...]:
    """(shots, all names) -> (shots, names) for colour, shape and deed."""
    return torch.split(logits, [len(names) for names in _CLASSES], -1)


def _targets(events: Sequence[Event]) -> torch.Tensor:
    """(events, 3) class numbers of colour, shape and deed."""
    words = [(event.color, event.shape, event.deed) for event in events]
    return torch.tensor(
        [[names.index(word) for names, word in zip(_CLASSES, row, strict=True)] for row in words]
    )


def _loss(logits: Sequence[torch.Tensor], targets: torch.Tensor) -> torch.Tensor:
    losses = [
        torch.nn.functional.cross_entropy(named, targets[:, column])
        for column, named in enumerate(logits)
    ]
    return torch.stack(losses).sum()


def _accuracies(logits: Sequence[torch.Tensor], targets: torch.Tensor) -> list[float]:
    return [
        (named.argmax(-1) == targets[:, column]).float().mean().item()
        for column, named in enumerate(logits)
    ]
