"""Examples -> packed rows, and the loss of such a row.

Tested in tests/shapeworld/test_pretrain.py.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import PretrainedConfig, PreTrainedModel

from tempo_ray.models.vlm import chat_text, encode
from tempo_ray.shapeworld.tasks import Example
from tempo_ray.train.batch import PackedRow
from tempo_ray.train.sequences import ExampleTokens


def tokenize(
    processor: Any, config: PretrainedConfig, examples: Sequence[Example]
) -> list[ExampleTokens]:
    """Each example as one sequence: what is shown, once, then a segment per exchange."""
    marker = "\0"
    around = [chat_text(processor, (*example.shown, marker)).split(marker) for example in examples]
    shown = encode(
        processor,
        config,
        [before for before, _ in around],
        [example.videos for example in examples],
    )
    end = processor.tokenizer.eos_token
    requests, answers = [], []
    for example, (_, after) in zip(examples, around, strict=True):
        requests += [exchange.text + after for exchange in example.exchanges]
        answers += [exchange.answer + end for exchange in example.exchanges]
    request_ids = iter(processor.tokenizer(requests, add_special_tokens=False)["input_ids"])
    answer_ids = iter(processor.tokenizer(answers, add_special_tokens=False)["input_ids"])
    sequences = []
    for example, prompt in zip(examples, shown, strict=True):
        asked = [(next(request_ids), next(answer_ids)) for _ in example.exchanges]
        lengths = [len(request) + len(answer) for request, answer in asked]
        following = int(prompt.positions.max()) + 1
        places = np.concatenate([following + np.arange(length) for length in lengths])
        count = len(prompt.input_ids)
        sequences.append(
            ExampleTokens(
                ids=np.concatenate([prompt.input_ids, *(ids for pair in asked for ids in pair)]),
                positions=np.concatenate([prompt.positions, np.tile(places, (3, 1))], axis=1),
                segments=np.repeat(np.arange(len(lengths) + 1), [count, *lengths]),
                trained=np.repeat(
                    [False, *(trained for _ in asked for trained in (False, True))],
                    [count, *(len(ids) for pair in asked for ids in pair)],
                ),
                pairs=(),
                pixels=prompt.pixel_values_videos,
                grid=prompt.video_grid_thw,
            )
        )
    return sequences


@dataclass(frozen=True)
class Predictions:
    """Of the answer tokens of a row: (tokens, vocabulary) logits."""

    logits: Tensor
    row: PackedRow

    def loss(self) -> Tensor:
        """Cross-entropy summed over the tokens by their `weights`: a scalar."""
        losses = torch.nn.functional.cross_entropy(self.logits, self.row.target, reduction="none")
        return (losses * weights(self.row)).sum()

    def right(self) -> Tensor:
        """(answers,): 1 for each answer of which every token is the likeliest, else 0."""
        wrong = self.logits.argmax(-1) != self.row.target
        count = torch.zeros(len(self.row.lengths)).index_add(0, self.row.answer, wrong.float())
        return (count == 0).float()


def weights(row: PackedRow) -> Tensor:
    """(tokens,): a predicted token of an answer of n tokens weighs 1 / sqrt(n), so that long
    captions do not drown the one letter that answers a question."""
    return row.lengths[row.answer].float().rsqrt()


def predict(model: PreTrainedModel, row: PackedRow) -> Predictions:
    """Logits for the answer tokens alone."""
    network: Any = model
    hidden = network.model(**row.inputs, use_cache=False)[0]
    logits = network.lm_head(hidden.flatten(0, 1)[row.source])
    return Predictions(logits.float(), row)
