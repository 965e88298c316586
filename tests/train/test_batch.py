"""Packed prefix sharing against the plain forward: one sequence per answer, ordinary causal attention, our positions."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers.models.qwen2_5_vl import modeling_qwen2_5_vl
from transformers.models.qwen3_vl import modeling_qwen3_vl

from tempo_ray.config import FramesConfig, LoraConfig
from tempo_ray.models.frames import Frames, read_frames
from tempo_ray.models.vlm import chat_text, encode, load_model, load_model_config, load_processor
from tempo_ray.shapeworld.build import FAMILIES
from tempo_ray.train.attention import use_packed_attention
from tempo_ray.train.batch import Unusable, blank, group_tokens, pack, read_group, split
from tempo_ray.train.curriculum import Group
from tempo_ray.train.lora import add_adapter
from tempo_ray.train.score import Scorer, answer_sums

FRAMES = FramesConfig()
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


def groups_of(videos: list[str]) -> list[Group]:
    return [
        Group(videos[0], (None, "Describe this video in order."), ANSWERS[0], ANSWERS[1:]),
        Group(
            videos[1],
            (None, "What happens in this video from start to end?"),
            ANSWERS[1],
            (ANSWERS[3],),
        ),
        Group(videos[2], (None, "Describe this video in order."), ANSWERS[2]),
    ]


def drawn(rng: np.random.Generator, frames: int, height: int, width: int) -> Frames:
    return Frames.presented(rng.integers(0, 255, (frames, height, width, 3), dtype=np.uint8), 2.0)


def many() -> list[tuple[Group, Frames]]:
    """k = 1 to 12, over videos short and long, wide and tall."""
    rng = np.random.default_rng(0)
    made = []
    for k in range(1, 13):
        texts = [
            " ".join(rng.choice(WORDS, rng.integers(1, 24))) + f" {number}."
            for number in range(k + 1)
        ]
        video = drawn(
            rng,
            int(rng.choice([2, 4, 6, 16])),
            *rng.choice([(32, 96), (96, 32), (64, 64), (32, 32)]).tolist(),
        )
        group = Group("", (None, "Describe this video in order."), texts[0], tuple(texts[1:]))
        if k in (2, 5, 9):  # prompts of their own, as pairs draw them
            other = Group("", (None, "What happens, from start to end?"), texts[1], (texts[0],))
            group = replace(
                group, more=(other, Group("", (None, "Tell it."), texts[0], tuple(texts[1:3])))
            )
        made.append((group, video))
    return made


def plain_forward(
    model: Any, tokens: np.ndarray, positions: np.ndarray, pixels: Any, grid: Any
) -> torch.Tensor:
    """The log-prob of every token but the first, by the model's own forward over one sequence."""
    ids = torch.from_numpy(tokens)[None]
    hidden = model.model(
        input_ids=ids,
        attention_mask=torch.ones_like(ids),
        position_ids=torch.from_numpy(positions)[:, None],
        pixel_values_videos=pixels,
        video_grid_thw=grid,
        use_cache=False,
    )[0]
    return torch.log_softmax(model.lm_head(hidden[0, :-1]), -1).gather(-1, ids[0, 1:, None])[:, 0]


def plain_logps(
    model: Any, processor: Any, config: Any, group: Group, video: Frames
) -> list[torch.Tensor]:
    """The log-prob of each answer, alone after its prompt."""
    end = processor.tokenizer.eos_token
    sums = []
    for parts, answer in [
        (one.parts, answer) for one in group.prompts for answer in (one.chosen, *one.rejected)
    ]:
        one = encode(processor, config, [chat_text(processor, parts) + answer + end], [[video]])[0]
        count = len(processor.tokenizer(answer + end)["input_ids"])
        logps = plain_forward(
            model, one.input_ids, one.positions, one.pixel_values_videos, one.video_grid_thw
        )
        sums.append(logps[-count:].sum())
    return sums


def gradients(model: Any) -> dict[str, torch.Tensor]:
    taken = {
        name: one.grad.clone() for name, one in model.named_parameters() if one.grad is not None
    }
    model.zero_grad()
    return taken


