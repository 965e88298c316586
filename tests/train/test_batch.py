"""Prefix sharing against the plain forward: one sequence per answer, ordinary causal attention, our positions."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tempo_ray.config import FramesConfig
from tempo_ray.models.frames import read_frames
from tempo_ray.models.vlm import chat_text, encode, load_model, load_model_config, load_processor
from tempo_ray.shapeworld.build import FAMILIES
from tempo_ray.train.attention import PADDING, prefix_mask
from tempo_ray.train.batch import Unusable, blank, collate, group_tokens, read_group, split
from tempo_ray.train.curriculum import Group
from tempo_ray.train.score import Scorer, answer_sums

FRAMES = FramesConfig()
ANSWERS = ("A red circle moves left.", "First a blue square spins, then a red circle.", "No.", "A green cross grows quickly.")


def groups_of(videos: list[str]) -> list[Group]:
    return [
        Group(videos[0], (None, "Describe this video in order."), ANSWERS[0], ANSWERS[1:]),
        Group(videos[1], (None, "What happens in this video from start to end?"), ANSWERS[1], (ANSWERS[3],)),
        Group(videos[2], (None, "Describe this video in order."), ANSWERS[2]),
    ]


def plain_logps(model: Any, processor: Any, config: Any, group: Group) -> list[torch.Tensor]:
    """The log-prob of each answer, alone after its prompt."""
    video = read_frames(group.uri, FRAMES, config.model_type)
    end = processor.tokenizer.eos_token
    sums = []
    for answer in (group.chosen, *group.rejected):
        one = encode(processor, config, [chat_text(processor, group.parts) + answer + end], [[video]])[0]
        ids = torch.from_numpy(one.input_ids)[None]
        hidden = model.model(
            input_ids=ids,
            attention_mask=torch.ones_like(ids),
            position_ids=torch.from_numpy(one.positions)[:, None],
            pixel_values_videos=one.pixel_values_videos,
            video_grid_thw=one.video_grid_thw,
            use_cache=False,
        )[0]
        count = len(processor.tokenizer(answer + end)["input_ids"])
        logps = torch.log_softmax(model.lm_head(hidden[:, -count - 1 : -1]), -1)
        sums.append(logps.gather(-1, ids[:, -count:, None]).sum())
    return sums


@torch.no_grad()
def relative(one: torch.Tensor, other: torch.Tensor) -> float:
    return float((one - other).abs().max() / other.abs().max())


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("family", FAMILIES)
def test_prefix_sharing_equals_the_plain_forward(
    family: str, dtype: torch.dtype, models: dict[str, Path], videos: list[str]
) -> None:
    path = str(models[family])
    model, processor, config = load_model(path, dtype), load_processor(path), load_model_config(path)
    groups = groups_of(videos)
    tokens = [read_group(processor, config, group, FRAMES, 4096) for group in groups]
    assert len({len(one) for one in tokens}) > 1, "rows of one length would not test the padding"
    weights = torch.tensor(np.random.default_rng(0).normal(size=7), dtype=dtype)

    batch = collate(tokens, processor.tokenizer.pad_token_id)
    shared = answer_sums(Scorer(model)(batch.inputs, batch.source, batch.target), batch)
    (shared * weights).sum().backward()
    gradients = {name: one.grad.clone() for name, one in model.named_parameters() if one.grad is not None}
    model.zero_grad()
    plain = torch.stack([one for group in groups for one in plain_logps(model, processor, config, group)])
    (plain * weights).sum().backward()

    assert shared.shape == (7,)
    tolerance = 1e-6 if dtype == torch.float32 else 1e-12
    assert relative(shared, plain) < tolerance
    # in both forms transformers' norms and rotary embeddings round to float32, of which gradients keep a trace
    for name, one in model.named_parameters():
        assert one.grad is not None, name
        assert relative(gradients[name], one.grad) < (1e-5 if dtype == torch.float32 else 1e-6), name


def test_pairs_and_lengths(models: dict[str, Path], videos: list[str]) -> None:
    path = str(models["qwen2_5_vl"])
    processor, config = load_processor(path), load_model_config(path)
    tokens = [read_group(processor, config, group, FRAMES, 4096) for group in groups_of(videos)]
    batch = collate(tokens, processor.tokenizer.pad_token_id)
    assert batch.chosen.tolist() == [0, 0, 0, 4]
    assert batch.rejected.tolist() == [1, 2, 3, 5]
    texts = [processor.tokenizer.decode(batch.target[batch.answer == number]) for number in range(7)]
    assert texts == [one + "<|im_end|>" for one in (*ANSWERS, ANSWERS[1], ANSWERS[3], ANSWERS[2])]
    assert batch.lengths.tolist() == [len(processor.tokenizer(text)["input_ids"]) for text in texts]


def test_answers_restart_at_the_position_after_the_prompt(models: dict[str, Path], videos: list[str]) -> None:
    path = str(models["qwen2_5_vl"])
    processor, config = load_processor(path), load_model_config(path)
    one = read_group(processor, config, groups_of(videos)[0], FRAMES, 4096)
    following = one.positions[:, one.segments == 0].max() + 1
    for number in range(1, one.answers + 1):
        mine = one.positions[:, one.segments == number]
        assert (mine == following + np.arange(mine.shape[1])).all()


def test_mask() -> None:
    mask = prefix_mask(torch.tensor([[0, 0, 1, 2, 2, PADDING]]))[0, 0].int().tolist()
    assert mask == [
        [1, 0, 0, 0, 0, 0],
        [1, 1, 0, 0, 0, 0],
        [1, 1, 1, 0, 0, 0],
        [1, 1, 0, 1, 0, 0],
        [1, 1, 0, 1, 1, 0],
        [1, 1, 0, 0, 0, 1],
    ]


def test_batches_stay_under_the_budget(models: dict[str, Path], videos: list[str]) -> None:
    path = str(models["qwen2_5_vl"])
    processor, config = load_processor(path), load_model_config(path)
    tokens = [read_group(processor, config, group, FRAMES, 4096) for group in groups_of(videos)] * 3
    budget = 2 * max(map(len, tokens))
    batches = split(tokens, budget)
    assert sum(map(len, batches)) == len(tokens)
    assert all(len(batch) * max(map(len, batch)) <= budget for batch in batches)
    assert split([], budget) == []


def test_what_cannot_be_read_says_why(models: dict[str, Path], videos: list[str], tmp_path: Path) -> None:
    path = str(models["qwen2_5_vl"])
    processor, config = load_processor(path), load_model_config(path)
    torn = tmp_path / "torn.mp4"
    torn.write_bytes(Path(videos[0]).read_bytes()[:500])
    for uri, limit, reason in ((str(torn), 4096, "unreadable"), ("/nowhere.mp4", 4096, "missing"), (videos[0], 20, "too_long")):
        with pytest.raises(Unusable) as caught:
            read_group(processor, config, Group(uri, (None, "?"), "a", ("b",)), FRAMES, limit)
        assert caught.value.reason == reason
        assert uri in str(caught.value)


@pytest.mark.parametrize("family", FAMILIES)
def test_the_blank_has_the_shape_of_a_group(family: str, models: dict[str, Path]) -> None:
    path = str(models[family])
    one = blank(load_processor(path), load_model_config(path), 2)
    assert one.answers == 2
    assert len(one) < 60


def test_one_group_alone_needs_no_file(models: dict[str, Path], videos: list[str]) -> None:
    path = str(models["qwen3_vl"])
    processor, config = load_processor(path), load_model_config(path)
    group = groups_of(videos)[0]
    video = read_frames(group.uri, FRAMES, config.model_type)
    one = group_tokens(processor, config, group, video)
    assert (one.ids == read_group(processor, config, group, FRAMES, 4096).ids).all()
