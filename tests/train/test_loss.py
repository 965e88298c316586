"""Losses against hand-computed numbers, finite differences and TRL."""

import math
from collections import defaultdict
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from jaxtyping import TypeCheckError
from trl import DPOTrainer
from trl.experimental.cpo import CPOTrainer

from tempo_ray.config import LossConfig
from tempo_ray.train.loss import PairLogProbs, kl_estimate, pair_losses

TYPES = ("sigmoid", "ipo", "hinge", "robust", "simpo")


def log_probs_of(
    chosen: list[float],
    rejected: list[float],
    reference_chosen: list[float],
    reference_rejected: list[float],
) -> PairLogProbs:
    """Four tokens of chosen and five of rejected per pair."""
    return PairLogProbs(
        chosen=torch.tensor(chosen, dtype=torch.float64),
        rejected=torch.tensor(rejected, dtype=torch.float64),
        reference_chosen=torch.tensor(reference_chosen, dtype=torch.float64),
        reference_rejected=torch.tensor(reference_rejected, dtype=torch.float64),
        chosen_tokens=torch.tensor([4] * len(chosen)),
        rejected_tokens=torch.tensor([5] * len(chosen)),
    )


# one pair: log-ratios +1 and -2, so h = 3; log p(chosen) = -8 over 4 tokens, log p(rejected) = -15
# over 5
PAIR = ([-8.0], [-15.0], [-9.0], [-13.0])


@pytest.mark.parametrize(
    ("loss_type", "extra", "expected"),
    [
        ("sigmoid", {}, math.log1p(math.exp(-0.3))),
        (
            "sigmoid",
            {"label_smoothing": 0.1},
            0.9 * math.log1p(math.exp(-0.3)) + 0.1 * math.log1p(math.exp(0.3)),
        ),
        (
            "robust",
            {"label_smoothing": 0.1},
            (0.9 * math.log1p(math.exp(-0.3)) - 0.1 * math.log1p(math.exp(0.3))) / 0.8,
        ),
        ("ipo", {}, (3 - 5) ** 2),
        ("ipo", {"length_normalised": True}, (1 / 4 + 2 / 5 - 5) ** 2),
        ("sigmoid", {"length_normalised": True}, math.log1p(math.exp(-0.1 * (1 / 4 + 2 / 5)))),
        ("hinge", {}, 0.7),
        ("simpo", {}, math.log1p(math.exp(-(0.1 * (-2 + 3) - 0.5)))),
    ],
)
def test_losses_by_hand(loss_type: str, extra: dict[str, float], expected: float) -> None:
    config = LossConfig(beta=0.1, type=loss_type, nll_weight=0.0, **extra)
    losses, metrics = pair_losses(log_probs_of(*PAIR), config)
    assert losses.tolist() == pytest.approx([expected], rel=1e-12)
    chosen, rejected = 1.0, -2.0
    if loss_type == "simpo":
        chosen, rejected = -2.0, -3.0
    elif "length_normalised" in extra:
        chosen, rejected = 1 / 4, -2 / 5
    assert metrics["chosen_reward"].item() == pytest.approx(0.1 * chosen)
    assert metrics["rejected_reward"].item() == pytest.approx(0.1 * rejected)
    assert metrics["margin"].item() == pytest.approx(0.1 * (chosen - rejected))
    assert metrics["chosen_logratio_per_token"].item() == pytest.approx(1 / 4)
    assert metrics["accuracy"].item() == 1.0


def test_nll_is_per_token_and_weighted() -> None:
    plain = pair_losses(log_probs_of(*PAIR), LossConfig(nll_weight=0.0))[0]
    weighted = pair_losses(log_probs_of(*PAIR), LossConfig(nll_weight=0.5))[0]
    assert (weighted - plain).item() == pytest.approx(0.5 * 8 / 4)


def test_a_loss_that_lacks_its_reference_says_so() -> None:
    without = replace(log_probs_of(*PAIR), reference_chosen=None, reference_rejected=None)
    _, metrics = pair_losses(without, LossConfig(type="simpo"))
    assert "chosen_logratio_per_token" not in metrics
    with pytest.raises(ValueError, match="needs the reference"):
        pair_losses(without, LossConfig())


def test_shapes_are_checked_in_tests() -> None:
    """By the import hook of tests/conftest.py."""
    with pytest.raises(TypeCheckError):
        replace(log_probs_of(*PAIR), rejected=torch.zeros(2))
    with pytest.raises(TypeCheckError):
        kl_estimate(torch.zeros(3), torch.zeros(4))


@pytest.mark.parametrize("loss_type", TYPES)
def test_gradients_equal_finite_differences(loss_type: str) -> None:
    generator = torch.Generator().manual_seed(0)
    four = [-(torch.rand(6, dtype=torch.float64, generator=generator) * 10 + 5) for _ in range(4)]
    tokens = torch.arange(3, 9)
    config = LossConfig(type=loss_type, beta=0.3, nll_weight=0.7, label_smoothing=0.05)

    def total(chosen: torch.Tensor, rejected: torch.Tensor) -> torch.Tensor:
        log_probs = PairLogProbs(chosen, rejected, four[2], four[3], tokens, tokens + 1)
        return pair_losses(log_probs, config)[0].sum()

    inputs = (four[0].requires_grad_(), four[1].requires_grad_())
    assert torch.autograd.gradcheck(total, inputs, eps=1e-6, atol=1e-8)


