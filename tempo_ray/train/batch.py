"""Group -> one sequence (prompt once, then every answer); sequences -> rows of packed groups, without padding.

All answers of a group restart at the position after the prompt and see the prompt and themselves only, so that each has
the log-probs that it has alone, while the video is encoded once.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from transformers import PretrainedConfig

from tempo_ray.config import FramesConfig
from tempo_ray.models.frames import Frames, UnreadableVideo, read_frames
from tempo_ray.models.vlm import chat_text, encode
from tempo_ray.retry import Passing, patiently
from tempo_ray.train.attention import PROMPT, make_layout
from tempo_ray.train.curriculum import Group

ATTEMPTS = 3
"""At a video whose store fails in passing."""


class Unusable(Exception):
    """A group that cannot be trained on. `reason` is one of `missing`, `unreadable`, `too_long`, `template`, `special_token`."""

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason


@dataclass(frozen=True)
class Tokens:
    """One group. `segments` is 0 in what its answers share, k in its k-th answer; `trained` tells which tokens are to be
    predicted; `pairs` names chosen and rejected among the answers, from 0; `pixels` and `grid` are the video's."""

    ids: Int[np.ndarray, "tokens"]
    positions: Int[np.ndarray, "3 tokens"]
    segments: Int[np.ndarray, "tokens"]
    trained: Bool[np.ndarray, "tokens"]
    pairs: tuple[tuple[int, int], ...]
    pixels: Float[Tensor, "patches values"]
    grid: Int[Tensor, "1 3"]

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def answers(self) -> int:
        return int(self.segments[-1])


@dataclass(frozen=True)
class Batch:
    """Groups side by side in one row.

    `inputs` are the model's own arguments, and the row's `layout`. For each of the tokens to be predicted: `source` is the
    place in the row of the hidden state that predicts it, `target` the token, `answer` which of the row's answers it belongs
    to. `chosen` and `rejected` are the answers of each pair; `lengths` counts the answers' tokens. A batch of weight 0 keeps a
    worker in step with the others and trains nothing.
    """

    inputs: dict[str, Any]
    source: Int[Tensor, "predicted"]
    target: Int[Tensor, "predicted"]
    answer: Int[Tensor, "predicted"]
    chosen: Int[Tensor, "pairs"]
    rejected: Int[Tensor, "pairs"]
    lengths: Int[Tensor, "answers"]
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

    def for_flex(self) -> "Batch":
        """The same with its block mask."""
        return replace(self, inputs=self.inputs | {"layout": self.inputs["layout"].for_flex()})


def group_tokens(processor: Any, config: PretrainedConfig, group: Group, video: Frames) -> Tokens:
    """The group as one sequence; every answer ends with the end token. Further turns follow the one answer that they need.

    What its prompts share stands first: the whole prompt where there is one; else all up to the end of the video, and every
    answer has its own prompt's words before it in its segment.
    """
    prompt = encode(
        processor, config, [chat_text(processor, group.parts, group.system)], [[video]]
    )[0]
    assert prompt.pixel_values_videos is not None
    assert prompt.video_grid_thw is not None
    shared = len(prompt.input_ids)
    if group.more:
        shared -= len(_words(processor, group))
        if list(prompt.input_ids[shared:]) != _words(processor, group):
            raise Unusable(
                "template", f"{group.uri}: the words after the video become other tokens beside it"
            )
    following = int(prompt.positions[:, :shared].max()) + 1
    ids, places, numbers = (
        [prompt.input_ids[:shared]],
        [prompt.positions[:, :shared]],
        [np.full(shared, PROMPT)],
    )
    trained = [np.zeros(shared, bool)]
    pairs: list[tuple[int, int]] = []
    number = PROMPT
    for one in group.prompts:
        words = [(_words(processor, one), False)] if group.more else []
        pairs += [(number, number + place) for place in range(1, len(one.rejected) + 1)]
        for text in (one.chosen, *one.rejected):
            number += 1
            pieces = words + _said(processor, one, text)
            answer = np.concatenate([np.asarray(tokens) for tokens, _ in pieces])
            ids.append(answer)
            places.append(np.broadcast_to(following + np.arange(len(answer)), (3, len(answer))))
            numbers.append(np.full(len(answer), number))
            trained += [np.full(len(tokens), is_said) for tokens, is_said in pieces]
    return Tokens(
        ids=np.concatenate(ids),
        positions=np.concatenate(places, axis=1),
        segments=np.concatenate(numbers),
        trained=np.concatenate(trained),
        pairs=tuple(pairs),
        pixels=prompt.pixel_values_videos,
        grid=prompt.video_grid_thw,
    )


def _words(processor: Any, group: Group) -> list[int]:
    """The tokens of a prompt after its video; a special token ends the video, so that they are the same beside it."""
    text = chat_text(processor, group.parts, group.system).rpartition("<|video_pad|>")[2]
    return processor.tokenizer(text, add_special_tokens=False)["input_ids"]


def _said(processor: Any, group: Group, answer: str) -> list[tuple[list[int], bool]]:
    """An answer and the turns after it, in pieces: tokens, and whether the model says them."""
    texts = [
        (answer + processor.tokenizer.eos_token, True),
        *(later_texts(processor, group) if group.later else []),
    ]
    return [
        (processor.tokenizer(text, add_special_tokens=False)["input_ids"], is_said)
        for text, is_said in texts
    ]


