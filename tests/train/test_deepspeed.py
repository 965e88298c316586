from itertools import pairwise

import pytest
import torch

from tempo_ray.config import DeepSpeedConfig, OptimizerConfig
from tempo_ray.train.deepspeed import engine_config, learning_rate, parameter_groups


def test_the_rate_warms_up_and_decays() -> None:
    optimizer = OptimizerConfig(lr=1.0, warmup=0.1)
    rates = [learning_rate(step, 100, optimizer) for step in range(100)]
    assert rates[:10] == pytest.approx([(step + 1) / 10 for step in range(10)])
    assert rates[10] == 1.0
    assert rates[55] == pytest.approx(0.5)
    assert all(one > other > 0 for one, other in pairwise(rates[10:]))


@pytest.mark.parametrize("steps", [1, 2, 3])
def test_a_run_of_few_steps_learns(steps: int) -> None:
    assert all(learning_rate(step, steps, OptimizerConfig(lr=1.0)) > 0 for step in range(steps))


@pytest.mark.parametrize("stage", [0, 2, 3])
def test_the_engine_config_names_what_was_asked_for(stage: int) -> None:
    config = engine_config(DeepSpeedConfig(zero_stage=stage, dtype="float32", offload_optimizer=True), OptimizerConfig())
    assert config["zero_optimization"]["stage"] == stage
    assert ("offload_optimizer" in config["zero_optimization"]) == (stage > 0)
    assert config["bf16"] == {"enabled": False}
    assert config["optimizer"]["params"]["torch_adam"]


def test_norms_and_biases_do_not_decay() -> None:
    module = torch.nn.ModuleDict(
        {"linear": torch.nn.Linear(2, 2), "norm": torch.nn.LayerNorm(2), "frozen": torch.nn.Linear(2, 2)}
    )
    module["frozen"].requires_grad_(False)
    decayed, others = parameter_groups(module, 0.1)
    assert [one.shape for one in decayed["params"]] == [(2, 2)]
    assert (len(others["params"]), others["weight_decay"]) == (3, 0.0)
