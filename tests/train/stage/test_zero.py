"""DeepSpeed's config, its engines, and the learning rate."""

from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import pytest
import torch
import torch.distributed as dist

from tempo_ray.config import DeepSpeedConfig, OptimizerConfig, TrainConfig
from tempo_ray.models.vlm import load_model
from tempo_ray.shapeworld.build import FAMILIES
from tempo_ray.train.stage.zero import (
    engine_config,
    initialise_deepspeed,
    learning_rate,
    make_policy,
    parameter_groups,
    sharded_loading,
)
from tests.train.worker import make_context


@pytest.fixture(scope="module")
def process_group(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """A process group of one; the same for all tests, because DeepSpeed keeps its first."""
    with pytest.MonkeyPatch.context() as monkeypatch:
        for name, value in (
            ("DS_ACCELERATOR", "cpu"),
            ("LOCAL_RANK", "0"),
            ("RANK", "0"),
            ("WORLD_SIZE", "1"),
        ):
            monkeypatch.setenv(name, value)
        store = dist.FileStore(str(tmp_path_factory.mktemp("group") / "store"), 1)
        dist.init_process_group("gloo", store=store, rank=0, world_size=1)
        initialise_deepspeed()
        yield
        dist.destroy_process_group()


@pytest.mark.usefixtures("process_group")
@pytest.mark.parametrize("zero_stage", [2, 3])
@pytest.mark.parametrize("family", FAMILIES)
def test_bfloat16_keeps_the_rotary_frequencies_in_float32(
    family: str, zero_stage: int, models: dict[str, Path]
) -> None:
    path = str(models[family])
    config = TrainConfig.model_validate(
        {
            "run": "run",
            "model": path,
            "recipe": "align",
            "align": {"lora": None},
            "workers": {"count": 1, "gpus": 0},
            "deepspeed": {"zero_stage": zero_stage, "dtype": "bfloat16"},
        }
    )
    policy = make_policy(make_context(config, "align-16"))
    plain = dict(load_model(path, torch.bfloat16).named_buffers())
    assert plain
    for engine in (policy.engine, policy.reference):
        buffers = dict(engine.module.model.named_buffers())
        for name, buffer in plain.items():
            assert buffers[name].dtype == buffer.dtype == torch.float32, name
            assert torch.equal(buffers[name], buffer), name


@pytest.mark.usefixtures("process_group")
def test_zero_3_by_itself_rounds_the_rotary_frequencies(models: dict[str, Path]) -> None:
    """When this fails, DeepSpeed has changed, and docs/positions.md must too."""
    settings = DeepSpeedConfig(zero_stage=3, dtype="bfloat16")
    sharded = sharded_loading(
        settings, engine_config(settings, OptimizerConfig()) | {"data_types": {}}
    )
    rounded = dict(load_model(str(models["qwen2_5_vl"]), torch.bfloat16).named_buffers())
    del sharded
    assert {buffer.dtype for name, buffer in rounded.items() if "inv_freq" in name} == {
        torch.bfloat16
    }


def test_the_learning_rate_warms_up_and_decays() -> None:
    optimizer = OptimizerConfig(lr=1.0, warmup=0.1)
    rates = [learning_rate(step, 100, optimizer) for step in range(100)]
    assert rates[:10] == pytest.approx([(step + 1) / 10 for step in range(10)])
    assert rates[10] == 1.0
    assert rates[55] == pytest.approx(0.5)
    assert all(rate > later > 0 for rate, later in pairwise(rates[10:]))


@pytest.mark.parametrize("steps", [1, 2, 3])
def test_every_step_of_a_short_run_has_a_learning_rate(steps: int) -> None:
    assert all(learning_rate(step, steps, OptimizerConfig(lr=1.0)) > 0 for step in range(steps))


@pytest.mark.parametrize("zero_stage", [0, 2, 3])
def test_the_engine_config_follows_the_settings(zero_stage: int) -> None:
    config = engine_config(
        DeepSpeedConfig(zero_stage=zero_stage, dtype="float32", offload_optimizer=True),
        OptimizerConfig(),
    )
    assert config["zero_optimization"]["stage"] == zero_stage
    assert ("offload_optimizer" in config["zero_optimization"]) == (zero_stage > 0)
    assert config["bf16"] == {"enabled": False}
    assert config["optimizer"]["params"]["torch_adam"]


def test_norms_and_biases_do_not_decay() -> None:
    module = torch.nn.ModuleDict(
        {
            "linear": torch.nn.Linear(2, 2),
            "norm": torch.nn.LayerNorm(2),
            "frozen": torch.nn.Linear(2, 2),
        }
    )
    module["frozen"].requires_grad_(False)
    decayed, undecayed = parameter_groups(module, 0.1)
    assert [parameter.shape for parameter in decayed["params"]] == [(2, 2)]
    assert (len(undecayed["params"]), undecayed["weight_decay"]) == (3, 0.0)
