"""Examples -> padded batches with labels on the answers, and the loss of such a batch.

Tested in tests/shapeworld/test_pretrain.py.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from transformers import PretrainedConfig, PreTrainedModel

from tempo_ray.models.vlm import Encoded, chat_text, encode
from tempo_ray.shapeworld.tasks import Example

IGNORE = -100
"""The label of tokens that are not learned."""


@dataclass(frozen=True)
class Batch:
    """Right-padded rows. `inputs` are the model's keyword arguments, `labels` is (rows, tokens)
    with IGNORE outside the answers."""

    inputs: dict[str, torch.Tensor | None]
    labels: torch.Tensor


@dataclass(frozen=True)
class TrainingSequence:
    """Prompt and answer of an example as model input; the answer begins at token `start`."""

    encoded: Encoded
    start: int

    def __len__(self) -> int:
        return len(self.encoded.input_ids)


def encode_examples(
    processor: Any, config: PretrainedConfig, examples: Sequence[Example]
) -> list[TrainingSequence]:
    """Prompt and answer of each example as one sequence."""
    end = processor.tokenizer.eos_token
    answers = [example.answer + end for example in examples]
    prompts = [chat_text(processor, example.parts) for example in examples]
    texts = [prompt + answer for prompt, answer in zip(prompts, answers, strict=True)]
    encoded = encode(processor, config, texts, [example.videos for example in examples])
    answer_ids = processor.tokenizer(answers)["input_ids"]
    return [
        TrainingSequence(sequence, len(sequence.input_ids) - len(ids))
        for sequence, ids in zip(encoded, answer_ids, strict=True)
    ]


def collate(sequences: Sequence[TrainingSequence], pad: int) -> Batch:
    """One batch, padded with the token `pad`."""
    rows, length = len(sequences), max(len(sequence) for sequence in sequences)
    ids = torch.full((rows, length), pad)
    mask = torch.zeros((rows, length), dtype=torch.long)
    positions = torch.zeros((3, rows, length), dtype=torch.long)
    labels = torch.full((rows, length), IGNORE)
    for row, sequence in enumerate(sequences):
        start, count = sequence.start, len(sequence)
        ids[row, :count] = torch.from_numpy(sequence.encoded.input_ids)
        mask[row, :count] = 1
        positions[:, row, :count] = torch.from_numpy(sequence.encoded.positions)
        labels[row, start:count] = ids[row, start:count]
    inputs = {
        "input_ids": ids,
        "attention_mask": mask,
        "position_ids": positions,
        "pixel_values_videos": _joined(
            [sequence.encoded.pixel_values_videos for sequence in sequences]
        ),
        "video_grid_thw": _joined([sequence.encoded.video_grid_thw for sequence in sequences]),
    }
    return Batch(inputs, labels)


def _joined(tensors: Sequence[torch.Tensor | None]) -> torch.Tensor | None:
    present = [tensor for tensor in tensors if tensor is not None]
    return torch.cat(present) if present else None


def answer_weights(labels: torch.Tensor) -> torch.Tensor:
    """(rows, tokens) labels -> (rows, tokens - 1) weights of the predictions, 0 outside answers.

    A token of an answer of n tokens weighs 1 / sqrt(n): long captions must not drown the one word
    that answers a question.
    """
    in_answer = labels[:, 1:] != IGNORE
    return in_answer * in_answer.sum(1, keepdim=True).clamp(min=1).rsqrt()


def answer_loss(model: PreTrainedModel, batch: Batch) -> torch.Tensor:
    """Cross-entropy summed over the answer tokens by their `answer_weights`: a scalar.

    Logits are computed for the answer tokens alone.
    """
    network: Any = model
    hidden = network.model(**batch.inputs, use_cache=False)[0]
    targets = batch.labels[:, 1:]
    in_answer = targets != IGNORE
    weights = answer_weights(batch.labels)[in_answer]
    logits = network.lm_head(hidden[:, :-1][in_answer])
    losses = torch.nn.functional.cross_entropy(logits, targets[in_answer], reduction="none")
    return (losses * weights).sum()
