"""Packed attention against a dense mask, by SDPA example by example and by FlexAttention."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch.nn.attention.flex_attention import create_block_mask, create_mask, flex_attention
from transformers import AutoModelForImageTextToText

from tempo_ray.shapeworld.build import make_model, make_tokenizer
from tempo_ray.train.attention import (
    PROMPT,
    WINDOWED,
    Layout,
    _compiled,
    answer_mask,
    make_layout,
    mask_of,
    packed_flex,
    packed_sdpa,
    use_packed_attention,
)

SEGMENTS = [[0, 0, 1, 2, 2], [0, 1], [0, 0, 0, 1, 1, 2, 3, 3]]


def packed_layout() -> Layout:
    return make_layout([torch.tensor(segments) for segments in SEGMENTS])


def dense_mask(layout: Layout) -> torch.Tensor:
    """(tokens, tokens) by the rule, token by token."""
    tokens = len(layout.examples)
    mask = torch.zeros(tokens, tokens, dtype=torch.bool)
    for query in range(tokens):
        for key in range(query + 1):
            same_example = layout.examples[key] == layout.examples[query]
            in_prompt = layout.segments[key] == PROMPT
            same_segment = layout.segments[key] == layout.segments[query]
            mask[query, key] = bool(same_example and (in_prompt or same_segment))
    return mask


def test_answer_masks_by_hand() -> None:
    assert answer_mask(torch.tensor([0, 0, 1, 2, 2]), 0).int().tolist() == [
        [1, 0, 0, 0, 0],
        [1, 1, 0, 0, 0],
        [1, 1, 1, 0, 0],
        [1, 1, 0, 1, 0],
        [1, 1, 0, 1, 1],
    ]
    assert answer_mask(torch.tensor([0, 0, 1, 2]), 2).int().tolist() == [[1, 1, 1, 0], [1, 1, 0, 1]]


def test_each_example_has_its_span() -> None:
    spans = packed_layout().spans
    assert [(span.start, span.answers, span.end) for span in spans] == [
        (0, 2, 5),
        (5, 6, 7),
        (7, 10, 15),
    ]
    assert [span.lengths for span in spans] == [(1, 2), (1,), (2, 1, 2)]
    assert [span.side_by_side for span in spans] == [False, False, True]
    masks = [None if span.mask is None else tuple(span.mask.shape) for span in spans]
    assert masks == [(3, 5), (1, 2), None]


@pytest.mark.parametrize("key_heads", [2, 4])
def test_sdpa_by_examples_equals_a_dense_mask(key_heads: int) -> None:
    generator = torch.Generator().manual_seed(0)
    layout = packed_layout()
    query, key, value = (
        torch.randn(
            1,
            heads,
            len(layout.examples),
            8,
            generator=generator,
            dtype=torch.float64,
            requires_grad=True,
        )
        for heads in (4, key_heads, key_heads)
    )
    packed, _ = packed_sdpa(torch.nn.Module(), query, key, value, None, scaling=0.3, layout=layout)
    dense = torch.nn.functional.scaled_dot_product_attention(
        query, key, value, dense_mask(layout), scale=0.3, enable_gqa=True
    )
    assert packed.shape == (1, len(layout.examples), 4, 8)
    assert torch.allclose(packed, dense.transpose(1, 2), rtol=0, atol=1e-14)
    weights = torch.randn(packed.shape, generator=generator, dtype=torch.float64)
    packed_grads = torch.autograd.grad((packed * weights).sum(), (query, key, value))
    dense_grads = torch.autograd.grad((dense.transpose(1, 2) * weights).sum(), (query, key, value))
    for packed_grad, dense_grad in zip(packed_grads, dense_grads, strict=True):
        assert torch.allclose(packed_grad, dense_grad, rtol=0, atol=1e-13)


@pytest.mark.parametrize("key_heads", [2, 4])
@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_a_batch_of_answers_equals_a_dense_mask(dtype: torch.dtype, key_heads: int) -> None:
    """Six answers of two to four tokens: padded and batched, they compute less than in one piece.
    In bfloat16, outputs and gradients are as near to float64 as those of the dense mask."""
    generator = torch.Generator().manual_seed(0)
    lengths = (3, 2, 4, 3, 3, 2)
    segments = torch.tensor(
        [0] * 9 + [n for n, length in enumerate(lengths, 1) for _ in range(length)]
    )
    layout = make_layout([segments])
    assert layout.spans[0].side_by_side
    draw = [
        torch.randn(1, heads, len(segments), 8, generator=generator, dtype=torch.float64).to(dtype)
        for heads in (4, key_heads, key_heads)
    ]
    weights = torch.randn(1, len(segments), 4, 8, generator=generator, dtype=torch.float64)

    def run(attend: Callable[..., torch.Tensor], dtype: torch.dtype) -> list[torch.Tensor]:
        inputs = [tensor.to(dtype).requires_grad_() for tensor in draw]
        output = attend(*inputs)
        gradients = torch.autograd.grad((output * weights.to(dtype)).sum(), inputs)
        return [tensor.double() for tensor in (output, *gradients)]

    def packed(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
        module = torch.nn.Module()
        return packed_sdpa(module, query, key, value, None, scaling=0.3, layout=layout)[0]

    def dense(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.scaled_dot_product_attention(
            query, key, value, dense_mask(layout), scale=0.3, enable_gqa=True
        ).transpose(1, 2)

    exact = run(dense, torch.float64)
    rivals = run(dense, dtype)
    for ours, rival, expected in zip(run(packed, dtype), rivals, exact, strict=True):
        error, allowed = (ours - expected).abs().max(), (rival - expected).abs().max()
        assert error <= max(1e-13, 1.5 * float(allowed))


def test_flex_attends_to_the_same_tokens() -> None:
    layout = packed_layout()
    mask = layout.for_flex(compiled=False).blocks
    assert mask is not None
    flex_mask = create_mask(mask.mask_mod, None, None, 15, 15, device="cpu")[0, 0]
    assert torch.equal(flex_mask, dense_mask(layout))
    generator = torch.Generator().manual_seed(0)
    query, key, value = (torch.randn(1, 2, 15, 16, generator=generator) for _ in range(3))
    dense = torch.nn.functional.scaled_dot_product_attention(query, key, value, dense_mask(layout))
    assert torch.allclose(flex_attention(query, key, value, block_mask=mask), dense, atol=1e-6)


@pytest.mark.slow
def test_rows_of_many_lengths_compile_few_times() -> None:
    """Compiled for each length, it would reach torch's limit, past which it materialises the
    attention of the whole row. The graphs run uncompiled here: tests/train/test_gpu.py tests
    kernels."""
    graphs: list[Any] = []

    def count(graph: torch.fx.GraphModule, _: list[torch.Tensor]) -> Callable[..., Any]:
        graphs.append(graph)
        return graph.forward

    make_mask, attend = _compiled(create_block_mask, count), _compiled(flex_attention, count)
    for number, tokens in enumerate((300, 310, 520, 40, 128, 257, 1000, 384, 641, 77, 129, 256)):
        examples = torch.zeros(tokens, dtype=torch.long)
        segments = (torch.arange(tokens) // 30).clamp(max=3)
        layout = Layout(examples, segments, ())
        blocks = make_mask(mask_of(layout), None, None, tokens, tokens, device="cpu")
        query, key, value = (torch.randn(1, heads, tokens, 16) for heads in (4, 2, 2))
        flex = attend(query, key, value, block_mask=blocks, enable_gqa=True)
        mask = create_mask(mask_of(layout), None, None, tokens, tokens, device="cpu")[0, 0]
        dense = torch.nn.functional.scaled_dot_product_attention(
            query, key, value, mask, enable_gqa=True
        )
        assert torch.allclose(flex, dense, atol=1e-5)
        if number == 3:
            early_graphs = len(graphs)
    assert len(graphs) == early_graphs <= 8


@pytest.mark.parametrize("size", [(64, 64), (96, 160), (160, 64)])
@pytest.mark.parametrize("whole_frames", [[], [1], [0, 1, 2]])
def test_windows_of_the_vision_tower_equal_transformers(
    size: tuple[int, int], whole_frames: list[int]
) -> None:
    """Features and gradients; windows of 64 pixels, truncated at the frame's edges."""
    torch.manual_seed(0)
    config = make_model("qwen2_5_vl", make_tokenizer()).config
    config.vision_config.fullatt_block_indexes = whole_frames
    model = AutoModelForImageTextToText.from_config(config, dtype=torch.float64)
    grid = torch.tensor([[3, size[0] // 16, size[1] // 16], [2, 4, 6]])
    pixels = torch.randn(int(grid.prod(-1).sum()), 3 * 2 * 16 * 16, dtype=torch.float64)
    outputs = []
    for packed in (False, True):
        if packed:
            use_packed_attention(model, "sdpa")
        video = model.model.get_video_features(pixels, grid, return_dict=True)
        features = torch.cat(video.pooler_output)
        weights = torch.linspace(-1, 1, features.numel(), dtype=torch.float64).view_as(features)
        gradients = torch.autograd.grad(
            (features * weights).sum(), list(model.model.visual.parameters())
        )
        outputs.append([features, *gradients])
    assert model.model.visual.config._attn_implementation == WINDOWED
    for stock, ours in zip(*outputs, strict=True):
        assert torch.allclose(stock, ours, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("attend", [packed_sdpa, packed_flex])
def test_a_call_without_a_layout_is_refused(attend: Callable[..., object]) -> None:
    with pytest.raises(ValueError, match="layout="):
        attend(torch.nn.Module(), *[torch.zeros(1, 1, 2, 4)] * 3, None)
