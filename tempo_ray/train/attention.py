"""Groups packed into one row -> who may look at whom, and attention that computes little else.

A token sees what stands before it in its group's prompt and in its own segment, itself included. No answer sees another
answer, and no group another group. Two ways to compute the same: `sdpa` splits every group into its prompt, which is plain
causal attention, and its answers, a boolean mask of answers x group; `flex` gives the whole row to FlexAttention, which skips
the blocks that are empty (arXiv 2412.05496).
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn.attention.flex_attention import BlockMask, create_block_mask, flex_attention
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface

PROMPT = 0


@dataclass(frozen=True)
class Span:
    """One group's tokens in the row: [start, answers) are its prompt, [answers, end) its answers."""

    start: int
    answers: int
    end: int
    mask: Bool[Tensor, "answers group"]
    """May this answer token attend to that token of the group?"""


@dataclass(frozen=True)
class Layout:
    """A row of packed groups. `groups` has the number of each token's group; `segments` 0 in its prompt, k in its k-th answer."""

    groups: Int[Tensor, "tokens"]
    segments: Int[Tensor, "tokens"]
    spans: tuple[Span, ...]
    blocks: BlockMask | None = None
    """What FlexAttention needs, where it is used."""

    def to(self, device: torch.device) -> "Layout":
        spans = tuple(replace(span, mask=span.mask.to(device)) for span in self.spans)
        return replace(self, groups=self.groups.to(device), segments=self.segments.to(device), spans=spans)

    def for_flex(self, compiled: bool = True) -> "Layout":
        """With its block mask, on the device where it is; compiled, no (tokens, tokens) mask is ever held."""
        groups, segments = self.groups, self.segments

        def may_attend(batch: Tensor, head: Tensor, query: Tensor, key: Tensor) -> Tensor:
            mine = (segments[key] == PROMPT) | (segments[key] == segments[query])
            return (key <= query) & (groups[key] == groups[query]) & mine

        tokens = len(groups)
        blocks = create_block_mask(may_attend, None, None, tokens, tokens, device=str(groups.device), _compile=compiled)
        return replace(self, blocks=blocks)


def make_layout(segments: list[Int[Tensor, "tokens"]]) -> Layout:
    """The segment numbers of each group, prompt first and answers in order -> their layout side by side."""
    groups = torch.cat([torch.full_like(one, number) for number, one in enumerate(segments)])
    spans, start = [], 0
    for one in segments:
        prompt = int((one == PROMPT).sum())
        spans.append(Span(start, start + prompt, start + len(one), visible(one, prompt)))
        start += len(one)
    return Layout(groups, torch.cat(segments), tuple(spans))


def visible(segments: Int[Tensor, "tokens"], first: int) -> Bool[Tensor, "answers tokens"]:
    """The segments of one group -> may the query (first axis, from its `first` token on) attend to the key?"""
    places = torch.arange(len(segments))
    causal = places[first:, None] >= places[None, :]
    return causal & ((segments == PROMPT)[None, :] | (segments[first:, None] == segments[None, :]))


def packed_sdpa(
    module: torch.nn.Module,
    query: Float[Tensor, "1 heads tokens size"],
    key: Float[Tensor, "1 key_heads tokens size"],
    value: Float[Tensor, "1 key_heads tokens size"],
    attention_mask: Tensor | None,
    scaling: float | None = None,
    dropout: float = 0.0,
    layout: Layout | None = None,
    **_: Any,
) -> tuple[Float[Tensor, "1 tokens heads size"], None]:
    """transformers' attention interface; `layout` is handed down from the model's keyword arguments."""
    if layout is None:
        raise ValueError("packed attention needs the layout of the row: call the model with layout=")
    shared: dict[str, Any] = {"scale": scaling, "dropout_p": dropout, "enable_gqa": query.shape[1] != key.shape[1]}
    parts = []
    for span in layout.spans:
        prompt, answers, group = slice(span.start, span.answers), slice(span.answers, span.end), slice(span.start, span.end)
        parts.append(
            scaled_dot_product_attention(query[:, :, prompt], key[:, :, prompt], value[:, :, prompt], is_causal=True, **shared)
        )
        parts.append(
            scaled_dot_product_attention(query[:, :, answers], key[:, :, group], value[:, :, group], span.mask, **shared)
        )
    return torch.cat(parts, dim=2).transpose(1, 2).contiguous(), None


@cache
def _flex() -> Callable[..., Tensor]:
    """Compiled when it is first wanted: readying torch.compile takes seconds, which a CPU need not spend."""
    return torch.compile(flex_attention)


def packed_flex(
    module: torch.nn.Module,
    query: Float[Tensor, "1 heads tokens size"],
    key: Float[Tensor, "1 key_heads tokens size"],
    value: Float[Tensor, "1 key_heads tokens size"],
    attention_mask: Tensor | None,
    scaling: float | None = None,
    layout: Layout | None = None,
    **_: Any,
) -> tuple[Float[Tensor, "1 tokens heads size"], None]:
    """The same through FlexAttention's kernel, compiled on first use. It has no dropout, and on a CPU no backward."""
    if layout is None or layout.blocks is None:
        raise ValueError("packed attention needs the layout of the row, made by Layout.for_flex: call the model with layout=")
    found = _flex()(query, key, value, block_mask=layout.blocks, scale=scaling, enable_gqa=query.shape[1] != key.shape[1])
    return found.transpose(1, 2).contiguous(), None


PACKED_SDPA, PACKED_FLEX = "tempo_ray_packed_sdpa", "tempo_ray_packed_flex"
"""The names under which transformers finds them."""
AttentionInterface.register(PACKED_SDPA, packed_sdpa)
AttentionInterface.register(PACKED_FLEX, packed_flex)


def attention_names(kind: str) -> dict[str, str]:
    """transformers' `attn_implementation` for `sdpa` or `flex`: the vision tower, which sees no text, always takes SDPA."""
    return {"": "sdpa", "vision_config": "sdpa", "text_config": PACKED_SDPA if kind == "sdpa" else PACKED_FLEX}
