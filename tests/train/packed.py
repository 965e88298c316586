"""Helpers for tests of sequences, rows and log-probs: made-up examples and plain forward passes."""

from pathlib import Path
from typing import Any

import numpy as np
import torch

from tempo_ray.config import FramesConfig
from tempo_ray.models.frames import Frames
from tempo_ray.models.vlm import chat_text, encode, load_model_config, load_processor
from tempo_ray.train.batch import PackedRow, pack
from tempo_ray.train.examples import Conversation, Example, PromptPairs, VideoPairs
from tempo_ray.train.sequences import ExampleTokens, read_example

FRAMES = FramesConfig()
DESCRIBE = "Describe this video in order."
CONVERSATION = Conversation(
    "",
    (None, "What moves?"),
    "A red circle.",
    turns=(("And then?", "A blue square spins."), ("Which came first?", "The circle.")),
    system="You watch videos.",
)
ANSWERS = (
    "A red circle moves left.",
    "First a blue square spins, then a red circle.",
    "No.",
    "A green cross grows quickly.",
)
WORDS = (
    "red",
    "blue",
    "green",
    "circle",
    "square",
    "moves",
    "grows",
    "left",
    "right",
    "then",
    "first",
    "and",
    "a",
    "the",
)


def examples_of(videos: list[str]) -> list[Example]:
    """Three pairs, one pair, and a conversation of one turn."""
    second = PromptPairs("What happens in this video from start to end?", ANSWERS[1], (ANSWERS[3],))
    return [
        VideoPairs(videos[0], (PromptPairs(DESCRIBE, ANSWERS[0], ANSWERS[1:]),)),
        VideoPairs(videos[1], (second,)),
        Conversation(videos[2], (None, DESCRIBE), ANSWERS[2]),
    ]


def processor_and_config(models: dict[str, Path], family: str) -> tuple[Any, Any]:
    path = str(models[family])
    return load_processor(path), load_model_config(path)


def read_all(processor: Any, config: Any, examples: list[Example]) -> list[ExampleTokens]:
    return [
        tokens
        for example in examples
        for tokens in read_example(processor, config, example, FRAMES, 4096)
    ]


def packed_row(models: dict[str, Path], family: str, videos: list[str]) -> PackedRow:
    processor, config = processor_and_config(models, family)
    return pack(read_all(processor, config, examples_of(videos)))


def random_video(rng: np.random.Generator, frames: int, height: int, width: int) -> Frames:
    return Frames.presented(rng.integers(0, 255, (frames, height, width, 3), dtype=np.uint8), 2.0)


def random_examples() -> list[tuple[VideoPairs, Frames]]:
    """1 to 12 rejected answers, one prompt and several, over videos short and long, wide and
    tall."""
    rng = np.random.default_rng(0)
    examples = []
    for count in range(1, 13):
        texts = [
            " ".join(rng.choice(WORDS, rng.integers(1, 24))) + f" {number}."
            for number in range(count + 1)
        ]
        video = random_video(
            rng,
            int(rng.choice([2, 4, 6, 16])),
            *rng.choice([(32, 96), (96, 32), (64, 64), (32, 32)]).tolist(),
        )
        prompts = [PromptPairs(DESCRIBE, texts[0], tuple(texts[1:]))]
        if count in (2, 5, 9):
            prompts += [
                PromptPairs("What happens, from start to end?", texts[1], (texts[0],)),
                PromptPairs("Tell it.", texts[0], tuple(texts[1:3])),
            ]
        examples.append((VideoPairs("", tuple(prompts)), video))
    return examples


def plain_forward(
    model: Any, ids: np.ndarray, positions: np.ndarray, pixels: Any, grid: Any
) -> torch.Tensor:
    """The log-prob of every token but the first, by the model's own forward over one sequence."""
    tokens = torch.from_numpy(ids)[None]
    hidden = model.model(
        input_ids=tokens,
        attention_mask=torch.ones_like(tokens),
        position_ids=torch.from_numpy(positions)[:, None],
        pixel_values_videos=pixels,
        video_grid_thw=grid,
        use_cache=False,
    )[0]
    logits = model.lm_head(hidden[0, :-1])
    return torch.log_softmax(logits, -1).gather(-1, tokens[0, 1:, None])[:, 0]


def plain_logps(
    model: Any, processor: Any, config: Any, example: VideoPairs, video: Frames
) -> list[torch.Tensor]:
    """The log-prob of each answer, alone after its prompt."""
    end = processor.tokenizer.eos_token
    sums = []
    for prompt in example.prompts:
        for answer in (prompt.chosen, *prompt.rejected):
            text = chat_text(processor, (None, prompt.prompt)) + answer + end
            encoded = encode(processor, config, [text], [[video]])[0]
            count = len(processor.tokenizer(answer + end)["input_ids"])
            logps = plain_forward(
                model,
                encoded.input_ids,
                encoded.positions,
                encoded.pixel_values_videos,
                encoded.video_grid_thw,
            )
            sums.append(logps[-count:].sum())
    return sums
