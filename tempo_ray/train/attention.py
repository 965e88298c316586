"""Packed rows -> which token attends to which, and attention that computes little else.

A token attends to what precedes it in its example's prompt and in its own segment, itself included:
no answer attends to another answer, and no example to another example. Two ways to compute it.
`sdpa` splits every example into its prompt, which is plain causal attention, and its answers: as a
batch, each after a copy of the prompt, or, where that would compute more, in one piece with a
boolean mask of answers x example. `flex` gives the whole row to FlexAttention, which skips empty
blocks (arXiv 2412.05496). Also here: the vision tower's windowed attention.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cache, lru_cache
from typing import Any, no_type_check

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn.attention.flex_attention import BlockMask, create_block_mask, flex_attention
from torch.nn.functional import scaled_dot_product_attention
from torch.nn.utils.rnn import pad_sequence
from transformers import AttentionInterface, PreTrainedModel

PROMPT = 0
"""The segment of what all answers of an example share."""


@dataclass(frozen=True)
class Span:
    """One example in the row: [start, answers) is its prompt, [answers, end) its answers."""

    start: int
    answers: int
    end: int
    lengths: tuple[int, ...]
    """Tokens of each answer."""
    mask: Bool[Tensor, "answers tokens"] | None = None
    """Whether an answer token (first axis) attends to a token of the example; None where the
    answers are side by side, which needs none."""

    @property
    def side_by_side(self) -> bool:
        """Whether a batch of the answers, padded to the longest, computes less than one piece."""
        prompt, longest = self.answers - self.start, max(self.lengths, default=0)
        batched = len(self.lengths) * longest * (prompt + longest)
        in_one_piece = sum(self.lengths) * (prompt + sum(self.lengths))
        return batched < 0.8 * in_one_piece  # copies and padding take time too


@dataclass(frozen=True)
class Layout:
    """A row of packed examples: for each token the number of its example, and its segment, which is
    0 in the example's prompt and k in its k-th answer."""

    examples: Int[Tensor, "tokens"]
    segments: Int[Tensor, "tokens"]
    spans: tuple[Span, ...]
    blocks: BlockMask | None = None
    """FlexAttention's mask; None for SDPA."""

    def to(self, device: torch.device) -> "Layout":
        spans = tuple(
            span if span.mask is None else replace(span, mask=span.mask.to(device))
            for span in self.spans
        )
        return replace(
            self,
            examples=self.examples.to(device),
            segments=self.segments.to(device),
            spans=spans,
        )

    def for_flex(self, compiled: bool = True) -> "Layout":
        """The layout for FlexAttention: with a block mask on the tensors' device, without spans.

        Compiled, no (tokens, tokens) mask is ever materialised.
        """
        make_mask = _compiled(create_block_mask) if compiled else create_block_mask
        tokens = len(self.examples)
        device = str(self.examples.device)
        blocks = make_mask(mask_of(self), None, None, tokens, tokens, device=device)
        return replace(self, blocks=blocks, spans=())


def mask_of(layout: Layout) -> Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]:
    """FlexAttention's `mask_mod` of a row."""
    examples, segments = layout.examples, layout.segments

    @no_type_check  # torch.compile traces it, and would trace the checks of tests too
    def attends(batch: Tensor, head: Tensor, query: Tensor, key: Tensor) -> Tensor:
        in_segment = (segments[key] == PROMPT) | (segments[key] == segments[query])
        return (key <= query) & (examples[key] == examples[query]) & in_segment

    mask_mod: Callable[[Tensor, Tensor, Tensor, Tensor], Tensor] = attends
    return mask_mod


def make_layout(segments: Sequence[Int[Tensor, "_tokens"]]) -> Layout:
    """The segments of each example, prompt first and answers in order -> their layout in a row."""
    examples = [torch.full_like(tokens, number) for number, tokens in enumerate(segments)]
    spans = []
    start = 0
    for tokens in segments:
        prompt = int((tokens == PROMPT).sum())
        lengths = tuple(tokens[prompt:].unique_consecutive(return_counts=True)[1].tolist())
        span = Span(start, start + prompt, start + len(tokens), lengths)
        if not span.side_by_side:
            span = replace(span, mask=answer_mask(tokens, prompt))
        spans.append(span)
        start += len(tokens)
    return Layout(torch.cat(examples), torch.cat(list(segments)), tuple(spans))