@torch.no_grad()
def relative(one: torch.Tensor, other: torch.Tensor) -> float:
    return float((one - other).norm() / other.norm())


@pytest.fixture
def whole_doubles(monkeypatch: pytest.MonkeyPatch) -> None:
    """transformers' norms and rotary embeddings round doubles to float32, in the plain form as in ours; here they do not."""

    def norm(self: Any, hidden: torch.Tensor) -> torch.Tensor:
        return (
            self.weight
            * hidden
            * torch.rsqrt(hidden.pow(2).mean(-1, keepdim=True) + self.variance_epsilon)
        )

    def rotary(q: Any, k: Any, cos: Any, sin: Any) -> tuple[Any, Any]:
        turn = modeling_qwen2_5_vl.rotate_half
        cos, sin = cos.unsqueeze(-2).to(q.dtype), sin.unsqueeze(-2).to(q.dtype)
        return q * cos + turn(q) * sin, k * cos + turn(k) * sin

    monkeypatch.setattr(modeling_qwen2_5_vl.Qwen2_5_VLRMSNorm, "forward", norm)
    monkeypatch.setattr(modeling_qwen3_vl.Qwen3VLTextRMSNorm, "forward", norm)
    for module in (modeling_qwen2_5_vl, modeling_qwen3_vl):
        monkeypatch.setattr(module, "apply_rotary_pos_emb_vision", rotary)


def both_ways(
    path: str, dtype: torch.dtype, given: list[tuple[Group, Frames]]
) -> list[tuple[torch.Tensor, dict[str, Any]]]:
    """Log-probs of all answers and every parameter's gradient of their weighted sum: packed, and plain."""
    processor, config = load_processor(path), load_model_config(path)
    batch = pack([group_tokens(processor, config, group, video) for group, video in given])
    weights = torch.tensor(np.random.default_rng(0).normal(size=len(batch.lengths)), dtype=dtype)
    packed, plain = use_packed_attention(load_model(path, dtype), "sdpa"), load_model(path, dtype)
    found = []
    for model, logps in (
        (packed, answer_sums(Scorer(packed)(batch.inputs, batch.source, batch.target)[0], batch)),
        (
            plain,
            torch.stack(
                [
                    one
                    for group, video in given
                    for one in plain_logps(plain, processor, config, group, video)
                ]
            ),
        ),
    ):
        (logps * weights).sum().backward()
        taken = gradients(model)
        assert set(taken) == {name for name, _ in model.named_parameters()}
        found.append((logps.detach(), taken))
    return found


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.usefixtures("whole_doubles")
def test_packed_prefix_sharing_equals_the_plain_forward(
    family: str, models: dict[str, Path]
) -> None:
    """In float32 a gradient is off by rounding in either form: ours may be no further from the doubles than the plain one."""
    for given in (many()[:5], many()[5:9], many()[9:]):
        (logps64, grads64), (plain_logps64, plain_grads64) = both_ways(
            str(models[family]), torch.float64, given
        )
        (logps32, grads32), (plain_logps32, plain_grads32) = both_ways(
            str(models[family]), torch.float32, given
        )
        assert ((logps64 - plain_logps64) / plain_logps64).abs().max() < 1e-12
        assert ((logps32 - plain_logps32) / plain_logps32).abs().max() < 1e-6
        for name, truth in plain_grads64.items():
            assert relative(grads64[name], truth) < 1e-12, name
            assert relative(grads32[name], truth) < max(
                1e-6, 1.5 * relative(plain_grads32[name], truth)
            ), name


@torch.no_grad()
@pytest.mark.parametrize("family", FAMILIES)
def test_flex_attention_is_the_same_as_sdpa(
    family: str, models: dict[str, Path], videos: list[str]
) -> None:
    """Run as it is written: FlexAttention compiles, and goes backward, on a GPU (tests/train/test_gpu.py)."""
    path = str(models[family])
    processor, config = load_processor(path), load_model_config(path)
    batch = pack(
        [
            one
            for group in groups_of(videos)
            for one in read_group(processor, config, group, FRAMES, 4096)
        ]
    )
    with torch.compiler.set_stance("force_eager"):
        sdpa, flex = (
            Scorer(use_packed_attention(load_model(path, torch.float32), kind))(
                given.inputs, given.source, given.target
            )[0]
            for kind, given in (("sdpa", batch), ("flex", batch.for_flex()))
        )
    assert relative(flex, sdpa) < 1e-6


