"""jobs/serve.py: model folders -> an OpenAI-compatible endpoint."""

from typing import Literal, Self

from pydantic import Field, NonNegativeFloat, PositiveFloat, PositiveInt, model_validator

from tempo_ray.config.base import Config, Location, ModelName, Placement, RayConfig
from tempo_ray.config.media import EngineConfig, FramesConfig

TOKEN_VARIABLE = "TEMPO_RAY_TOKEN"
"""The environment variable with the endpoint's bearer token, for server and client."""


class ServedModel(Config):
    name: str
    """The model id that clients send."""
    path: ModelName


class AutoscaleConfig(Config):
    min_replicas: PositiveInt = 1
    max_replicas: PositiveInt = 1
    target_ongoing_requests: PositiveInt = 16
    """Requests that a replica answers at a time; with more, another replica starts."""
    upscale_delay_s: NonNegativeFloat = 30.0
    """How long there are too few replicas before one starts."""
    downscale_delay_s: NonNegativeFloat = 600.0
    """How long there are too many replicas before one stops, which drains it."""


class GuardConfig(Config):
    """Limits of one request. engine.max_model_len bounds its tokens, frames.max_frames its
    frames."""

    max_body_bytes: PositiveInt = 100_000_000
    """Maximum bytes of a request, fetched videos included; base64 takes 4 bytes for 3."""
    max_videos: PositiveInt = 4
    """Maximum videos, and maximum images, of a request."""
    max_answers: PositiveInt = 8
    """Maximum answers to a request (its `n`)."""
    fetch_timeout_s: PositiveFloat = 60.0


class ServeConfig(Config):
    """Model folders -> an OpenAI-compatible endpoint."""

    run: Location | None = None
    """Run directory for the summary; null writes none."""
    models: tuple[ServedModel, ...]
    host: str = "127.0.0.1"
    port: int = Field(8000, ge=1, le=65535)
    proxies: Literal["every_node", "head"] = "every_node"
    """Which nodes of a cluster listen at the port: the head and every node with a replica, as for a
    load balancer before them, or the head alone."""
    frames: FramesConfig = FramesConfig()
    """How the server samples the frames of a video; as in training."""
    guard: GuardConfig = GuardConfig()
    engine: EngineConfig = EngineConfig()
    device: Literal["cpu", "gpu"] = "gpu"
    cpus: PositiveFloat = 1.0
    """CPUs per replica."""
    placement: Placement = Placement()
    """What a replica asks of its node beside them; with engine.tensor_parallel_size over 1, each of
    its workers."""
    autoscale: AutoscaleConfig = AutoscaleConfig()
    ray: RayConfig = RayConfig()

    @property
    def gpus(self) -> int:
        """GPUs per replica, or with several per model, per worker of one."""
        return 1 if self.device == "gpu" else 0

    @model_validator(mode="after")
    def _check_models(self) -> Self:
        names = [model.name for model in self.models]
        if not names or len(set(names)) < len(names):
            raise ValueError("models needs at least one entry, each with a different name")
        if self.device == "cpu" and self.engine.kv_cache_bytes is None:
            raise ValueError(
                "device=cpu needs engine.kv_cache_bytes (for example 500000000): vLLM would take "
                "most of the RAM otherwise"
            )
        return self
