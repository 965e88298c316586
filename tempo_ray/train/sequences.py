"""Examples -> token sequences: the prompt with its video once, then every answer.

All answers of an example restart at the position after the prompt and attend to the prompt and
themselves only. Each has the log-probs that it would have alone, while the video is encoded once.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
from jaxtyping import Bool, Float, Int
from torch import Tensor
from transformers import PretrainedConfig

from tempo_ray.config import FramesConfig
from tempo_ray.errors import TransientError
from tempo_ray.models.frames import Frames, UnreadableVideo, read_frames
from tempo_ray.models.vlm import chat_text, encode
from tempo_ray.retry import retry_with_backoff
from tempo_ray.train.examples import Conversation, Example, PromptPairs, VideoPairs

READ_ATTEMPTS = 3
"""At a video whose store fails transiently."""


class UnusableExample(Exception):
    """An example that cannot be trained on. `reason` is one of `missing`, `unreadable`, `too_long`,
    `template`, `special_token`; the message names the video."""

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason


class Piece(NamedTuple):
    """Consecutive tokens of an answer's segment, and whether they are to be predicted."""

    ids: list[int]
    trained: bool


@dataclass(frozen=True)
class ExampleTokens:
    """One example as a sequence. `segments` is 0 in the prompt that its answers share, k in its
    k-th answer; `trained` marks the tokens to be predicted; `pairs` are (chosen, rejected), as
    indices of answers from 0; `pixels` and `grid` are the video's patches."""

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


def read_example(
    processor: Any,
    config: PretrainedConfig,
    example: Example,
    frames: FramesConfig,
    max_tokens: int,
) -> list[ExampleTokens]:
    """The example with its video read: one sequence, or one per prompt where that is too long.

    Raises:
        UnusableExample: its video or its text cannot be used, or it is longer than `max_tokens`.
    """
    _check_special_tokens(processor, example)
    try:
        video = retry_with_backoff(
            lambda: _read_video(example.uri, frames, config), READ_ATTEMPTS, OSError
        )
    except (UnreadableVideo, TransientError) as error:
        raise UnusableExample("unreadable", f"{example.uri}: {error}") from error
    whole = tokenize_example(processor, config, example, video)
    if len(whole) <= max_tokens:
        return [whole]
    parts = [whole]
    if isinstance(example, VideoPairs) and len(example.prompts) > 1:
        alone = [replace(example, prompts=(prompt,)) for prompt in example.prompts]
        parts = [tokenize_example(processor, config, part, video) for part in alone]
    longest = max(parts, key=len)
    if len(longest) > max_tokens:
        raise UnusableExample(
            "too_long",
            f"{example.uri}: {len(longest)} tokens with {longest.answers} answers, max_tokens is "
            f"{max_tokens}",
        )
    return parts


def _read_video(uri: str, frames: FramesConfig, config: PretrainedConfig) -> Frames:
    try:
        return read_frames(uri, frames, config.model_type)
    except FileNotFoundError as error:
        raise UnusableExample("missing", f"{uri}: {error}") from error
    except pa.ArrowInvalid as error:  # a scheme that Arrow does not know
        raise UnusableExample("unreadable", f"{uri}: {error}") from error


def _check_special_tokens(processor: Any, example: Example) -> None:
    """A special token in a text would be one to the model too: a video that does not exist, or an
    end in the middle of an answer."""
    for text in _texts(example):
        for token in processor.tokenizer.all_special_tokens:
            if token in text:
                raise UnusableExample(
                    "special_token",
                    f"{example.uri}: its text contains the special token {token}: {text[:80]!r}",
                )


def _texts(example: Example) -> Iterator[str]:
    if isinstance(example, Conversation):
        yield from (part for part in example.parts if part)
        yield example.answer
        yield from (text for turn in example.turns for text in turn)
        yield example.system or ""
        return
    for prompt in example.prompts:
        yield from (prompt.prompt, prompt.chosen, *prompt.rejected)