def later_texts(processor: Any, group: Group) -> list[tuple[str, bool]]:
    """The turns after the first answer as the chat template writes them, in pieces: a text, and whether the model says it.

    Raises Unusable where the template does not write them one after the other.
    """
    end = processor.tokenizer.eos_token
    pieces: list[tuple[str, bool]] = []
    turns: list[tuple[str, str]] = []
    answer = group.chosen
    before = chat_text(processor, group.parts, group.system) + answer + end
    for question, following in group.later:
        turns.append((answer, question))
        asked = chat_text(processor, group.parts, group.system, turns)
        if not asked.startswith(before):
            raise Unusable(
                "template",
                f"{group.uri}: the chat template writes an answer otherwise once a turn follows it",
            )
        answer = following
        pieces += [(asked[len(before) :], False), (answer + end, True)]
        before = asked + answer + end
    return pieces


def read_group(
    processor: Any, config: PretrainedConfig, group: Group, frames: FramesConfig, max_tokens: int
) -> list[Tokens]:
    """The group with its video read: one sequence, or where that is too long one for each of its prompts. Raises Unusable."""
    _check_words(processor, group)
    try:
        video = patiently(lambda: _video(group, frames, config), ATTEMPTS, OSError)
    except (UnreadableVideo, Passing) as error:
        raise Unusable("unreadable", f"{group.uri}: {error}") from error
    whole = group_tokens(processor, config, group, video)
    if len(whole) <= max_tokens:
        return [whole]
    parts = (
        [group_tokens(processor, config, one, video) for one in group.prompts]
        if group.more
        else [whole]
    )
    longest = max(parts, key=len)
    if len(longest) > max_tokens:
        told = f"{len(longest)} tokens with {longest.answers} answers, max_tokens is {max_tokens}"
        raise Unusable("too_long", f"{group.uri}: {told}")
    return parts


def _video(group: Group, frames: FramesConfig, config: PretrainedConfig) -> Frames:
    try:
        return read_frames(group.uri, frames, config.model_type)
    except FileNotFoundError as error:
        raise Unusable("missing", f"{group.uri}: {error}") from error
    except pa.ArrowInvalid as error:  # a scheme that no store of Arrow's has
        raise Unusable("unreadable", f"{group.uri}: {error}") from error


def _check_words(processor: Any, group: Group) -> None:
    """What looks like a special token would be one: a video that is not there, or an end in the middle of an answer."""
    for one in group.prompts:
        texts = [
            *(part for part in one.parts if part),
            one.chosen,
            *one.rejected,
            *(text for turn in one.later for text in turn),
        ]
        for text in [*texts, one.system or ""]:
            token = next(
                (token for token in processor.tokenizer.all_special_tokens if token in text), None
            )
            if token is not None:
                raise Unusable(
                    "special_token", f"{group.uri}: {token} stands in its words: {text[:80]!r}"
                )


def blank(processor: Any, config: PretrainedConfig, answers: int) -> Tokens:
    """A grey video of two frames with one-word answers: the least that has the shape of a group."""
    grey = Frames.presented(np.full((2, 64, 64, 3), 128, np.uint8), 2.0)
    return group_tokens(
        processor, config, Group("", (None, "."), "a", ("b",) * (answers - 1)), grey
    )


def split(groups: Sequence[Tokens], max_tokens: int) -> list[list[Tokens]]:
    """Groups -> rows of at most `max_tokens`: longest first, each into the first row that has room for it."""
    rows: list[list[Tokens]] = []
    for one in sorted(groups, key=len, reverse=True):
        fitting = (row for row in rows if sum(map(len, row)) + len(one) <= max_tokens)
        row = next(fitting, None)
        if row is None:
            rows.append(row := [])
        row.append(one)
    return rows


def pack(groups: Sequence[Tokens], weight: float = 1.0) -> Batch:
    """Groups -> one row."""
    ids = np.concatenate([one.ids for one in groups])
    source: list[np.ndarray] = []
    answer: list[np.ndarray] = []
    chosen: list[int] = []
    rejected: list[int] = []
    start = answers = 0
    for one in groups:
        places = np.flatnonzero(one.trained)
        first = one.segments[places] != one.segments[places - 1]
        # an answer's first token is predicted at the prompt's last, the others at the token before them
        last = int((one.segments == PROMPT).sum()) - 1
        source.append(np.where(first, last, places - 1) + start)
        answer.append(one.segments[places] - 1 + answers)
        chosen += [answers + place for place, _ in one.pairs]
        rejected += [answers + place for _, place in one.pairs]
        start += len(one)
        answers += one.answers
    flat = np.concatenate(answer)
    return Batch(
        inputs={
            "input_ids": torch.from_numpy(ids)[None],
            "position_ids": torch.from_numpy(
                np.concatenate([one.positions for one in groups], axis=1)
            )[:, None],
            "pixel_values_videos": torch.cat([one.pixels for one in groups]),
            "video_grid_thw": torch.cat([one.grid for one in groups]),
            "layout": make_layout([torch.from_numpy(one.segments) for one in groups]),
        },
        source=torch.from_numpy(np.concatenate(source)),
        target=torch.from_numpy(ids[np.concatenate([one.trained for one in groups])]),
        answer=torch.from_numpy(flat),
        chosen=torch.tensor(chosen, dtype=torch.long),
        rejected=torch.tensor(rejected, dtype=torch.long),
        lengths=torch.from_numpy(np.bincount(flat, minlength=answers)),
        weight=weight,
    )
