"""Log-probs of chosen and rejected answers -> the loss of each pair.

With h = r(chosen) - r(rejected), r an answer's log p - log p_ref, log-probs summed over its tokens,
the loss types are

    sigmoid   -(1 - e) log s(beta h) - e log s(-beta h)               DPO, arXiv 2305.18290;
                                                                      e > 0: conservative DPO
    robust    (-(1 - e) log s(beta h) + e log s(-beta h)) / (1 - 2e)  robust DPO, arXiv 2403.00409
    ipo       (h - 1 / (2 beta))^2                                    IPO, arXiv 2310.12036
    hinge     max(0, 1 - beta h)                                      SLiC, arXiv 2305.10425,
                                                                      as in arXiv 2309.06657
    simpo     -log s(beta h - gamma), r = log p / tokens              SimPO, arXiv 2405.14734;
                                                                      no reference model

with s the logistic function and e the label smoothing. `length_normalised` divides r by the
answer's tokens: IPO's authors intend it (TRL does it), and DPO has been done so (arXiv 2406.09279).
To each, nll_weight times the negative log-likelihood of chosen per token is added (RPO, arXiv
2404.19733).
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.functional import logsigmoid

from tempo_ray.config import LossConfig


@dataclass(frozen=True)
class PairLogProbs:
    """Log-probs of whole answers in nats under the policy and the reference, and the answers' token
    counts. The reference's are None for a loss without a reference."""

    chosen: Float[Tensor, "pairs"]
    rejected: Float[Tensor, "pairs"]
    reference_chosen: Float[Tensor, "pairs"] | None
    reference_rejected: Float[Tensor, "pairs"] | None
    chosen_tokens: Int[Tensor, "pairs"]
    rejected_tokens: Int[Tensor, "pairs"]


def pair_losses(
    log_probs: PairLogProbs, config: LossConfig
) -> tuple[Float[Tensor, "pairs"], dict[str, Float[Tensor, "pairs"]]]:
    """The loss of each pair, and its metrics without gradient.

    A reward is beta times what the loss compares; `accuracy` is 1 where chosen has the larger one,
    and `margin` their difference. `chosen_logratio_per_token` is log p - log p_ref of chosen.

    Raises:
        ValueError: the loss type needs the reference's log-probs.
    """
    chosen, rejected = _unscaled_rewards(log_probs, config)
    nll = -log_probs.chosen / log_probs.chosen_tokens
    preference = _preference_loss(chosen - rejected, config)
    losses = preference + config.nll_weight * nll
    metrics = {
        "preference_loss": preference,
        "nll": nll,
        "accuracy": (chosen > rejected).to(nll.dtype),
        "margin": config.beta * (chosen - rejected),
        "chosen_reward": config.beta * chosen,
        "rejected_reward": config.beta * rejected,
        "chosen_logp": log_probs.chosen,
        "rejected_logp": log_probs.rejected,
        "length_ratio": log_probs.rejected_tokens / log_probs.chosen_tokens,
    }
    if log_probs.reference_chosen is not None:
        logratio = log_probs.chosen - log_probs.reference_chosen
        metrics["chosen_logratio_per_token"] = logratio / log_probs.chosen_tokens
    return losses, {name: value.detach() for name, value in metrics.items()}


def _unscaled_rewards(
    log_probs: PairLogProbs, config: LossConfig
) -> tuple[Float[Tensor, "pairs"], Float[Tensor, "pairs"]]:
    """r of chosen and of rejected, without beta; h is their difference."""
    chosen, rejected = log_probs.chosen, log_probs.rejected
    if config.type != "simpo":
        if log_probs.reference_chosen is None or log_probs.reference_rejected is None:
            raise ValueError(f"loss type {config.type} needs the reference's log-probs")
        chosen = chosen - log_probs.reference_chosen
        rejected = rejected - log_probs.reference_rejected
    if config.type == "simpo" or config.length_normalised:
        return chosen / log_probs.chosen_tokens, rejected / log_probs.rejected_tokens
    return chosen, rejected


def _preference_loss(h: Float[Tensor, "pairs"], config: LossConfig) -> Float[Tensor, "pairs"]:
    """The loss without its NLL term."""
    beta, smoothing = config.beta, config.label_smoothing
    if config.type == "simpo":
        return -logsigmoid(beta * h - config.simpo_gamma)
    if config.type == "ipo":
        return (h - 1 / (2 * beta)) ** 2
    if config.type == "hinge":
        return torch.relu(1 - beta * h)
    label_right = -(1 - smoothing) * logsigmoid(beta * h)
    label_wrong = -smoothing * logsigmoid(-beta * h)
    if config.type == "robust":
        return (label_right - label_wrong) / (1 - 2 * smoothing)
    return label_right + label_wrong


def kl_estimate(
    logps: Float[Tensor, "tokens"], reference: Float[Tensor, "tokens"]
) -> Float[Tensor, "tokens"]:
    """exp(q) - 1 - q with q = log p_ref - log p, never negative; nats per token.

    An unbiased estimate of KL(policy || reference) for tokens sampled from the policy (Schulman
    2020, "k3"); here they are those of the chosen answers, which that model family wrote.
    """
    q = reference - logps
    return torch.expm1(q) - q
