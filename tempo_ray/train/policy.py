"""Packed rows -> log-probs of their answer tokens, under the policy and under the reference."""

from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from peft import PeftModel
from torch import Tensor
from transformers import PreTrainedModel

from tempo_ray.train.batch import PackedRow


class LogProbs(torch.nn.Module):
    """A model as a module from inputs to log-probs. One module and one call per row, so that ZeRO's
    hooks see the same order every time."""

    def __init__(self, model: PreTrainedModel, adapter: PeftModel | None = None) -> None:
        super().__init__()
        self.model = model
        # the method, not the adapter, which would become a submodule
        self._disable_adapter = None if adapter is None else adapter.disable_adapter
        self._vision_is_frozen = not any(
            parameter.requires_grad
            for name, parameter in model.named_parameters()
            if "visual" in name
        )

    def forward(
        self,
        inputs: dict[str, Any],
        source: Int[Tensor, "predicted"],
        target: Int[Tensor, "predicted"],
        reference: bool = False,
    ) -> tuple[Float[Tensor, "predicted"], Float[Tensor, "predicted"] | None]:
        """log p(target) in nats, float32 or wider; with `reference` also that of the model without
        its adapter, without gradient. See PackedRow for the arguments.

        Logits are computed at answer tokens only. A frozen vision tower encodes the videos once for
        both.
        """
        if not reference:
            return self._log_probs(inputs, self._encode_videos(inputs), source, target), None
        with torch.no_grad(), self._without_adapter():
            features = self._encode_videos(inputs)
            reference_logps = self._log_probs(inputs, features, source, target)
        if not self._vision_is_frozen:
            features = self._encode_videos(inputs)
        return self._log_probs(inputs, features, source, target), reference_logps

    def _without_adapter(self) -> AbstractContextManager[None]:
        assert self._disable_adapter is not None
        return self._disable_adapter()

    def _encode_videos(self, inputs: dict[str, Any]) -> Any:
        return self.model.model.get_video_features(
            inputs["pixel_values_videos"], inputs["video_grid_thw"], return_dict=True
        )

    def _log_probs(
        self,
        inputs: dict[str, Any],
        features: Any,
        source: Int[Tensor, "predicted"],
        target: Int[Tensor, "predicted"],
    ) -> Float[Tensor, "predicted"]:
        rest = dict(inputs)
        del rest["pixel_values_videos"], rest["video_grid_thw"]
        hidden = self.model.model(**rest, mm_encoder_outputs={"video": features}, use_cache=False)[
            0
        ]
        logits = self.model.lm_head(hidden.flatten(0, 1)[source])
        wide = logits if logits.dtype == torch.float64 else logits.float()
        return -torch.nn.functional.cross_entropy(wide, target, reduction="none")


@dataclass(frozen=True)
class Policy:
    """The model that is trained, with the reference that it is compared to."""

    engine: Any
    """A LogProbs module, or a DeepSpeed engine around one."""
    reference: Any = None
    """The same of the reference model; None: the policy without its adapter, if needed."""
    flex: bool = False
    """Attention by FlexAttention instead of SDPA."""

    def log_probs(self, row: PackedRow) -> Float[Tensor, "predicted"]:
        """The policy's, in nats."""
        row = self._with_mask(row)
        logps: Tensor = self.engine(row.inputs, row.source, row.target)[0]
        return logps

    def log_probs_with_reference(
        self, row: PackedRow
    ) -> tuple[Float[Tensor, "predicted"], Float[Tensor, "predicted"]]:
        """The policy's and, without gradient, the reference's, in nats."""
        row = self._with_mask(row)
        arguments = (row.inputs, row.source, row.target)
        if self.reference is None:
            logps, reference = self.engine(*arguments, reference=True)
            return logps, reference
        with torch.no_grad():
            reference = self.reference(*arguments)[0]
        return self.engine(*arguments)[0], reference

    def _with_mask(self, row: PackedRow) -> PackedRow:
        return row.for_flex() if self.flex else row


def sum_by_answer(
    token_logps: Float[Tensor, "predicted"], row: PackedRow
) -> Float[Tensor, "answers"]:
    """Log-probs of tokens -> of whole answers, in nats."""
    return token_logps.new_zeros(len(row.lengths)).index_add(0, row.answer, token_logps)