def test_pairs_and_lengths(models: dict[str, Path], videos: list[str]) -> None:
    path = str(models["qwen2_5_vl"])
    processor, config = load_processor(path), load_model_config(path)
    tokens = [
        one
        for group in groups_of(videos)
        for one in read_group(processor, config, group, FRAMES, 4096)
    ]
    batch = pack(tokens)
    assert batch.chosen.tolist() == [0, 0, 0, 4]
    assert batch.rejected.tolist() == [1, 2, 3, 5]
    texts = [
        processor.tokenizer.decode(batch.target[batch.answer == number]) for number in range(7)
    ]
    assert texts == [one + "<|im_end|>" for one in (*ANSWERS, ANSWERS[1], ANSWERS[3], ANSWERS[2])]
    assert batch.lengths.tolist() == [len(processor.tokenizer(text)["input_ids"]) for text in texts]


@pytest.mark.parametrize("family", FAMILIES)
def test_many_prompts_share_one_video(
    family: str, models: dict[str, Path], videos: list[str]
) -> None:
    path = str(models[family])
    processor, config = load_processor(path), load_model_config(path)
    first, second, _ = groups_of(videos)
    group = replace(first, more=(replace(second, uri=first.uri),))
    [one] = read_group(processor, config, group, FRAMES, 4096)
    batch = pack([one])
    assert list(zip(batch.chosen.tolist(), batch.rejected.tolist(), strict=True)) == [
        (0, 1),
        (0, 2),
        (0, 3),
        (4, 5),
    ]
    texts = [
        processor.tokenizer.decode(batch.target[batch.answer == number]) for number in range(6)
    ]
    assert texts == [text + "<|im_end|>" for text in (*ANSWERS, ANSWERS[1], ANSWERS[3])]
    apart = read_group(processor, config, group, FRAMES, len(one) - 1)
    assert [part.pairs for part in apart] == [((0, 1), (0, 2), (0, 3)), ((0, 1),)]
    seen = [int((part.ids == config.video_token_id).sum()) for part in (one, *apart)]
    assert seen[0] == seen[1] == seen[2] > 0, "once for all prompts, or once for each"


def test_answers_restart_at_the_position_after_the_prompt(
    models: dict[str, Path], videos: list[str]
) -> None:
    path = str(models["qwen2_5_vl"])
    processor, config = load_processor(path), load_model_config(path)
    [one] = read_group(processor, config, groups_of(videos)[0], FRAMES, 4096)
    following = one.positions[:, one.segments == 0].max() + 1
    for number in range(1, one.answers + 1):
        mine = one.positions[:, one.segments == number]
        assert (mine == following + np.arange(mine.shape[1])).all()


def test_rows_stay_under_the_budget_and_lose_nothing(
    models: dict[str, Path], videos: list[str]
) -> None:
    path = str(models["qwen2_5_vl"])
    processor, config = load_processor(path), load_model_config(path)
    tokens = [
        one
        for group in groups_of(videos)
        for one in read_group(processor, config, group, FRAMES, 4096)
    ] * 3
    budget = 2 * max(map(len, tokens))
    rows = split(tokens, budget)
    assert sum(map(len, rows)) == len(tokens)
    assert all(sum(map(len, row)) <= budget for row in rows)
    assert len(rows) < len(tokens) / 2
    for row in rows:
        assert pack(row).inputs["input_ids"].shape == (1, sum(map(len, row))), "padded"
    assert split([], budget) == []


def conversation() -> Group:
    later = (("And then?", "A blue square spins."), ("Which came first?", "The circle."))
    return Group(
        "", (None, "What moves?"), "A red circle.", system="You watch videos.", later=later
    )


