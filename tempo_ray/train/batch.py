"""Group -> one sequence (prompt once, then every answer); sequences -> a batch of tensors.

All answers of a group restart at the position after the prompt and see the prompt and themselves only, so that each has
the log-probs that it has alone, while the video is encoded once.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from transformers import PretrainedConfig

from tempo_ray.config import FramesConfig
from tempo_ray.models.frames import Frames, UnreadableVideo, read_frames
from tempo_ray.models.vlm import chat_text, encode
from tempo_ray.train.attention import PADDING, PROMPT, prefix_mask
from tempo_ray.train.curriculum import Group


class Unusable(Exception):
    """A group that cannot be trained on. `reason` is one of `missing`, `unreadable` and `too_long`."""

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason


@dataclass(frozen=True)
class Tokens:
    """One group. `ids` (tokens,); `positions` (3, tokens); `segments` (tokens,), 0 the prompt, k its k-th answer, chosen first;
    `pixels` (patches, values) and `grid` (1, 3) of the video."""

    ids: np.ndarray
    positions: np.ndarray
    segments: np.ndarray
    pixels: torch.Tensor
    grid: torch.Tensor

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def answers(self) -> int:
        return int(self.segments[-1])

    @property
    def answer_tokens(self) -> int:
        return int((self.segments > PROMPT).sum())


@dataclass(frozen=True)
class Batch:
    """Groups as rows, padded on the right.

    `inputs` are the model's own arguments. For each of the answer tokens: `source` (n,) is the flat index of the hidden
    state that predicts it, `target` (n,) the token, `answer` (n,) which of the batch's answers it belongs to. `chosen` and
    `rejected` (pairs,) are the answers of each pair; `lengths` (answers,) counts their tokens. A batch of weight 0 keeps
    a worker in step with the others and trains nothing.
    """

    inputs: dict[str, torch.Tensor]
    source: torch.Tensor
    target: torch.Tensor
    answer: torch.Tensor
    chosen: torch.Tensor
    rejected: torch.Tensor
    lengths: torch.Tensor
    weight: float = 1.0

    def to(self, device: torch.device) -> "Batch":
        return Batch(
            inputs={name: value.to(device) for name, value in self.inputs.items()},
            source=self.source.to(device),
            target=self.target.to(device),
            answer=self.answer.to(device),
            chosen=self.chosen.to(device),
            rejected=self.rejected.to(device),
            lengths=self.lengths.to(device),
            weight=self.weight,
        )


def group_tokens(processor: Any, config: PretrainedConfig, group: Group, video: Frames) -> Tokens:
    """The group as one sequence; every answer ends with the end token."""
    prompt = encode(processor, config, [chat_text(processor, group.parts)], [[video]])[0]
    assert prompt.pixel_values_videos is not None
    assert prompt.video_grid_thw is not None
    end = processor.tokenizer.eos_token
    texts = [answer + end for answer in (group.chosen, *group.rejected)]
    answers = [np.asarray(ids) for ids in processor.tokenizer(texts, add_special_tokens=False)["input_ids"]]
    following = int(prompt.positions.max()) + 1
    places = np.concatenate([following + np.arange(len(ids)) for ids in answers])
    numbers = [np.full(len(ids), number) for number, ids in enumerate(answers, PROMPT + 1)]
    return Tokens(
        ids=np.concatenate([prompt.input_ids, *answers]),
        positions=np.concatenate([prompt.positions, np.broadcast_to(places, (3, len(places)))], axis=1),
        segments=np.concatenate([np.full(len(prompt.input_ids), PROMPT), *numbers]),
        pixels=prompt.pixel_values_videos,
        grid=prompt.video_grid_thw,
    )


def read_group(processor: Any, config: PretrainedConfig, group: Group, frames: FramesConfig, max_tokens: int) -> Tokens:
    """Reads the group's video too. Raises Unusable."""
    try:
        video = read_frames(group.uri, frames, config.model_type)
    except FileNotFoundError as error:
        raise Unusable("missing", f"{group.uri}: {error}") from error
    except (UnreadableVideo, OSError) as error:
        raise Unusable("unreadable", f"{group.uri}: {error}") from error
    tokens = group_tokens(processor, config, group, video)
    if len(tokens) > max_tokens:
        raise Unusable("too_long", f"{group.uri}: {len(tokens)} tokens with {tokens.answers} answers, max_tokens is {max_tokens}")
    return tokens


def blank(processor: Any, config: PretrainedConfig, answers: int) -> Tokens:
    """A grey video of two frames with one-word answers: the least that has the shape of a group."""
    grey = Frames.presented(np.full((2, 64, 64, 3), 128, np.uint8), 2.0)
    return group_tokens(processor, config, Group("", (None, "."), "a", ("b",) * (answers - 1)), grey)


def split(groups: Sequence[Tokens], max_tokens: int) -> list[list[Tokens]]:
    """Groups -> batches of at most `max_tokens`, padding included; like lengths side by side."""
    batches: list[list[Tokens]] = []
    for one in sorted(groups, key=len, reverse=True):
        if not batches or (len(batches[-1]) + 1) * len(batches[-1][0]) > max_tokens:
            batches.append([])
        batches[-1].append(one)
    return batches


def collate(groups: Sequence[Tokens], pad: int, weight: float = 1.0) -> Batch:
    length = max(map(len, groups))
    ids = np.full((len(groups), length), pad)
    positions = np.zeros((3, len(groups), length), np.int64)
    segments = np.full((len(groups), length), PADDING)
    source: list[np.ndarray] = []
    answer: list[np.ndarray] = []
    chosen: list[int] = []
    rejected: list[int] = []
    answers = 0
    for row, one in enumerate(groups):
        ids[row, : len(one)] = one.ids
        positions[:, row, : len(one)] = one.positions
        segments[row, : len(one)] = one.segments
        places = np.flatnonzero(one.segments > PROMPT)
        starts = one.segments[places] != one.segments[places - 1]
        # an answer's first token is predicted at the prompt's last, the others at the token before them
        source.append(np.where(starts, places[0] - 1, places - 1) + row * length)
        answer.append(one.segments[places] - 1 + answers)
        chosen += [answers] * (one.answers - 1)
        rejected += range(answers + 1, answers + one.answers)
        answers += one.answers
    flat = np.concatenate(answer)
    marks = torch.from_numpy(segments)
    return Batch(
        inputs={
            "input_ids": torch.from_numpy(ids),
            "position_ids": torch.from_numpy(positions),
            "attention_mask": prefix_mask(marks),
            "pixel_values_videos": torch.cat([one.pixels for one in groups]),
            "video_grid_thw": torch.cat([one.grid for one in groups]),
        },
        source=torch.from_numpy(np.concatenate(source)),
        target=torch.from_numpy(ids[segments > PROMPT]),
        answer=torch.from_numpy(flat),
        chosen=torch.tensor(chosen, dtype=torch.long),
        rejected=torch.tensor(rejected, dtype=torch.long),
        lengths=torch.from_numpy(np.bincount(flat, minlength=answers)),
        weight=weight,
    )
