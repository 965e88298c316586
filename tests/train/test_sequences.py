"""Examples as token sequences: which tokens, at which positions, and what cannot be used."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tempo_ray.models.frames import Frames, read_frames
from tempo_ray.shapeworld.build import FAMILIES
from tempo_ray.train.batch import pack
from tempo_ray.train.examples import Conversation, PromptPairs, VideoPairs
from tempo_ray.train.objective import Dpo, Sft
from tempo_ray.train.sequences import (
    UnusableExample,
    dummy_tokens,
    read_example,
    tokenize_example,
)
from tests.train.packed import (
    ANSWERS,
    CONVERSATION,
    FRAMES,
    examples_of,
    processor_and_config,
    random_video,
)


def test_answers_restart_at_the_position_after_the_prompt(
    models: dict[str, Path], videos: list[str]
) -> None:
    processor, config = processor_and_config(models, "qwen2_5_vl")
    [tokens] = read_example(processor, config, examples_of(videos)[0], FRAMES, 4096)
    following = tokens.positions[:, tokens.segments == 0].max() + 1
    for number in range(1, tokens.answers + 1):
        positions = tokens.positions[:, tokens.segments == number]
        assert (positions == following + np.arange(positions.shape[1])).all()


@pytest.mark.parametrize("family", FAMILIES)
def test_many_prompts_share_one_video(
    family: str, models: dict[str, Path], videos: list[str]
) -> None:
    processor, config = processor_and_config(models, family)
    first, second, _ = examples_of(videos)
    assert isinstance(first, VideoPairs)
    assert isinstance(second, VideoPairs)
    example = replace(first, prompts=first.prompts + second.prompts)
    [shared] = read_example(processor, config, example, FRAMES, 4096)
    row = pack([shared])
    pairs = list(zip(row.chosen.tolist(), row.rejected.tolist(), strict=True))
    assert pairs == [(0, 1), (0, 2), (0, 3), (4, 5)]
    texts = [processor.tokenizer.decode(row.target[row.answer == number]) for number in range(6)]
    assert texts == [text + "<|im_end|>" for text in (*ANSWERS, ANSWERS[1], ANSWERS[3])]
    separate = read_example(processor, config, example, FRAMES, len(shared) - 1)
    assert [part.pairs for part in separate] == [((0, 1), (0, 2), (0, 3)), ((0, 1),)]
    counts = [int((part.ids == config.video_token_id).sum()) for part in (shared, *separate)]
    assert counts[0] == counts[1] == counts[2] > 0, "the video occurs once per sequence"


@pytest.mark.parametrize("family", FAMILIES)
def test_only_the_answers_of_a_conversation_are_trained(
    family: str, models: dict[str, Path]
) -> None:
    processor, config = processor_and_config(models, family)
    video = random_video(np.random.default_rng(0), 4, 64, 64)
    tokens = tokenize_example(processor, config, CONVERSATION, video)
    trained = processor.tokenizer.decode(tokens.ids[tokens.trained])
    assert trained == "A red circle.<|im_end|>A blue square spins.<|im_end|>The circle.<|im_end|>"
    assert "You watch videos." in processor.tokenizer.decode(tokens.ids[:20])


def test_unusable_examples_say_why(
    models: dict[str, Path], videos: list[str], tmp_path: Path
) -> None:
    processor, config = processor_and_config(models, "qwen2_5_vl")
    torn = tmp_path / "torn.mp4"
    torn.write_bytes(Path(videos[0]).read_bytes()[:500])
    for uri, answer, limit, reason in (
        (str(torn), "b", 4096, "unreadable"),
        ("https://example.com/a.mp4", "b", 4096, "unreadable"),
        ("/nowhere.mp4", "b", 4096, "missing"),
        (videos[0], "b", 20, "too_long"),
        (videos[0], "a circle<|video_pad|>", 4096, "special_token"),
        (videos[0], "a circle<|im_end|>\nmoves", 4096, "special_token"),
    ):
        example = VideoPairs(uri, (PromptPairs("?", "a", (answer,)),))
        with pytest.raises(UnusableExample) as caught:
            read_example(processor, config, example, FRAMES, limit)
        assert caught.value.reason == reason
        assert uri in str(caught.value)


def test_special_tokens_anywhere_in_a_conversation_are_refused(
    models: dict[str, Path], videos: list[str]
) -> None:
    processor, config = processor_and_config(models, "qwen2_5_vl")
    clean = Conversation(videos[0], (None, "?"), "a", turns=(("?", "b"),), system="s")
    for change in (
        {"parts": (None, "<|im_end|>")},
        {"answer": "<|im_end|>"},
        {"turns": (("<|im_end|>", "b"),)},
        {"turns": (("?", "<|im_end|>"),)},
        {"system": "<|im_end|>"},
    ):
        with pytest.raises(UnusableExample) as caught:
            read_example(processor, config, replace(clean, **change), FRAMES, 4096)
        assert caught.value.reason == "special_token"


@pytest.mark.parametrize("failures", [2, 3])
def test_a_transient_error_of_a_store_is_retried(
    failures: int, models: dict[str, Path], videos: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    processor, config = processor_and_config(models, "qwen2_5_vl")
    errors = [TimeoutError("the store is busy")] * failures

    def read(*arguments: Any) -> Frames:
        if errors:
            raise errors.pop()
        return read_frames(*arguments)

    monkeypatch.setattr("tempo_ray.train.sequences.read_frames", read)
    arguments = (processor, config, examples_of(videos)[0], FRAMES, 4096)
    if failures == 2:
        assert len(read_example(*arguments)) == 1
    else:
        with pytest.raises(UnusableExample, match="busy"):
            read_example(*arguments)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize(("objective", "answers"), [(Dpo, 2), (Sft, 1)])
def test_a_dummy_is_short_and_has_the_structure_of_an_example(
    objective: type[Dpo] | type[Sft], answers: int, family: str, models: dict[str, Path]
) -> None:
    tokens = dummy_tokens(*processor_and_config(models, family), objective.dummy)
    assert tokens.answers == answers
    assert len(tokens.pairs) == objective.dummy.pairs
    assert len(tokens) < 60


def test_a_video_that_was_read_before_needs_no_file(
    models: dict[str, Path], videos: list[str]
) -> None:
    processor, config = processor_and_config(models, "qwen3_vl")
    example = examples_of(videos)[0]
    video = read_frames(example.uri, FRAMES, config.model_type)
    tokens = tokenize_example(processor, config, example, video)
    assert (tokens.ids == read_example(processor, config, example, FRAMES, 4096)[0].ids).all()
