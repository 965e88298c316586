"""Batch -> log-probs of its answer tokens, under the model and under its reference."""

from typing import Any

import torch
from peft import PeftModel
from torch import Tensor
from transformers import PreTrainedModel

from tempo_ray.train.batch import Batch


class Scorer(torch.nn.Module):
    """The model as training uses it. One module and one call a batch, so that ZeRO's hooks see the same order every time."""

    def __init__(self, model: PreTrainedModel, adapter: PeftModel | None = None) -> None:
        super().__init__()
        self.model = model
        self._without_adapter = (
            adapter.disable_adapter if adapter is not None else None
        )  # a method: no module of ours
        self._vision_is_frozen = not any(
            one.requires_grad for name, one in model.named_parameters() if "visual" in name
        )

    def forward(
        self, inputs: dict[str, Any], source: Tensor, target: Tensor, reference: bool = False
    ) -> tuple[Tensor, Tensor | None]:
        """(answer tokens,) each, float32 or wider: log p(target), and with `reference` that of the model without its adapter.

        Logits are made at the answers only; a vision tower that is not trained encodes the videos once for both.
        """
        seen: dict[str, Any] = {}
        theirs = None
        if reference:
            assert self._without_adapter is not None
            with torch.no_grad(), self._without_adapter():
                theirs = self._logps(inputs, seen, source, target)
            if not self._vision_is_frozen:
                seen = {}
        return self._logps(inputs, seen, source, target), theirs

    def _logps(
        self, inputs: dict[str, Any], seen: dict[str, Any], source: Tensor, target: Tensor
    ) -> Tensor:
        """`seen` holds the videos' features, or takes them."""
        base = self.model.model
        rest = dict(inputs)
        pixels, grid = rest.pop("pixel_values_videos"), rest.pop("video_grid_thw")
        if "video" not in seen:
            seen["video"] = base.get_video_features(pixels, grid, return_dict=True)
        hidden = base(**rest, mm_encoder_outputs=dict(seen), use_cache=False)[0]
        logits = self.model.lm_head(hidden.flatten(0, 1)[source])
        wide = logits if logits.dtype == torch.float64 else logits.float()
        return -torch.nn.functional.cross_entropy(wide, target, reduction="none")


def answer_sums(token_logps: Tensor, batch: Batch) -> Tensor:
    """(answer tokens,) -> (answers,): the log-prob of each whole answer."""
    return token_logps.new_zeros(len(batch.lengths)).index_add(0, batch.answer, token_logps)
