"""Packed attention against a dense mask, by SDPA group by group and by FlexAttention."""

from collections.abc import Callable

import pytest
import torch
from torch.nn.attention.flex_attention import create_mask, flex_attention

from tempo_ray.train.attention import PROMPT, Layout, make_layout, packed_flex, packed_sdpa, visible

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
    assert [(span.start, span.answers, span.end) for span in layout().spans] == [(0, 2, 5), (5, 6, 7), (7, 10, 15)]
    assert [tuple(span.mask.shape) for span in layout().spans] == [(3, 5), (1, 2), (5, 8)]


@pytest.mark.parametrize("key_heads", [2, 4])
def test_sdpa_by_groups_equals_a_dense_mask(key_heads: int) -> None:
    generator = torch.Generator().manual_seed(0)
    row = layout()
    query, key, value = (
        torch.randn(1, heads, len(row.groups), 8, generator=generator, dtype=torch.float64, requires_grad=True)
        for heads in (4, key_heads, key_heads)
    )
    mine, _ = packed_sdpa(torch.nn.Module(), query, key, value, None, scaling=0.3, layout=row)
    whole = torch.nn.functional.scaled_dot_product_attention(query, key, value, dense(row), scale=0.3, enable_gqa=True)
    assert mine.shape == (1, len(row.groups), 4, 8)
    assert torch.allclose(mine, whole.transpose(1, 2), rtol=0, atol=1e-14)
    weights = torch.randn(mine.shape, generator=generator, dtype=torch.float64)
    ours = torch.autograd.grad((mine * weights).sum(), (query, key, value))
    theirs = torch.autograd.grad((whole.transpose(1, 2) * weights).sum(), (query, key, value))
    assert all(torch.allclose(one, other, rtol=0, atol=1e-13) for one, other in zip(ours, theirs, strict=True))


def test_flex_sees_the_same() -> None:
    row = layout()
    mask = row.for_flex(compiled=False).blocks
    assert mask is not None
    assert torch.equal(create_mask(mask.mask_mod, None, None, 15, 15, device="cpu")[0, 0], dense(row))
    generator = torch.Generator().manual_seed(0)
    query, key, value = (torch.randn(1, 2, 15, 16, generator=generator) for _ in range(3))
    whole = torch.nn.functional.scaled_dot_product_attention(query, key, value, dense(row))
    assert torch.allclose(flex_attention(query, key, value, block_mask=mask), whole, atol=1e-6)


@pytest.mark.parametrize("attend", [packed_sdpa, packed_flex])
def test_without_a_layout_it_says_what_is_missing(attend: Callable[..., object]) -> None:
    with pytest.raises(ValueError, match="layout="):
        attend(torch.nn.Module(), *[torch.zeros(1, 1, 2, 4)] * 3, None)
