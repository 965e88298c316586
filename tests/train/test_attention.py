"""Packed attention against a dense mask, by SDPA group by group and by FlexAttention."""

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
    make_layout,
    may_attend,
    packed_flex,
    packed_sdpa,
    use_packed_attention,
    visible,
)

SEGMENTS = [[0, 0, 1, 2, 2], [0, 1], [0, 0, 0, 1, 1, 2, 3, 3]]


def layout() -> Layout:
    return make_layout([torch.tensor(one) for one in SEGMENTS])


def dense(row: Layout) -> torch.Tensor:
    """(tokens, tokens) by the rule, token by token."""
    tokens = len(row.groups)
    mask = torch.zeros(tokens, tokens, dtype=torch.bool)
    for query in range(tokens):
        for key in range(query + 1):
            mine = row.segments[key] == PROMPT or row.segments[key] == row.segments[query]
            mask[query, key] = bool(row.groups[key] == row.groups[query] and mine)
    return mask


def test_visible_by_hand() -> None:
    assert visible(torch.tensor([0, 0, 1, 2, 2]), 0).int().tolist() == [
        [1, 0, 0, 0, 0],
        [1, 1, 0, 0, 0],
        [1, 1, 1, 0, 0],
        [1, 1, 0, 1, 0],
        [1, 1, 0, 1, 1],
    ]
    assert visible(torch.tensor([0, 0, 1, 2]), 2).int().tolist() == [[1, 1, 1, 0], [1, 1, 0, 1]]


def test_spans() -> None:
    assert [(span.start, span.answers, span.end) for span in layout().spans] == [
        (0, 2, 5),
        (5, 6, 7),
        (7, 10, 15),
    ]
    assert [tuple(span.mask.shape) for span in layout().spans] == [(3, 5), (1, 2), (5, 8)]


@pytest.mark.parametrize("key_heads", [2, 4])
def test_sdpa_by_groups_equals_a_dense_mask(key_heads: int) -> None:
    generator = torch.Generator().manual_seed(0)
    row = layout()
    query, key, value = (
        torch.randn(
            1,
            heads,
            len(row.groups),
            8,
            generator=generator,
            dtype=torch.float64,
            requires_grad=True,
        )
        for heads in (4, key_heads, key_heads)
    )
    mine, _ = packed_sdpa(torch.nn.Module(), query, key, value, None, scaling=0.3, layout=row)
    whole = torch.nn.functional.scaled_dot_product_attention(
        query, key, value, dense(row), scale=0.3, enable_gqa=True
    )
    assert mine.shape == (1, len(row.groups), 4, 8)
    assert torch.allclose(mine, whole.transpose(1, 2), rtol=0, atol=1e-14)
    weights = torch.randn(mine.shape, generator=generator, dtype=torch.float64)
    ours = torch.autograd.grad((mine * weights).sum(), (query, key, value))
    theirs = torch.autograd.grad((whole.transpose(1, 2) * weights).sum(), (query, key, value))
    assert all(
        torch.allclose(one, other, rtol=0, atol=1e-13)
        for one, other in zip(ours, theirs, strict=True)
    )


def test_flex_sees_the_same() -> None:
    row = layout()
    mask = row.for_flex(compiled=False).blocks
    assert mask is not None
    assert torch.equal(
        create_mask(mask.mask_mod, None, None, 15, 15, device="cpu")[0, 0], dense(row)
    )
    generator = torch.Generator().manual_seed(0)
    query, key, value = (torch.randn(1, 2, 15, 16, generator=generator) for _ in range(3))
    whole = torch.nn.functional.scaled_dot_product_attention(query, key, value, dense(row))
    assert torch.allclose(flex_attention(query, key, value, block_mask=mask), whole, atol=1e-6)


def test_rows_of_many_lengths_compile_few_times() -> None:
    """Compiled anew for each, it would reach torch's limit, behind which it holds the scores of the whole row. The graphs run
    uncompiled here: kernels are the business of tests/train/test_gpu.py."""
    graphs: list[Any] = []

    def counted(graph: torch.fx.GraphModule, _: list[torch.Tensor]) -> Callable[..., Any]:
        graphs.append(graph)
        return graph.forward

    make, attend = _compiled(create_block_mask, counted), _compiled(flex_attention, counted)
    for number, tokens in enumerate((300, 310, 520, 40, 128, 257, 1000, 384, 641, 77, 129, 256)):
        groups, segments = (
            torch.zeros(tokens, dtype=torch.long),
            (torch.arange(tokens) // 30).clamp(max=3),
        )
        layout = Layout(groups, segments, ())
        blocks = make(may_attend(layout), None, None, tokens, tokens, device="cpu")
        query, key, value = (torch.randn(1, heads, tokens, 16) for heads in (4, 2, 2))
        found = attend(query, key, value, block_mask=blocks, enable_gqa=True)
        mask = create_mask(may_attend(layout), None, None, tokens, tokens, device="cpu")[0, 0]
        whole = torch.nn.functional.scaled_dot_product_attention(
            query, key, value, mask, enable_gqa=True
        )
        assert torch.allclose(found, whole, atol=1e-5)
        if number == 3:
            seen = len(graphs)
    assert len(graphs) == seen <= 8


@pytest.mark.parametrize("size", [(64, 64), (96, 160), (160, 64)])
@pytest.mark.parametrize("whole_frames", [[], [1], [0, 1, 2]])
def test_windows_of_the_vision_tower_are_transformers(
    size: tuple[int, int], whole_frames: list[int]
) -> None:
    """Features and gradients; windows of 64 pixels, cut off at the frame's edges."""
    torch.manual_seed(0)
    config = make_model("qwen2_5_vl", make_tokenizer()).config
    config.vision_config.fullatt_block_indexes = whole_frames
    model = AutoModelForImageTextToText.from_config(config, dtype=torch.float64)
    grid = torch.tensor([[3, size[0] // 16, size[1] // 16], [2, 4, 6]])
    pixels = torch.randn(int(grid.prod(-1).sum()), 3 * 2 * 16 * 16, dtype=torch.float64)
    found = []
    for packed in (False, True):
        one = use_packed_attention(model, "sdpa") if packed else model
        features = torch.cat(
            one.model.get_video_features(pixels, grid, return_dict=True).pooler_output
        )
        weights = torch.linspace(-1, 1, features.numel(), dtype=torch.float64).view_as(features)
        gradients = torch.autograd.grad(
            (features * weights).sum(), list(model.model.visual.parameters())
        )
        found.append([features, *gradients])
    assert model.model.visual.config._attn_implementation == WINDOWED
    assert all(
        torch.allclose(one, other, rtol=1e-9, atol=1e-9) for one, other in zip(*found, strict=True)
    )


@pytest.mark.parametrize("attend", [packed_sdpa, packed_flex])
def test_without_a_layout_it_says_what_is_missing(attend: Callable[..., object]) -> None:
    with pytest.raises(ValueError, match="layout="):
        attend(torch.nn.Module(), *[torch.zeros(1, 1, 2, 4)] * 3, None)