def answer_mask(segments: Int[Tensor, "tokens"], first: int) -> Bool[Tensor, "answers tokens"]:
    """The segments of an example -> whether a query (first axis, from `first` on) sees a key."""
    places = torch.arange(len(segments))
    causal = places[first:, None] >= places[None, :]
    in_prompt = (segments == PROMPT)[None, :]
    return causal & (in_prompt | (segments[first:, None] == segments[None, :]))


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
    """transformers' attention interface; `layout` is a keyword argument of the model's call.

    Raises:
        ValueError: no layout.
    """
    if layout is None:
        raise ValueError(
            "packed attention needs the layout of the row: call the model with layout="
        )
    shared: dict[str, Any] = {
        "scale": scaling,
        "dropout_p": dropout,
        "enable_gqa": query.shape[1] != key.shape[1],
    }
    # split, not sliced: the gradient of a slice is as large as the whole row
    sizes = [span.end - span.start for span in layout.spans]
    examples = zip(*(tensor.split(sizes, dim=2) for tensor in (query, key, value)), strict=True)
    outputs = []
    for span, (queries, keys, values) in zip(layout.spans, examples, strict=True):
        prompt = span.answers - span.start
        prompt_queries, answer_queries = queries.split([prompt, sum(span.lengths)], dim=2)
        outputs.append(
            scaled_dot_product_attention(
                prompt_queries,
                keys[:, :, :prompt],
                values[:, :, :prompt],
                is_causal=True,
                **shared,
            )
        )
        answer_inputs = (answer_queries, keys, values)
        attend = _attend_side_by_side if span.side_by_side else _attend_in_one_piece
        outputs.append(attend(span, answer_inputs, shared))
    return torch.cat(outputs, dim=2).transpose(1, 2).contiguous(), None


AnswerInputs = tuple[
    Float[Tensor, "1 heads answers size"],
    Float[Tensor, "1 key_heads tokens size"],
    Float[Tensor, "1 key_heads tokens size"],
]
"""Queries of the answers of an example, keys and values of the whole example."""


def _attend_in_one_piece(
    span: Span, inputs: AnswerInputs, shared: dict[str, Any]
) -> Float[Tensor, "1 heads answers size"]:
    return scaled_dot_product_attention(*inputs, span.mask, **shared)


def _attend_side_by_side(
    span: Span, inputs: AnswerInputs, shared: dict[str, Any]
) -> Float[Tensor, "1 heads answers size"]:
    """Every answer after a copy of the prompt, padded to the longest. Padding comes last, where no
    token sees it."""
    queries, keys, values = inputs
    prompt, longest = span.answers - span.start, max(span.lengths)
    device = queries.device
    seen = torch.ones(longest, prompt + longest, dtype=torch.bool, device=device).tril(prompt)
    # torch's fused kernel for CPUs takes three times as long in bfloat16, forward and backward
    slow = device.type == "cpu" and torch.bfloat16 in (queries.dtype, _autocast_dtype())
    attend: Callable[..., Tensor] = _attend_explicitly if slow else scaled_dot_product_attention
    output = attend(
        _padded(queries, span.lengths),
        _after_prompt(keys, prompt, span.lengths),
        _after_prompt(values, prompt, span.lengths),
        seen,
        **shared,
    )
    rows = [row[:, :length] for row, length in zip(output, span.lengths, strict=True)]
    return torch.cat(rows, dim=1)[None]


def _after_prompt(
    example: Float[Tensor, "1 heads tokens size"], prompt: int, lengths: tuple[int, ...]
) -> Float[Tensor, "_answers heads _tokens size"]:
    shown, answers = example.split([prompt, sum(lengths)], dim=2)
    copies = shown.expand(len(lengths), -1, -1, -1)
    return torch.cat([copies, _padded(answers, lengths)], dim=2)


def _autocast_dtype() -> torch.dtype | None:
    return torch.get_autocast_dtype("cpu") if torch.is_autocast_enabled("cpu") else None


def _attend_explicitly(
    query: Float[Tensor, "answers heads longest size"],
    key: Float[Tensor, "answers key_heads tokens size"],
    value: Float[Tensor, "answers key_heads tokens size"],
    seen: Bool[Tensor, "longest tokens"],
    scale: float | None,
    dropout_p: float,
    enable_gqa: bool,
) -> Float[Tensor, "answers heads longest size"]:
    """What scaled_dot_product_attention computes, in the formula's steps."""
    if enable_gqa:
        groups = query.shape[1] // key.shape[1]
        key, value = (tensor.repeat_interleave(groups, dim=1) for tensor in (key, value))
    bias = torch.zeros_like(seen, dtype=query.dtype).masked_fill(~seen, -torch.inf)
    scores = query @ key.transpose(2, 3) * (scale or query.shape[-1] ** -0.5) + bias
    weights = torch.nn.functional.dropout(scores.softmax(-1), dropout_p)
    return weights @ value


