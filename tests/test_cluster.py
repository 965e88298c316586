"""Memory that an engine needs, memory that is free, and clusters that do not answer."""

from pathlib import Path

import pytest

from tempo_ray import cluster
from tempo_ray.config import EngineConfig, RayConfig
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
