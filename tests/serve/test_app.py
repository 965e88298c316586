"""The settings that ray.serve.llm gets. tests/integration/test_serve.py tests the endpoint."""

from pathlib import Path
from typing import Any

import pytest
from ray.serve.llm import LLMConfig

from tempo_ray.config import ServeConfig
from tempo_ray.serve.app import Server, chat_template, llm_config, public_message
from tempo_ray.shapeworld.build import make_random

# building options asks Ray, which would otherwise look for the machine's last cluster
pytestmark = [pytest.mark.engine, pytest.mark.usefixtures("ray_cluster")]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("models")
    for family in ("qwen2_5_vl", "qwen3_vl"):
        make_random(family, path / family)
    return path


def llm_settings(folder: Path, **changes: Any) -> LLMConfig:
    config = ServeConfig.model_validate(
        {"models": [{"name": "m", "path": str(folder / "qwen2_5_vl")}]} | changes
    )
    return llm_config(config, config.models[0])


def test_a_gpu_for_each_worker_of_an_engine(folder: Path) -> None:
    llm = llm_settings(folder, engine={"tensor_parallel_size": 2}, cpus=4)
    bundles = Server.get_deployment_options(llm)["placement_group_bundles"]
    assert bundles == [{"CPU": 4.0, "GPU": 1.0}] * 2
    assert llm.engine_kwargs["tensor_parallel_size"] == 2


def test_workers_of_an_engine_have_memory_and_nodes_of_their_group(folder: Path) -> None:
    group = {"tempo-ray/group": "gpu"}
    llm = llm_settings(folder, placement={"memory": "32GiB", "label_selector": group}, cpus=4)
    options = Server.get_deployment_options(llm)
    assert options["placement_group_bundles"] == [{"CPU": 4.0, "GPU": 1.0, "memory": 32 * 2**30}]
    assert options["placement_group_bundle_label_selector"] == [group]
    assert "placement_group_bundle_label_selector" not in Server.get_deployment_options(
        llm_settings(folder)
    )


def test_a_cpu_replica_has_no_gpu(folder: Path) -> None:
    llm = llm_settings(
        folder, device="cpu", engine={"kv_cache_bytes": 1000, "in_process": True}, cpus=2
    )
    assert Server.get_deployment_options(llm)["placement_group_bundles"] == [{"CPU": 2.0, "GPU": 0}]
    assert llm.engine_kwargs["kv_cache_memory_bytes"] == 1000
    assert llm.runtime_env["env_vars"]["OMP_NUM_THREADS"] == "2"
    assert llm.runtime_env["env_vars"]["VLLM_ENABLE_V1_MULTIPROCESSING"] == "0"


def test_it_scales_at_a_finite_load(folder: Path) -> None:
    llm = llm_settings(
        folder, autoscale={"min_replicas": 1, "max_replicas": 8, "target_ongoing_requests": 12}
    )
    scaling = llm.deployment_config["autoscaling_config"]
    assert (scaling["max_replicas"], scaling["target_ongoing_requests"]) == (8, 12)
    assert llm.deployment_config["max_ongoing_requests"] < 10_000


def test_requests_cannot_change_how_media_are_read(folder: Path) -> None:
    kwargs = llm_settings(
        folder, frames={"fps": 1.0, "min_frames": 8, "max_frames": 32}
    ).engine_kwargs
    assert kwargs["media_io_kwargs"] == {"video": {"fps": 1.0, "min_frames": 8, "max_frames": 32}}
    assert not kwargs.get("trust_request_mm_kwargs")
    assert not kwargs.get("trust_request_chat_template")
    assert not kwargs.get("trust_remote_code")
    assert not kwargs.get("allowed_local_media_path")


def test_a_qwen3_vl_video_has_no_markers_around_it(folder: Path) -> None:
    template = chat_template(str(folder / "qwen3_vl"))
    assert "<|video_pad|>" in template
    assert "<|vision_start|><|video_pad|>" not in template
    assert chat_template(str(folder / "qwen2_5_vl")) is None


def test_a_client_reads_no_exception_of_the_server() -> None:
    leaking = (
        "Message: Internal Server Error (Request ID: 7), Internal exception: Internal Server Error "
        "(Request ID: 7), original exception: ray::ServeReplica (pid=1, ip=10.0.0.1) /app/x.py"
    )
    assert public_message(leaking) == "Internal Server Error (Request ID: 7)"
    assert public_message("no such model") == "no such model"
