"""Log-probs of chosen and rejected answers -> the loss of each pair.

With h = (log p(chosen) - log p_ref(chosen)) - (log p(rejected) - log p_ref(rejected)), log-probs summed over an answer's
tokens, the loss types are

    sigmoid   -(1 - e) log s(beta h) - e log s(-beta h)                    DPO, arXiv 2305.18290; e > 0: conservative DPO
    robust    (-(1 - e) log s(beta h) + e log s(-beta h)) / (1 - 2e)       robust DPO, arXiv 2403.00409
    ipo       (h - 1 / (2 beta))^2                                         IPO, arXiv 2310.12036
    hinge     max(0, 1 - beta h)                                           SLiC, arXiv 2305.10425, as in arXiv 2309.06657
    simpo     -log s(beta (log p(c) / |c| - log p(r) / |r|) - gamma)       SimPO, arXiv 2405.14734; no reference model

with s the logistic function and e the label smoothing. `length_normalised` divides each answer's log-ratio by its tokens before
h is taken: IPO's authors mean it so (TRL does it), and DPO has been done so (arXiv 2406.09279). To each, nll_weight times the
negative log-likelihood of chosen per token is added (RPO, arXiv 2404.19733).
"""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from tempo_ray.config import LossConfig


@dataclass(frozen=True)
class PairScores:
    """All (pairs,): log-probs of whole answers under the model and the reference, and the answers' token counts."""

    chosen: Tensor
    rejected: Tensor
    reference_chosen: Tensor
    reference_rejected: Tensor
    chosen_tokens: Tensor
    rejected_tokens: Tensor


def _preference(scores: PairScores, config: LossConfig) -> Tensor:
    """(pairs,): the loss without its NLL term."""
    beta, smoothing = config.beta, config.label_smoothing
    if config.type == "simpo":
        margin = scores.chosen / scores.chosen_tokens - scores.rejected / scores.rejected_tokens
        return -logsigmoid(beta * margin - config.simpo_gamma)
    chosen, rejected = scores.chosen - scores.reference_chosen, scores.rejected - scores.reference_rejected
    if config.length_normalised:
        chosen, rejected = chosen / scores.chosen_tokens, rejected / scores.rejected_tokens
    h = chosen - rejected
    if config.type == "ipo":
        return (h - 1 / (2 * beta)) ** 2
    if config.type == "hinge":
        return torch.relu(1 - beta * h)
    right, wrong = -(1 - smoothing) * logsigmoid(beta * h), -smoothing * logsigmoid(-beta * h)
    return right + wrong if config.type == "sigmoid" else (right - wrong) / (1 - 2 * smoothing)


def pair_losses(scores: PairScores, config: LossConfig) -> tuple[Tensor, dict[str, Tensor]]:
    """Losses (pairs,), and what to watch, each (pairs,) and without gradient.

    A reward is beta times the log-ratio to the reference; `accuracy` is 1 where chosen has the larger one. `chosen_drift` is
    that log-ratio per token of chosen.
    """
    nll = -scores.chosen / scores.chosen_tokens
    preference = _preference(scores, config)
    losses = preference + config.nll_weight * nll
    with torch.no_grad():
        chosen_reward = config.beta * (scores.chosen - scores.reference_chosen)
        rejected_reward = config.beta * (scores.rejected - scores.reference_rejected)
        metrics = {
            "preference_loss": preference,
            "nll": nll,
            "accuracy": (chosen_reward > rejected_reward).to(nll.dtype),
            "margin": chosen_reward - rejected_reward,
            "chosen_reward": chosen_reward,
            "rejected_reward": rejected_reward,
            "chosen_logp": scores.chosen,
            "rejected_logp": scores.rejected,
            "chosen_drift": (scores.chosen - scores.reference_chosen) / scores.chosen_tokens,
            "length_ratio": scores.rejected_tokens / scores.chosen_tokens,
        }
    return losses, {name: value.detach() for name, value in metrics.items()}


def kl_estimate(logps: Tensor, reference: Tensor) -> Tensor:
    """(tokens,) of each -> (tokens,): exp(q) - 1 - q with q = log p_ref - log p, never negative.

    An unbiased estimate of KL(model || reference) where the tokens come from the model (Schulman 2020, "k3"); here they
    are those of the chosen answers, which that model family wrote.
    """
    q = reference - logps
    return torch.expm1(q) - q
