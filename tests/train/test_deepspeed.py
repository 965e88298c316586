from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import pytest
import torch
import torch.distributed as dist

from tempo_ray.config import DeepSpeedConfig, OptimizerConfig, TrainConfig
from tempo_ray.models.vlm import load_model
from tempo_ray.shapeworld.build import FAMILIES
from tempo_ray.train.deepspeed import (
    engine_config,
    learning_rate,
    parameter_groups,
    prepare,
    sharded_loading,
)
from tempo_ray.train.learner import Work, make_learner


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """A process group of this process; one for all, because DeepSpeed remembers its first."""
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
        prepare()
        yield
        dist.destroy_process_group()


@pytest.mark.usefixtures("alone")
@pytest.mark.parametrize("zero_stage", [2, 3])
@pytest.mark.parametrize("family", FAMILIES)
def test_bfloat16_leaves_the_rotary_frequencies_whole(
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
        }
        | {"deepspeed": {"zero_stage": zero_stage, "dtype": "bfloat16"}}
    )
    learner = make_learner(Work(config, "align-16", "align", path, path, 0))
    plain = dict(load_model(path, torch.bfloat16).named_buffers())
    assert plain
    for engine in (learner.engine, learner.reference):
        found = dict(engine.module.model.named_buffers())
        for name, buffer in plain.items():
            assert found[name].dtype == buffer.dtype == torch.float32, name
            assert torch.equal(found[name], buffer), name


@pytest.mark.usefixtures("alone")
def test_zero_3_by_itself_rounds_them(models: dict[str, Path]) -> None:
    """The day this fails, docs/positions.md has something to take back."""
    settings = DeepSpeedConfig(zero_stage=3, dtype="bfloat16")
    sharded = sharded_loading(
        settings, engine_config(settings, OptimizerConfig()) | {"data_types": {}}
    )
    rounded = dict(load_model(str(models["qwen2_5_vl"]), torch.bfloat16).named_buffers())
    del sharded
    assert {buffer.dtype for name, buffer in rounded.items() if "inv_freq" in name} == {
        torch.bfloat16
    }


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
    config = engine_config(
        DeepSpeedConfig(zero_stage=stage, dtype="float32", offload_optimizer=True),
        OptimizerConfig(),
    )
    assert config["zero_optimization"]["stage"] == stage
    assert ("offload_optimizer" in config["zero_optimization"]) == (stage > 0)
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
    decayed, others = parameter_groups(module, 0.1)
    assert [one.shape for one in decayed["params"]] == [(2, 2)]
    assert (len(others["params"]), others["weight_decay"]) == (3, 0.0)
