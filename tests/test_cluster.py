"""Memory that an engine needs, memory that is free, and clusters that do not answer."""

from pathlib import Path
from typing import Any

import pytest

from tempo_ray import cluster
from tempo_ray.config import EngineConfig, Placement, PoolConfig, RayConfig
from tempo_ray.config.base import BUILTIN_MODELS
from tempo_ray.errors import UserError


def test_an_engine_takes_a_process_its_weights_and_its_cache() -> None:
    model = str(BUILTIN_MODELS / "qwen2_5_vl")
    weights = (Path(model) / "model.safetensors").stat().st_size
    engine = EngineConfig(dtype="bfloat16", kv_cache_bytes=5)
    assert cluster.engine_bytes(model, engine) == cluster.PROCESS_BYTES + weights + 5
    wide = EngineConfig(dtype="float32", kv_cache_bytes=5)
    assert cluster.engine_bytes(model, wide) == cluster.PROCESS_BYTES + 2 * weights + 5


def test_memory_is_checked_only_for_a_ray_started_here(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    cluster.check_memory(RayConfig(), 1, "buy more")
    with pytest.raises(UserError, match="are free: buy more"):
        cluster.check_memory(RayConfig(), 1 << 60, "buy more")
    cluster.check_memory(RayConfig(address="auto"), 1 << 60, "buy more")
    monkeypatch.setenv("RAY_ADDRESS", "10.0.0.1:6379")
    cluster.check_memory(RayConfig(), 1 << 60, "buy more")
    assert cluster.is_shared(RayConfig())


def test_free_memory_is_some_of_the_machines() -> None:
    assert 0 < cluster.free_bytes() < 1 << 50


def node(labels: dict[str, str] | None = None, alive: bool = True, **resources: float) -> Any:
    return {"Alive": alive, "Resources": resources, "Labels": labels or {}}


def test_a_request_takes_what_the_pool_asks_for() -> None:
    pool = PoolConfig(
        cpus=2, gpus=0.5, memory="2GB", resources={"disk": 1}, label_selector={"group": "gpu"}
    )
    request = cluster.NodeRequest.of("respond.pool", pool.cpus, pool.gpus, pool)
    assert request.resources == {"CPU": 2, "GPU": 0.5, "memory": 2_000_000_000, "disk": 1}
    assert str(request) == ("respond.pool (2 CPU, 0.5 GPU, 2e+09 memory, 1 disk, group=gpu)")
    assert cluster.NodeRequest.of("p", 1, 0, Placement()).resources == {"CPU": 1}


def test_a_node_fits_if_it_lives_and_its_total_and_labels_suffice() -> None:
    request = cluster.NodeRequest("p", {"CPU": 2, "GPU": 1}, {"group": "gpu"})
    assert request.fits(node({"group": "gpu"}, CPU=2, GPU=1))
    assert not request.fits(node({"group": "gpu"}, alive=False, CPU=2, GPU=1))
    assert not request.fits(node({"group": "gpu"}, CPU=2))
    assert not request.fits(node({"group": "gpu"}, CPU=1, GPU=1))
    assert not request.fits(node({"group": "cpu"}, CPU=2, GPU=1))
    assert not request.fits(node(CPU=2, GPU=1))


@pytest.mark.parametrize(
    ("selector", "label", "selected"),
    [
        ("a", "a", True),
        ("a", "b", False),
        ("!a", "b", True),
        ("!a", "a", False),
        ("!a", None, True),
        ("in(a, b)", "b", True),
        ("in(a, b)", "c", False),
        ("!in(a, b)", "c", True),
        ("!in(a, b)", "a", False),
    ],
)
def test_label_selectors_are_rays(selector: str, label: str | None, selected: bool) -> None:
    request = cluster.NodeRequest("p", {}, {"group": selector})
    labels = {} if label is None else {"group": label}
    assert request.fits(node(labels)) == selected
