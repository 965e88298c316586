"""Groups packed into one row -> who may look at whom, and attention that computes little else.

A token sees what stands before it in its group's prompt and in its own segment, itself included. No answer sees another
answer, and no group another group. Two ways to compute the same: `sdpa` splits every group into its prompt, which is plain
causal attention, and its answers, a boolean mask of answers x group; `flex` gives the whole row to FlexAttention, which skips
the blocks that are empty (arXiv 2412.05496). And the vision tower's attention: window by window, all of one size at once.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache, lru_cache
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn.attention.flex_attention import BlockMask, create_block_mask, flex_attention
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface, PreTrainedModel

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
        return replace(
            self, groups=self.groups.to(device), segments=self.segments.to(device), spans=spans
        )

    def for_flex(self, compiled: bool = True) -> "Layout":
        """With its block mask, on the device where it is; compiled, no (tokens, tokens) mask is ever held. FlexAttention needs
        nothing else."""
        make = _compiled(create_block_mask) if compiled else create_block_mask
        tokens = len(self.groups)
        blocks = make(may_attend(self), None, None, tokens, tokens, device=str(self.groups.device))
        return replace(self, blocks=blocks, spans=())


def may_attend(layout: Layout) -> Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]:
    """FlexAttention's `mask_mod` of a row."""
    groups, segments = layout.groups, layout.segments

    def allowed(batch: Tensor, head: Tensor, query: Tensor, key: Tensor) -> Tensor:
        mine = (segments[key] == PROMPT) | (segments[key] == segments[query])
        return (key <= query) & (groups[key] == groups[query]) & mine

    return allowed


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
        raise ValueError(
            "packed attention needs the layout of the row: call the model with layout="
        )
    shared: dict[str, Any] = {
        "scale": scaling,
        "dropout_p": dropout,
        "enable_gqa": query.shape[1] != key.shape[1],
    }
    parts = []
    for span in layout.spans:
        prompt, answers, group = (
            slice(span.start, span.answers),
            slice(span.answers, span.end),
            slice(span.start, span.end),
        )
        parts.append(
            scaled_dot_product_attention(
                query[:, :, prompt],
                key[:, :, prompt],
                value[:, :, prompt],
                is_causal=True,
                **shared,
            )
        )
        parts.append(
            scaled_dot_product_attention(
                query[:, :, answers], key[:, :, group], value[:, :, group], span.mask, **shared
            )
        )
    return torch.cat(parts, dim=2).transpose(1, 2).contiguous(), None


@cache
def _compiled(
    function: Callable[..., Any], backend: str | Callable[..., Any] = "inductor"
) -> Callable[..., Any]:
    """Compiled when it is first wanted: readying torch.compile takes seconds, which a CPU need not spend.

    Rows differ in length: compiled for any, or each would be compiled anew up to a limit, behind which torch would compute
    the whole tokens x tokens matrix. Whole graphs have it raise an error there.
    """
    return torch.compile(function, dynamic=True, fullgraph=True, backend=backend)


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
        raise ValueError(
            "packed attention needs the layout of the row, made by Layout.for_flex: call the model with layout="
        )
    flex = _compiled(flex_attention)
    found = flex(
        query,
        key,
        value,
        block_mask=layout.blocks,
        scale=scaling,
        enable_gqa=query.shape[1] != key.shape[1],
    )
    return found.transpose(1, 2).contiguous(), None


@lru_cache(maxsize=4)
def _windows(bounds: Int[Tensor, "windows+1"]) -> tuple[Int[Tensor, "windows size"], ...]:
    """The patches of each window, windows of one size together; found once for all layers, which hand on the same tensor."""
    sizes = bounds.diff()
    return tuple(
        bounds[:-1][sizes == size, None] + torch.arange(size, device=bounds.device)
        for size in sizes.unique().tolist()
        if size
    )


def windowed_sdpa(
    module: torch.nn.Module,
    query: Float[Tensor, "1 heads patches size"],
    key: Float[Tensor, "1 heads patches size"],
    value: Float[Tensor, "1 heads patches size"],
    attention_mask: Tensor | None,
    scaling: float | None = None,
    dropout: float = 0.0,
    cu_seq_lens_q: Int[Tensor, "windows+1"] | None = None,
    **_: Any,
) -> tuple[Float[Tensor, "1 patches heads size"], None]:
    """Full attention in each of the windows that the bounds name: one call for all windows of a size. transformers' own makes
    one call a window: 25,000 for 10,800 tokens of video in a 7B."""
    assert cu_seq_lens_q is not None
    windows = _windows(cu_seq_lens_q)
    found = torch.empty_like(query[0].transpose(0, 1))
    for places in windows:
        # frames of one size are whole slices of the row
        parts = [
            one[0].unflatten(1, places.shape) if len(windows) == 1 else one[0][:, places]
            for one in (query, key, value)
        ]
        queries, keys, values = (part.transpose(0, 1) for part in parts)
        inside = scaled_dot_product_attention(
            queries, keys, values, scale=scaling, dropout_p=dropout
        ).transpose(1, 2)
        if len(windows) == 1:
            return inside.flatten(0, 1)[None], None
        found[places] = inside
    return found[None], None


PACKED_SDPA, PACKED_FLEX, WINDOWED = (
    "tempo_ray_packed_sdpa",
    "tempo_ray_packed_flex",
    "tempo_ray_windowed_flash",
)
"""The names under which transformers finds them. It hands window bounds only to what has `flash` in its name."""
AttentionInterface.register(PACKED_SDPA, packed_sdpa)
AttentionInterface.register(PACKED_FLEX, packed_flex)
AttentionInterface.register(WINDOWED, windowed_sdpa)
_PACKED = {"sdpa": PACKED_SDPA, "flex": PACKED_FLEX}


def use_packed_attention(model: PreTrainedModel, kind: str) -> PreTrainedModel:
    """Has the model attend to packed rows by `sdpa` or `flex`, and its vision tower window by window."""
    model.set_attn_implementation(
        {"": "sdpa", "vision_config": "sdpa", "text_config": _PACKED[kind]}
    )
    # not through set_attn_implementation: for such a name it would look for a flash-attention package
    model.model.visual.config._attn_implementation = WINDOWED
    return model
