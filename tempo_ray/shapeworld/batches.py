"""Examples -> packed rows, and the loss of such a row.

Tested in tests/shapeworld/test_pretrain.py.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from transformers import PretrainedConfig, PreTrainedModel

from tempo_ray.models.vlm import Encoded, chat_text, encode
from tempo_ray.shapeworld.tasks import Example
from tempo_ray.train.batch import PackedRow, pack
from tempo_ray.train.sequences import ExampleTokens

REQUEST_WEIGHT = 0.3
"""Of a token of a request, in comparison with one of an answer as long. Requests name events of
the story; to predict the rest of their names is to look them up."""


@dataclass(frozen=True)
class WeighedTokens(ExampleTokens):
    """A sequence whose requests are predicted, too, at a lower weight."""

    answered: NDArray[np.bool_]
    """(tokens,): whether a token is one of an answer."""
    weights: NDArray[np.float32]
    """(tokens,): of the loss at each token."""


def tokenize(
    processor: Any, config: PretrainedConfig, examples: Sequence[Example]
) -> list[WeighedTokens]:
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
    return [
        _sequence(prompt, [(next(request_ids), next(answer_ids)) for _ in example.exchanges])
        for example, prompt in zip(examples, shown, strict=True)
    ]


def _sequence(prompt: Encoded, asked: Sequence[tuple[list[int], list[int]]]) -> WeighedTokens:
    """`asked` are the tokens of each request and of its answer.

    A token of an answer of n tokens weighs 1 / sqrt(n), so that long captions do not drown the one
    letter that answers a question.
    """
    pieces = [ids for pair in asked for ids in pair]
    sizes = [len(prompt.input_ids), *map(len, pieces)]
    of_piece = [0.0]
    for request, answer in asked:
        of_piece += [REQUEST_WEIGHT * len(request) ** -0.5, len(answer) ** -0.5]
    lengths = [len(request) + len(answer) for request, answer in asked]
    following = int(prompt.positions.max()) + 1
    places = np.concatenate([following + np.arange(length) for length in lengths])
    weights = np.repeat(np.array(of_piece, np.float32), sizes)
    return WeighedTokens(
        ids=np.concatenate([prompt.input_ids, *pieces]),
        positions=np.concatenate([prompt.positions, np.tile(places, (3, 1))], axis=1),
        segments=np.repeat(np.arange(len(lengths) + 1), [sizes[0], *lengths]),
        trained=weights > 0,
        pairs=(),
        pixels=prompt.pixel_values_videos,
        grid=prompt.video_grid_thw,
        answered=np.repeat([False, *[False, True] * len(asked)], sizes),
        weights=weights,
    )


@dataclass(frozen=True)
class Batch:
    """Sequences packed into a row. `answered` and `weights` are of its predicted tokens."""

    row: PackedRow
    answered: Tensor
    weights: Tensor


def collate(sequences: Sequence[WeighedTokens]) -> Batch:
    answered = np.concatenate([sequence.answered[sequence.trained] for sequence in sequences])
    weights = np.concatenate([sequence.weights[sequence.trained] for sequence in sequences])
    return Batch(pack(sequences), torch.from_numpy(answered), torch.from_numpy(weights))


@dataclass(frozen=True)
class Predictions:
    """Of the predicted tokens of a batch: (tokens, vocabulary) logits."""

    logits: Tensor
    batch: Batch

    def loss(self) -> Tensor:
        """Cross-entropy summed over the tokens by their weights: a scalar."""
        targets = self.batch.row.target
        losses = torch.nn.functional.cross_entropy(self.logits, targets, reduction="none")
        return (losses * self.batch.weights).sum()

    def right(self) -> Tensor:
        """(answers,): 1 for each answer of which every token is the likeliest, else 0."""
        row = self.batch.row
        wrong = (self.logits.argmax(-1) != row.target) & self.batch.answered
        count = torch.zeros(len(row.lengths)).index_add(0, row.answer, wrong.float())
        return (count == 0).float()


def predict(model: PreTrainedModel, batch: Batch) -> Predictions:
    """Logits for the predicted tokens alone."""
    network: Any = model
    hidden = network.model(**batch.row.inputs, use_cache=False)[0]
    logits = network.lm_head(hidden.flatten(0, 1)[batch.row.source])
    return Predictions(logits.float(), batch)
