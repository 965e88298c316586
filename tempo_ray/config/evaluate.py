"""jobs/evaluate.py: an endpoint and a benchmark's questions -> scores."""

from typing import Literal

from pydantic import NonNegativeInt, PositiveFloat, PositiveInt

from tempo_ray.config.base import Config, Location

Task = Literal["shapeworld"]


class EvaluateConfig(Config):
    """An endpoint and questions -> scores."""

    run: Location
    endpoint: str = "http://127.0.0.1:8000/v1"
    """Base URL of an OpenAI-compatible endpoint. Its token is read from TEMPO_RAY_TOKEN."""
    models: tuple[str, ...]
    """Model ids; with two or more, each is compared with the first by paired statistics."""
    task: Task = "shapeworld"
    """The benchmark: a module of tempo_ray/evaluate/tasks."""
    questions: Location
    """File of questions, as the benchmark defines it; video paths are relative to its folder."""
    limit: PositiveInt | None = None
    """Ask the first questions only."""
    concurrency: PositiveInt = 16
    """Requests in flight."""
    max_tokens: PositiveInt = 64
    timeout_s: PositiveFloat = 120.0
    resamples: PositiveInt = 10_000
    """Bootstrap resamples for the 95% intervals."""
    seed: NonNegativeInt = 0
