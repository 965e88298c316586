"""Packed prefix sharing against the plain forward: one sequence per answer, ordinary causal
attention, our positions."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers.models.qwen2_5_vl import modeling_qwen2_5_vl
from transformers.models.qwen3_vl import modeling_qwen3_vl

from tempo_ray.config import LoraConfig
from tempo_ray.models.frames import Frames
from tempo_ray.models.vlm import load_model, load_model_config, load_processor
from tempo_ray.shapeworld.build import FAMILIES
from tempo_ray.train.attention import use_packed_attention
from tempo_ray.train.batch import pack
from tempo_ray.train.examples import VideoPairs
from tempo_ray.train.lora import add_adapter
from tempo_ray.train.policy import LogProbs, sum_by_answer
from tempo_ray.train.sequences import tokenize_example
from tests.train.packed import (
    CONVERSATION,
    packed_row,
    plain_forward,
    plain_logps,
    processor_and_config,
    random_examples,
    random_video,
)


@torch.no_grad()
def relative_difference(value: torch.Tensor, truth: torch.Tensor) -> float:
    return float((value - truth).norm() / truth.norm())


@pytest.fixture
def doubles_throughout(monkeypatch: pytest.MonkeyPatch) -> None:
    """transformers' norms and rotary embeddings round doubles to float32, in the plain form as in
    ours; here they do not."""

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


Results = tuple[torch.Tensor, dict[str, torch.Tensor]]
"""Log-probs of answers, and every parameter's gradient of their weighted sum."""


def differentiate(model: Any, logps: torch.Tensor) -> Results:
    draws = np.random.default_rng(0).normal(size=len(logps))
    (logps * torch.tensor(draws, dtype=logps.dtype)).sum().backward()
    parameters = dict(model.named_parameters())
    gradients = {name: parameter.grad.clone() for name, parameter in parameters.items()}
    model.zero_grad()
    return logps.detach(), gradients


def packed_and_plain(
    path: str, dtype: torch.dtype, examples: list[tuple[VideoPairs, Frames]]
) -> tuple[Results, Results]:
    processor, config = load_processor(path), load_model_config(path)
    row = pack([tokenize_example(processor, config, *example) for example in examples])
    packed_model = use_packed_attention(load_model(path, dtype), "sdpa")
    logps = LogProbs(packed_model)(row.inputs, row.source, row.target)[0]
    packed = differentiate(packed_model, sum_by_answer(logps, row))
    plain_model = load_model(path, dtype)
    answers = [
        logp
        for example, video in examples
        for logp in plain_logps(plain_model, processor, config, example, video)
    ]
    return packed, differentiate(plain_model, torch.stack(answers))


@pytest.mark.slow
@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.usefixtures("doubles_throughout")
def test_packed_prefix_sharing_equals_the_plain_forward(
    family: str, models: dict[str, Path]
) -> None:
    """In float32 a gradient is off by rounding in either form: ours may be no further from the
    doubles than the plain one."""
    path = str(models[family])
    everything = random_examples()
    for examples in (everything[:5], everything[5:9], everything[9:]):
        (logps64, grads64), (plain_logps64, plain_grads64) = packed_and_plain(
            path, torch.float64, examples
        )
        (logps32, grads32), (plain_logps32, plain_grads32) = packed_and_plain(
            path, torch.float32, examples
        )
        assert ((logps64 - plain_logps64) / plain_logps64).abs().max() < 1e-12
        assert ((logps32 - plain_logps32) / plain_logps32).abs().max() < 1e-6
        for name, truth in plain_grads64.items():
            assert relative_difference(grads64[name], truth) < 1e-12, name
            rounding = relative_difference(plain_grads32[name], truth)
            assert relative_difference(grads32[name], truth) < max(1e-6, 1.5 * rounding), name


@torch.no_grad()
@pytest.mark.parametrize("family", FAMILIES)
def test_flex_attention_equals_sdpa(
    family: str, models: dict[str, Path], videos: list[str]
) -> None:
    """Run eagerly: FlexAttention compiles, and has a backward pass, on a GPU
    (tests/train/test_gpu.py)."""
    path = str(models[family])
    row = packed_row(models, family, videos)
    with torch.compiler.set_stance("force_eager"):
        sdpa, flex = (
            LogProbs(use_packed_attention(load_model(path, torch.float32), kind))(
                packed.inputs, packed.source, packed.target
            )[0]
            for kind, packed in (("sdpa", row), ("flex", row.for_flex()))
        )
    assert relative_difference(flex, sdpa) < 1e-6


@pytest.mark.parametrize("family", FAMILIES)
def test_a_packed_conversation_equals_the_plain_forward(
    family: str, models: dict[str, Path]
) -> None:
    path = str(models[family])
    processor, config = processor_and_config(models, family)
    video = random_video(np.random.default_rng(0), 4, 64, 64)
    tokens = tokenize_example(processor, config, CONVERSATION, video)
    row = pack([tokens, tokens])
    packed_model = use_packed_attention(load_model(path, torch.float64), "sdpa")
    logps, _ = LogProbs(packed_model)(row.inputs, row.source, row.target)
    model = load_model(path, torch.float64)
    all_logps = plain_forward(model, tokens.ids, tokens.positions, tokens.pixels, tokens.grid)
    plain = all_logps[torch.from_numpy(tokens.trained)[1:]]
    assert torch.allclose(logps, torch.cat([plain, plain]), rtol=1e-7)


@pytest.mark.parametrize("train_vision", [False, True])
@pytest.mark.parametrize("family", FAMILIES)
def test_the_reference_is_the_model_without_its_adapter(
    family: str, train_vision: bool, models: dict[str, Path], videos: list[str]
) -> None:
    path = str(models[family])
    row = packed_row(models, family, videos)
    arguments = (row.inputs, row.source, row.target)
    start_model = use_packed_attention(load_model(path, torch.float32), "sdpa")
    before, no_reference = LogProbs(start_model)(*arguments)
    assert no_reference is None
    model = use_packed_attention(load_model(path, torch.float32), "sdpa")
    adapter = add_adapter(model, LoraConfig(rank=4, alpha=8), 0, train_vision)
    torch.manual_seed(0)
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    for parameter in trained:
        parameter.data.normal_(std=0.05)
    calls: list[int] = []
    hook = model.model.visual.register_forward_hook(lambda *_: calls.append(1))
    logps, reference = LogProbs(model, adapter)(*arguments, reference=True)
    hook.remove()
    assert len(calls) == (2 if train_vision else 1), "a frozen vision tower encodes a video once"
    assert reference is not None
    assert torch.equal(reference, before.detach())
    assert not torch.allclose(logps, before, atol=1e-3)
    assert torch.allclose(logps, LogProbs(model, adapter)(*arguments)[0])
    logps.sum().backward()
    assert all(parameter.grad is not None for parameter in trained)