@pytest.mark.parametrize("loss_type", TYPES)
def test_a_larger_margin_never_costs_more(loss_type: str) -> None:
    config = LossConfig(type=loss_type, beta=0.05, nll_weight=0.0)
    large = pair_losses(log_probs_of([-8.0], [-16.0], [-9.0], [-13.0]), config)[0]
    small = pair_losses(log_probs_of(*PAIR), config)[0]
    assert large.item() < small.item()


class FixedLogits(torch.nn.Module):
    """A model that always answers with these logits."""

    def __init__(self, logits: torch.Tensor) -> None:
        super().__init__()
        self.logits, self.is_gradient_checkpointing = logits, False

    def forward(self, **_: object) -> SimpleNamespace:
        return SimpleNamespace(logits=self.logits)


def trl_loss(
    loss_type: str, weights: list[float], smoothing: float, drawn: dict[str, torch.Tensor]
) -> float:
    """TRL's own loss on these logits: chosen rows first, then rejected."""
    policy = FixedLogits(drawn["logits"])
    accelerator = SimpleNamespace(
        device=torch.device("cpu"),
        gather=lambda value: value,
        gather_for_metrics=lambda value: value,
        num_processes=1,
    )
    trainer = SimpleNamespace(
        model=policy,
        accelerator=accelerator,
        ld_alpha=None,
        precompute_ref_logps=False,
        args=SimpleNamespace(gradient_checkpointing_kwargs=None),
        ref_model=FixedLogits(drawn["reference"]),
        f_divergence_type="reverse_kl",
        loss_types=[loss_type, "sft"],
        loss_weights=weights,
        beta=0.2,
        label_smoothing=smoothing,
        use_weighting=False,
        aux_loss_enabled=False,
        _truncate_inputs=lambda *inputs: inputs,
        _total_train_tokens=0,
        _metrics={"train": defaultdict(list)},
    )
    inputs = {
        "input_ids": drawn["ids"],
        "attention_mask": torch.ones_like(drawn["ids"]),
        "completion_mask": drawn["completion"],
    }
    return float(DPOTrainer._compute_loss(trainer, policy, inputs, False))


@pytest.mark.parametrize(
    ("loss_type", "smoothing", "extra"),
    [
        ("sigmoid", 0.0, {}),
        ("hinge", 0.0, {}),
        ("robust", 0.1, {}),
        ("ipo", 0.0, {"length_normalised": True}),
    ],
)
def test_losses_equal_trl_on_the_same_log_probs(
    loss_type: str, smoothing: float, extra: dict[str, bool]
) -> None:
    generator = torch.Generator().manual_seed(0)
    drawn = {name: torch.randn(2, 9, 20, generator=generator) for name in ("logits", "reference")}
    drawn["ids"] = torch.randint(0, 20, (2, 9), generator=generator)
    drawn["completion"] = torch.tensor([[0, 0, 0, 1, 1, 1, 1, 1, 1], [0, 0, 0, 1, 1, 1, 1, 0, 0]])

    def sums(logits: torch.Tensor) -> list[torch.Tensor]:
        logps = torch.log_softmax(logits[:, :-1], -1).gather(-1, drawn["ids"][:, 1:, None])[..., 0]
        return list(torch.split((logps * drawn["completion"][:, 1:]).sum(1), 1))

    lengths = drawn["completion"].sum(1).split(1)
    pair = PairLogProbs(*sums(drawn["logits"]), *sums(drawn["reference"]), *lengths)
    config = LossConfig(
        beta=0.2, type=loss_type, nll_weight=0.7, label_smoothing=smoothing, **extra
    )
    assert float(pair_losses(pair, config)[0]) == pytest.approx(
        trl_loss(loss_type, [1.0, 0.7], smoothing, drawn), rel=1e-5
    )


def test_simpo_equals_trl() -> None:
    trainer = SimpleNamespace(
        alpha=0.0,
        loss_type="simpo",
        simpo_gamma=0.5,
        beta=0.2,
        label_smoothing=0.0,
        accelerator=SimpleNamespace(device="cpu"),
    )
    log_probs = log_probs_of(*PAIR)
    trl_losses, _, _ = CPOTrainer.cpo_loss(
        trainer,
        log_probs.chosen / log_probs.chosen_tokens,
        log_probs.rejected / log_probs.rejected_tokens,
    )
    config = LossConfig(type="simpo", beta=0.2, simpo_gamma=0.5, nll_weight=0.0)
    losses, _ = pair_losses(log_probs, config)
    assert losses.tolist() == pytest.approx(trl_losses.tolist(), rel=1e-12)


def test_kl_estimate_is_zero_at_the_reference_and_positive_elsewhere() -> None:
    logps = torch.tensor([-1.0, -2.0, -0.5], dtype=torch.float64)
    assert kl_estimate(logps, logps).tolist() == [0, 0, 0]
    assert (kl_estimate(logps, logps + torch.tensor([0.3, -0.3, 1.0])) > 0).all()
