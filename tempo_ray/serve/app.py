"""Serve config -> a Ray Serve application: one vLLM deployment per model behind a guarded ingress.

ray.serve.llm does the serving. Added here: the settings (frames as in training, a finite
autoscaling target), the guard, `/health`, and an engine in the replica's own process if the config
asks for it.
"""

import asyncio
import os
import re
from pathlib import Path
from typing import Any

from fastapi import FastAPI, HTTPException, Request
from fastapi.middleware.cors import CORSMiddleware
from fastapi.responses import JSONResponse
from ray import serve
from ray.exceptions import RayError
from ray.llm._internal.common.callbacks.base import CallbackBase
from ray.llm._internal.serve.core.configs.openai_api_models import (
    OpenAIHTTPException,
    to_model_metadata,
)
from ray.llm._internal.serve.core.ingress.ingress import init
from ray.llm._internal.serve.engines.vllm.vllm_engine import VLLMEngine
from ray.serve.deployment import Application
from ray.serve.exceptions import RayServeException
from ray.serve.llm import LLMConfig, build_llm_deployment
from ray.serve.llm.deployment import LLMServer
from ray.serve.llm.ingress import OpenAiIngress, make_fastapi_ingress
from vllm.v1.metrics.ray_wrappers import RayPrometheusStatLogger

from tempo_ray.cluster import NodeRequest
from tempo_ray.config import ServeConfig, ServedModel
from tempo_ray.models.engine import engine_kwargs, model_hash
from tempo_ray.models.families import family_of
from tempo_ray.models.vlm import load_model_config, load_processor
from tempo_ray.serve.guard import Guard, digest, error_body, read_token
from tempo_ray.serve.in_process import import_model_class, start_in_process
from tempo_ray.serve.metered import Metered

HEALTH_TIMEOUT_S = 10.0

ENDPOINTS = {
    "models": lambda app: app.get("/v1/models"),
    "model_data": lambda app: app.get("/v1/models/{model:path}"),
    "chat": lambda app: app.post("/v1/chat/completions"),
    "completions": lambda app: app.post("/v1/completions"),
    "health": lambda app: app.get("/health"),
}


class NoDownload(CallbackBase):
    """Skips Ray's worker per node that fetches the model: vLLM does that itself."""

    async def on_before_node_init(self) -> None:
        self.ctx.run_init_node = False


class InProcessEngine(VLLMEngine):
    """An engine whose core runs in the replica's process."""

    def _prepare_engine_config(self, callback_ctx: Any) -> Any:
        engine: Any = self.llm_config.get_engine_config()
        import_model_class(engine.actual_hf_model_id)
        return super()._prepare_engine_config(callback_ctx)

    def _start_async_llm_engine(
        self, vllm_engine_args: Any, vllm_engine_config: Any, placement_group: Any
    ) -> Any:
        return start_in_process(
            vllm_engine_config, not vllm_engine_args.disable_log_stats, [RayPrometheusStatLogger]
        )


class Server(LLMServer):
    async def _start_engine(self) -> None:
        """Skips the usage report: its agent is a process of 700 MB, and slow to start."""
        assert self.engine is not None
        await self.engine.start()


class InProcessServer(Server):
    # LLMServer declares the type of its own engine, not of any engine
    _default_engine_cls = InProcessEngine  # type: ignore[assignment]


class Ingress(OpenAiIngress):
    """ray.serve.llm's OpenAI API, with `/health`."""

    async def health(self) -> JSONResponse:
        """200 if an engine of every model answers; otherwise 503, and the models that are down."""
        names = list(self._model_cards)
        healthy = await asyncio.gather(*(self._is_healthy(name) for name in names))
        down = [name for name, is_up in zip(names, healthy, strict=True) if not is_up]
        status = "down" if down else "ok"
        body = {"status": status, "models": names, "down": down}
        return JSONResponse(body, 503 if down else 200)

    async def _is_healthy(self, name: str) -> bool:
        try:
            async with asyncio.timeout(HEALTH_TIMEOUT_S):
                await self._default_serve_handles[name].check_health.remote()
        except (TimeoutError, RayError, RayServeException):
            return False
        return True


def chat_template(path: str) -> str | None:
    """The chat template to serve a model with, as it was trained; None for the model's own."""
    family = family_of(load_model_config(path).model_type)
    return family.served_chat_template(load_processor(path))


def serving_kwargs(config: ServeConfig) -> dict[str, Any]:
    """vLLM's arguments about requests; its own loaders sample frames as `config.frames` says."""
    frames = config.frames
    return {
        "limit_mm_per_prompt": {"video": config.guard.max_videos, "image": config.guard.max_videos},
        "media_io_kwargs": {
            "video": {
                "fps": frames.fps,
                "min_frames": frames.min_frames,
                "max_frames": frames.max_frames,
            }
        },
        # vLLM's loader has sampled. If it took every frame of a video, a processor that marks each
        # frame would sample again, at 2 fps.
        "mm_processor_kwargs": {"videos_kwargs": {"do_sample_frames": False}},
        # the guard fetches; whatever slips past it, the engine never does
        "allowed_media_domains": ["nothing.invalid"],
    }