def tokenize_example(
    processor: Any, config: PretrainedConfig, example: Example, video: Frames
) -> ExampleTokens:
    """The example as one sequence: the prompt that its answers share, then the answers' segments.

    Every answer ends with the end token. Raises UnusableExample where the chat template does not
    allow it.
    """
    if isinstance(example, Conversation):
        text = chat_text(processor, example.parts, example.system)
        segments = [_conversation_segment(processor, example)]
        own_tokens: list[int] = []
    else:
        text = _prompt_text(processor, example.prompts[0])
        segments, own_tokens = _pair_segments(processor, example)
    prompt = encode(processor, config, [text], [[video]])[0]
    assert prompt.pixel_values_videos is not None
    assert prompt.video_grid_thw is not None
    shared = len(prompt.input_ids) - len(own_tokens)
    if list(prompt.input_ids[shared:]) != own_tokens:
        raise UnusableExample(
            "template", f"{example.uri}: the text after the video tokenizes differently beside it"
        )
    following = int(prompt.positions[:, :shared].max()) + 1
    lengths = [sum(len(piece.ids) for piece in segment) for segment in segments]
    answers = [following + np.arange(length) for length in lengths]
    pieces = [piece for segment in segments for piece in segment]
    return ExampleTokens(
        ids=np.concatenate([prompt.input_ids[:shared], *(piece.ids for piece in pieces)]),
        positions=np.concatenate(
            [prompt.positions[:, :shared], *(np.tile(places, (3, 1)) for places in answers)], axis=1
        ),
        segments=np.repeat(np.arange(len(lengths) + 1), [shared, *lengths]),
        trained=np.repeat(
            [False, *(piece.trained for piece in pieces)],
            [shared, *(len(piece.ids) for piece in pieces)],
        ),
        pairs=_pair_indices(example),
        pixels=prompt.pixel_values_videos,
        grid=prompt.video_grid_thw,
    )


def _prompt_text(processor: Any, prompt: PromptPairs) -> str:
    return chat_text(processor, (None, prompt.prompt))


def _tokens(processor: Any, text: str) -> list[int]:
    ids: list[int] = processor.tokenizer(text, add_special_tokens=False)["input_ids"]
    return ids


def _answer(processor: Any, text: str) -> Piece:
    return Piece(_tokens(processor, text + processor.tokenizer.eos_token), trained=True)


def _pair_segments(processor: Any, example: VideoPairs) -> tuple[list[list[Piece]], list[int]]:
    """The segment of each answer; and the first prompt's tokens after the video, if they are in its
    answers' segments instead of the shared prompt.

    Prompts of one video share what precedes the end of the video. One prompt alone is shared whole.
    """
    if len(example.prompts) == 1:
        prompt = example.prompts[0]
        texts = (prompt.chosen, *prompt.rejected)
        return [[_answer(processor, text)] for text in texts], []
    segments = []
    after_video = [_after_video(processor, prompt) for prompt in example.prompts]
    for prompt, tokens in zip(example.prompts, after_video, strict=True):
        for text in (prompt.chosen, *prompt.rejected):
            segments.append([Piece(tokens, trained=False), _answer(processor, text)])
    return segments, after_video[0]


def _after_video(processor: Any, prompt: PromptPairs) -> list[int]:
    """The prompt's tokens after the video; the special token that ends the video keeps them the
    same beside it."""
    return _tokens(processor, _prompt_text(processor, prompt).rpartition(processor.video_token)[2])


def _pair_indices(example: Example) -> tuple[tuple[int, int], ...]:
    """(chosen, rejected) as indices of the example's answers."""
    if isinstance(example, Conversation):
        return ()
    pairs = []
    chosen = 0
    for prompt in example.prompts:
        count = len(prompt.rejected)
        pairs += [(chosen, chosen + number) for number in range(1, count + 1)]
        chosen += count + 1
    return tuple(pairs)


def _conversation_segment(processor: Any, example: Conversation) -> list[Piece]:
    """The answers, trained, and between them the further questions as the chat template writes
    them. Raises UnusableExample where the template does not write turns one after the other."""
    end = processor.tokenizer.eos_token
    answer = example.answer
    segment = [_answer(processor, answer)]
    turns: list[tuple[str, str]] = []
    before = chat_text(processor, example.parts, example.system) + answer + end
    for question, next_answer in example.turns:
        turns.append((answer, question))
        text = chat_text(processor, example.parts, example.system, turns)
        if not text.startswith(before):
            raise UnusableExample(
                "template",
                f"{example.uri}: the chat template writes an answer differently once a turn "
                "follows it",
            )
        answer = next_answer
        question_tokens = _tokens(processor, text[len(before) :])
        segment += [Piece(question_tokens, trained=False), _answer(processor, answer)]
        before = text + answer + end
    return segment


def dummy_tokens(processor: Any, config: PretrainedConfig, example: Example) -> ExampleTokens:
    """A dummy example about a grey video of two frames: the smallest sequence of its structure."""
    grey = Frames.presented(np.full((2, 64, 64, 3), 128, np.uint8), 2.0)
    return tokenize_example(processor, config, example, grey)
