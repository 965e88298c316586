"""Segments of a sequence -> who may look at whom."""

import torch

PROMPT = 0
PADDING = -1


def prefix_mask(segments: torch.Tensor) -> torch.Tensor:
    """(rows, tokens) segment numbers -> (rows, 1, tokens, tokens) booleans: may the query attend to the key?

    Every token sees what stands before it in the prompt and in its own segment, itself included; an answer never sees
    another answer. Padding sees the prompt and itself, because a row of scores with nothing allowed would be NaN.
    For SDPA: transformers' eager attention would add such a mask instead of masking with it.
    """
    tokens = segments.shape[-1]
    causal = torch.ones(tokens, tokens, dtype=torch.bool, device=segments.device).tril()
    query, key = segments[:, :, None], segments[:, None, :]
    return (causal & ((key == PROMPT) | (key == query)))[:, None]