@pytest.mark.parametrize("family", FAMILIES)
def test_a_conversation_trains_its_answers_and_nothing_else(
    family: str, models: dict[str, Path]
) -> None:
    path = str(models[family])
    processor, config = load_processor(path), load_model_config(path)
    video = drawn(np.random.default_rng(0), 4, 64, 64)
    one = group_tokens(processor, config, conversation(), video)
    said = processor.tokenizer.decode(one.ids[one.trained])
    assert said == "A red circle.<|im_end|>A blue square spins.<|im_end|>The circle.<|im_end|>"
    assert "You watch videos." in processor.tokenizer.decode(one.ids[:20])
    # as one sequence through the model's own forward: the same log-probs
    model = load_model(path, torch.float64)
    packed = use_packed_attention(load_model(path, torch.float64), "sdpa")
    batch = pack([one, one])
    logps, _ = Scorer(packed)(batch.inputs, batch.source, batch.target)
    plain = plain_forward(model, one.ids, one.positions, one.pixels, one.grid)[
        torch.from_numpy(one.trained)[1:]
    ]
    assert torch.allclose(logps, torch.cat([plain, plain]), rtol=1e-7)


@pytest.mark.parametrize("train_vision", [False, True])
@pytest.mark.parametrize("family", FAMILIES)
def test_the_reference_is_the_model_without_its_adapter(
    family: str, train_vision: bool, models: dict[str, Path], videos: list[str]
) -> None:
    path = str(models[family])
    processor, config = load_processor(path), load_model_config(path)
    batch = pack(
        [
            one
            for group in groups_of(videos)
            for one in read_group(processor, config, group, FRAMES, 4096)
        ]
    )
    given = (batch.inputs, batch.source, batch.target)
    before, none = Scorer(use_packed_attention(load_model(path, torch.float32), "sdpa"))(*given)
    assert none is None
    model = use_packed_attention(load_model(path, torch.float32), "sdpa")
    adapter = add_adapter(model, LoraConfig(rank=4, alpha=8), 0, train_vision)
    torch.manual_seed(0)
    for one in model.parameters():
        if one.requires_grad:
            one.data.normal_(std=0.05)
    calls: list[int] = []
    seen = model.model.visual.register_forward_hook(lambda *_: calls.append(1))
    logps, reference = Scorer(model, adapter)(*given, reference=True)
    seen.remove()
    assert len(calls) == (2 if train_vision else 1), "a frozen vision tower reads a video once"
    assert reference is not None
    assert torch.equal(reference, before.detach())
    assert not torch.allclose(logps, before, atol=1e-3)
    assert torch.allclose(logps, Scorer(model, adapter)(*given)[0])
    logps.sum().backward()
    assert all(one.grad is not None for one in model.parameters() if one.requires_grad)


def test_what_cannot_be_read_says_why(
    models: dict[str, Path], videos: list[str], tmp_path: Path
) -> None:
    path = str(models["qwen2_5_vl"])
    processor, config = load_processor(path), load_model_config(path)
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
        with pytest.raises(Unusable) as caught:
            read_group(processor, config, Group(uri, (None, "?"), "a", (answer,)), FRAMES, limit)
        assert caught.value.reason == reason
        assert uri in str(caught.value)


@pytest.mark.parametrize("failures", [2, 3])
def test_a_store_that_fails_in_passing_is_asked_again(
    failures: int, models: dict[str, Path], videos: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    path = str(models["qwen2_5_vl"])
    errors = [TimeoutError("the store is busy")] * failures

    def busy(*given: Any) -> Frames:
        if errors:
            raise errors.pop()
        return read_frames(*given)

    monkeypatch.setattr("tempo_ray.train.batch.read_frames", busy)
    given = (load_processor(path), load_model_config(path), groups_of(videos)[0], FRAMES, 4096)
    if failures == 2:
        assert len(read_group(*given)) == 1
    else:
        with pytest.raises(Unusable, match="busy"):
            read_group(*given)


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
    assert (one.ids == read_group(processor, config, group, FRAMES, 4096)[0].ids).all()
