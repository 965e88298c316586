"""Batch -> log-probs of its answer tokens."""

import torch
from transformers import PreTrainedModel

from tempo_ray.train.batch import Batch


class Scorer(torch.nn.Module):
    """The model as training uses it. One module, so that ZeRO's hooks see every forward whole."""

    def __init__(self, model: PreTrainedModel) -> None:
        super().__init__()
        self.model = model

    def forward(self, inputs: dict[str, torch.Tensor], source: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        """(answer tokens,) float32 or wider: log p(target); logits are made at the answers only."""
        hidden = self.model.model(**inputs, use_cache=False)[0]
        logits = self.model.lm_head(hidden.flatten(0, 1)[source])
        wide = logits if logits.dtype == torch.float64 else logits.float()
        return -torch.nn.functional.cross_entropy(wide, target, reduction="none")


def answer_sums(token_logps: torch.Tensor, batch: Batch) -> torch.Tensor:
    """(answer tokens,) -> (answers,): the log-prob of each whole answer."""
    return token_logps.new_zeros(len(batch.lengths)).index_add(0, batch.answer, token_logps)
