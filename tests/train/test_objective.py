"""The two objectives: their settings, units, references, and losses of a row."""

from pathlib import Path

import pytest
import torch

from tempo_ray.config import AlignConfig, LoraConfig, LossConfig, SftConfig, TrainConfig
from tempo_ray.models.vlm import load_model
from tempo_ray.train.attention import use_packed_attention
from tempo_ray.train.lora import add_adapter
from tempo_ray.train.objective import Dpo, Sft, objective_of
from tempo_ray.train.policy import LogProbs, Policy, sum_by_answer
from tests.train.packed import examples_of, packed_row


def test_the_objective_of_a_name_has_its_settings() -> None:
    config = TrainConfig.model_validate({"run": "r", "model": "m", "recipe": "align"})
    assert objective_of("dpo", config) == Dpo(config.align)
    assert objective_of("sft", config) == Sft(config.sft)


def test_steps_count_pairs_or_conversations() -> None:
    pairs, pair, conversation = examples_of(["a", "b", "c"])
    assert [Dpo(AlignConfig()).size(example) for example in (pairs, pair)] == [3, 1]
    assert Sft(SftConfig()).size(conversation) == 1
    assert Dpo(AlignConfig(pairs_per_step=8)).step_size == 8
    assert Sft(SftConfig(conversations_per_step=4)).step_size == 4


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({}, None),
        ({"lora": None}, "start"),
        ({"reference": "initial"}, "initial"),
        ({"reference": "initial", "lora": None}, "initial"),
        ({"reference": "initial", "loss": {"type": "simpo"}}, None),
    ],
)
def test_a_separate_reference_is_loaded_where_the_policy_cannot_be_it(
    settings: dict[str, object], expected: str | None
) -> None:
    objective = Dpo(AlignConfig.model_validate(settings))
    assert objective.separate_reference("start", "initial") == expected
    assert Sft(SftConfig()).separate_reference("start", "initial") is None


def test_in_the_first_stage_the_policy_without_its_adapter_is_the_reference() -> None:
    objective = Dpo(AlignConfig(reference="initial"))
    assert objective.separate_reference("initial", "initial") is None


def make_policy(models: dict[str, Path]) -> Policy:
    """With an adapter that changes its answers."""
    model = use_packed_attention(load_model(str(models["qwen2_5_vl"]), torch.float32), "sdpa")
    adapter = add_adapter(model, LoraConfig(rank=4, alpha=8), 0)
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.data.normal_(std=0.02)
    return Policy(LogProbs(model, adapter))


@torch.no_grad()
def test_dpo_compares_the_answers_of_each_pair(models: dict[str, Path], videos: list[str]) -> None:
    row, policy = packed_row(models, "qwen2_5_vl", videos), make_policy(models)
    objective = Dpo(AlignConfig(loss=LossConfig(beta=0.1, nll_weight=0.0)))
    losses, metrics = objective.losses(policy, row)
    logps, reference = policy.log_probs_with_reference(row)
    rewards = sum_by_answer(logps, row) - sum_by_answer(reference, row)
    margins = torch.stack([rewards[0] - rewards[answer] for answer in (1, 2, 3)])
    assert losses[:3].tolist() == pytest.approx(
        (-torch.nn.functional.logsigmoid(0.1 * margins)).tolist(), rel=1e-5
    )
    assert objective.units(row) == len(losses) == len(metrics["kl"]) == 4
    assert (metrics["kl"] > 0).all()


@torch.no_grad()
def test_simpo_has_no_reference(models: dict[str, Path], videos: list[str]) -> None:
    row, policy = packed_row(models, "qwen2_5_vl", videos), make_policy(models)
    losses, metrics = Dpo(AlignConfig(loss=LossConfig(type="simpo"))).losses(policy, row)
    assert len(losses) == 4
    assert "kl" not in metrics
    assert "chosen_logratio_per_token" not in metrics


@torch.no_grad()
def test_sft_is_the_negative_log_likelihood_of_every_answer_token(
    models: dict[str, Path], videos: list[str]
) -> None:
    row, policy = packed_row(models, "qwen2_5_vl", videos), make_policy(models)
    objective = Sft(SftConfig())
    losses, metrics = objective.losses(policy, row)
    assert torch.equal(losses, -policy.log_probs(row))
    assert objective.units(row) == len(losses) == int(row.lengths.sum())
    assert metrics == {}
