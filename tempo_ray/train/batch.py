"""Token sequences of examples -> packed rows: examples side by side, without padding."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor

from tempo_ray.train.attention import PROMPT, Layout, make_layout
from tempo_ray.train.sequences import ExampleTokens


@dataclass(frozen=True)
class PackedRow:
    """Examples side by side in one row.

    `inputs` are the model's keyword arguments, with the row's `layout`. For each predicted token,
    `source` is the index in the row of the hidden state that predicts it, `target` the token, and
    `answer` the answer of the row that it belongs to. `chosen` and `rejected` are the answers of
    each pair, `lengths` the answers' tokens. A row of weight 0 keeps a rank in step with the other
    ranks and trains nothing.
    """

    inputs: dict[str, Any]
    source: Int[Tensor, "predicted"]
    target: Int[Tensor, "predicted"]
    answer: Int[Tensor, "predicted"]
    chosen: Int[Tensor, "pairs"]
    rejected: Int[Tensor, "pairs"]
    lengths: Int[Tensor, "answers"]
    weight: float = 1.0

    @property
    def layout(self) -> Layout:
        layout: Layout = self.inputs["layout"]
        return layout

    def to(self, device: torch.device) -> "PackedRow":
        return PackedRow(
            inputs={name: value.to(device) for name, value in self.inputs.items()},
            source=self.source.to(device),
            target=self.target.to(device),
            answer=self.answer.to(device),
            chosen=self.chosen.to(device),
            rejected=self.rejected.to(device),
            lengths=self.lengths.to(device),
            weight=self.weight,
        )

    def for_flex(self) -> "PackedRow":
        """The row with FlexAttention's block mask."""
        return replace(self, inputs=self.inputs | {"layout": self.layout.for_flex()})


def split_into_rows(
    examples: Sequence[ExampleTokens], max_tokens: int
) -> list[list[ExampleTokens]]:
    """Rows of at most `max_tokens`: longest example first, each into the first row with room."""
    rows: list[list[ExampleTokens]] = []
    for example in sorted(examples, key=len, reverse=True):
        fitting = (row for row in rows if sum(map(len, row)) + len(example) <= max_tokens)
        row = next(fitting, None)
        if row is None:
            row = []
            rows.append(row)
        row.append(example)
    return rows


def pack(examples: Sequence[ExampleTokens], weight: float = 1.0) -> PackedRow:
    """Examples -> one row."""
    ids = np.concatenate([example.ids for example in examples])
    source: list[np.ndarray] = []
    answer: list[np.ndarray] = []
    chosen: list[int] = []
    rejected: list[int] = []
    start = answers = 0
    for example in examples:
        predicted = np.flatnonzero(example.trained)
        first = example.segments[predicted] != example.segments[predicted - 1]
        # an answer's first token is predicted at the prompt's last token, every other token at the
        # token before it
        prompt_end = int((example.segments == PROMPT).sum()) - 1
        source.append(np.where(first, prompt_end, predicted - 1) + start)
        answer.append(example.segments[predicted] - 1 + answers)
        chosen += [answers + index for index, _ in example.pairs]
        rejected += [answers + index for _, index in example.pairs]
        start += len(example)
        answers += example.answers
    positions = np.concatenate([example.positions for example in examples], axis=1)
    answer_of_token = np.concatenate(answer)
    return PackedRow(
        inputs={
            "input_ids": torch.from_numpy(ids)[None],
            "position_ids": torch.from_numpy(positions)[:, None],
            "pixel_values_videos": torch.cat([example.pixels for example in examples]),
            "video_grid_thw": torch.cat([example.grid for example in examples]),
            "layout": make_layout([torch.from_numpy(example.segments) for example in examples]),
        },
        source=torch.from_numpy(np.concatenate(source)),
        target=torch.from_numpy(ids[np.concatenate([example.trained for example in examples])]),
        answer=torch.from_numpy(answer_of_token),
        chosen=torch.tensor(chosen, dtype=torch.long),
        rejected=torch.tensor(rejected, dtype=torch.long),
        lengths=torch.from_numpy(np.bincount(answer_of_token, minlength=answers)),
        weight=weight,
    )