def _environment(config: ServeConfig, local: bool) -> dict[str, str]:
    variables = {
        "VLLM_NO_USAGE_STATS": "1",
        "VLLM_LOGGING_LEVEL": os.environ.get("VLLM_LOGGING_LEVEL", "ERROR"),
    }
    if local:
        variables["HF_HUB_OFFLINE"] = "1"
    if config.device == "cpu":
        variables |= {
            "OMP_NUM_THREADS": str(max(1, int(config.cpus))),
            "VLLM_CPU_OMP_THREADS_BIND": "nobind",
        }
    if config.engine.in_process:
        variables["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"
    return variables


def llm_config(config: ServeConfig, model: ServedModel) -> LLMConfig:
    """ray.serve.llm's config of one model."""
    local = Path(model.path).is_dir()
    scale = config.autoscale
    asked = NodeRequest.of("a replica", config.cpus, config.gpus, config.placement)
    placement: dict[str, Any] = {}
    if asked.labels:
        placement = {"placement_group_bundle_label_selector": [dict(asked.labels)]}
    return LLMConfig(
        model_loading_config={
            "model_id": model.name,
            "model_source": str(Path(model.path).resolve()) if local else model.path,
        },
        engine_kwargs=engine_kwargs(config.engine, config.device == "cpu")
        | serving_kwargs(config)
        | {"chat_template": chat_template(model.path)},
        accelerator_config={"kind": config.device},
        placement_group_config={"bundle_per_worker": dict(asked.resources)},
        deployment_config={
            "ray_actor_options": {"num_cpus": 0},
            # ray.serve.llm's own target is 1e9 requests, at which nothing ever scales
            "autoscaling_config": scale.model_dump(),
            "max_ongoing_requests": max(
                2 * scale.target_ongoing_requests, config.engine.max_num_seqs
            ),
            "health_check_timeout_s": 60.0,
            # a model that fails to load fails the third time too
            "max_constructor_retry_count": scale.min_replicas,
            **placement,
        },
        runtime_env={"env_vars": _environment(config, local)},
        callback_config={"callback_class": NoDownload},
        server_cls=InProcessServer if config.engine.in_process else Server,
    )


def _plain_error(request: Request, error: Exception) -> JSONResponse:
    """The message alone, to which ray.serve.llm would add the names of its exceptions."""
    if isinstance(error, HTTPException):
        return JSONResponse(error_body(error.status_code, str(error.detail)), error.status_code)
    assert isinstance(error, OpenAIHTTPException)
    message = public_message(str(error.message))
    return JSONResponse(error_body(error.status_code, message), error.status_code)


def public_message(message: str) -> str:
    """Of ray.serve.llm's error, what a client may read. What follows, exceptions with actors,
    process ids and paths, is in the replica's log, under the same request ID."""
    told = re.match("Message: (.*?), Internal exception: ", message, re.DOTALL)
    return told[1] if told else message


def guarded(config: ServeConfig, token: bytes | None) -> FastAPI:
    """ray.serve.llm's HTTP app, behind the guard, and closed to web pages of other origins."""
    app = init()
    app.add_exception_handler(HTTPException, _plain_error)
    app.add_exception_handler(OpenAIHTTPException, _plain_error)
    cors: Any = CORSMiddleware  # it opens the API to every origin
    app.user_middleware = [
        middleware for middleware in app.user_middleware if middleware.cls is not cors
    ]
    app.add_middleware(Guard, config=config.guard, token=token)
    app.add_middleware(Metered)
    return app


def build_app(config: ServeConfig) -> Application:
    """The application, with every model of the config. Reads the token from TEMPO_RAY_TOKEN.

    A Serve config file or a RayService names it too: `import_path: tempo_ray.serve.app:build_app`,
    with a ServeConfig as `args`.
    """
    return application(config, digest(read_token()))


def application(config: ServeConfig, token: bytes | None) -> Application:
    """`token` is the digest of the token that opens the endpoint; None for none."""
    llms = {model.name: llm_config(config, model) for model in config.models}
    settings = {
        "frames": config.frames.model_dump(),
        "engine": config.engine.model_dump(),
        "config_hash": config.hash(),
    }
    cards = {
        model.name: to_model_metadata(
            model.name,
            llms[model.name],
            overrides={"tempo_ray": settings | {"model_hash": model_hash(model.path)}},
        )
        for model in config.models
    }
    scale = config.autoscale.model_dump() | {"target_ongoing_requests": 64}
    ingress: Any = serve.deployment(
        make_fastapi_ingress(Ingress, endpoint_map=ENDPOINTS, app=guarded(config, token)),
        name="ingress",
        ray_actor_options={"num_cpus": 0.1},
        autoscaling_config=scale,
        max_ongoing_requests=1000,
    )
    deployments = {name: build_llm_deployment(llm) for name, llm in llms.items()}
    app: Application = ingress.bind(llm_deployments=deployments, model_cards=cards)
    return app