def _padded(
    answers: Float[Tensor, "1 heads answers size"], lengths: tuple[int, ...]
) -> Float[Tensor, "_answers heads _longest size"]:
    """Answers in a row -> a batch of them."""
    rows = [answer[0].transpose(0, 1) for answer in answers.split(lengths, dim=2)]
    return pad_sequence(rows, batch_first=True).transpose(1, 2)


@cache
def _compiled(
    function: Callable[..., Any], backend: str | Callable[..., Any] = "inductor"
) -> Callable[..., Any]:
    """Compiled on first use: setting up torch.compile takes seconds that a CPU run need not spend.

    Rows differ in length: without `dynamic` each length would be compiled up to a limit, past which
    torch would compute the whole tokens x tokens matrix. `fullgraph` raises an error instead.
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
    """The same by FlexAttention's kernel, which has no dropout, and no backward pass on a CPU.

    Raises:
        ValueError: no layout, or not one of `Layout.for_flex`.
    """
    if layout is None or layout.blocks is None:
        raise ValueError(
            "packed attention needs the layout of the row, made by Layout.for_flex: call the model "
            "with layout="
        )
    output = _compiled(flex_attention)(
        query,
        key,
        value,
        block_mask=layout.blocks,
        scale=scaling,
        enable_gqa=query.shape[1] != key.shape[1],
    )
    return output.transpose(1, 2).contiguous(), None


@lru_cache(maxsize=4)
def _windows(bounds: Int[Tensor, "bounds"]) -> tuple[Int[Tensor, "_windows _size"], ...]:
    """The patches of each window, a tensor per window size. Computed once for all layers, which
    pass the same tensor."""
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
    cu_seq_lens_q: Int[Tensor, "bounds"] | None = None,
    **_: Any,
) -> tuple[Float[Tensor, "1 patches heads size"], None]:
    """Full attention within each window between two bounds: one call for all windows of a size.

    transformers' own makes one call per window: 25,000 for 10,800 tokens of video in a 7B model.
    """
    assert cu_seq_lens_q is not None
    windows = _windows(cu_seq_lens_q)
    if len(windows) == 1:  # frames of one size: the windows are consecutive slices of the row
        inputs = [tensor[0].unflatten(1, windows[0].shape) for tensor in (query, key, value)]
        return _attend_in_windows(inputs, scaling, dropout).flatten(0, 1)[None], None
    output = torch.empty_like(query[0].transpose(0, 1))
    for patches in windows:
        inputs = [tensor[0][:, patches] for tensor in (query, key, value)]
        output[patches] = _attend_in_windows(inputs, scaling, dropout)
    return output[None], None


def _attend_in_windows(
    inputs: Sequence[Float[Tensor, "heads windows window size"]],
    scaling: float | None,
    dropout: float,
) -> Float[Tensor, "windows window heads size"]:
    """`inputs` are query, key and value."""
    query, key, value = (tensor.transpose(0, 1) for tensor in inputs)
    return scaled_dot_product_attention(
        query, key, value, scale=scaling, dropout_p=dropout
    ).transpose(1, 2)


# transformers passes window bounds only to implementations with `flash` in their name
PACKED_SDPA = "tempo_ray_packed_sdpa"
PACKED_FLEX = "tempo_ray_packed_flex"
WINDOWED = "tempo_ray_windowed_flash"
AttentionInterface.register(PACKED_SDPA, packed_sdpa)
AttentionInterface.register(PACKED_FLEX, packed_flex)
AttentionInterface.register(WINDOWED, windowed_sdpa)
_PACKED = {"sdpa": PACKED_SDPA, "flex": PACKED_FLEX}


def use_packed_attention(model: PreTrainedModel, kind: str) -> PreTrainedModel:
    """Sets packed attention by `sdpa` or `flex`, and windowed attention in the vision tower."""
    model.set_attn_implementation(
        {"": "sdpa", "vision_config": "sdpa", "text_config": _PACKED[kind]}
    )
    # not by set_attn_implementation: it would look for a flash-attention package for such a name
    model.model.visual.config._attn_implementation = WINDOWED
    return model
