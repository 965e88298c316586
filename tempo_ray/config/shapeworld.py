"""ShapeWorld: drawn corpora, the tiny models, and the demo that runs every job on them."""

from typing import Annotated, Literal, Self

from pydantic import Field, NonNegativeInt, PositiveInt, model_validator

from tempo_ray.config.base import Config, LocalPath, Location, RayConfig, Share


class WorldConfig(Config):
    """What a ShapeWorld video looks like."""

    width: Annotated[int, Field(ge=32, multiple_of=2)] = 64
    height: Annotated[int, Field(ge=32, multiple_of=2)] = 64
    fps: PositiveInt = 24
    shots: tuple[PositiveInt, PositiveInt] = (4, 6)
    """Minimum and maximum shots of a video."""
    shot_seconds: tuple[float, float] = (1.0, 1.0)
    """Minimum and maximum length of a shot."""

    @model_validator(mode="after")
    def _check_ranges(self) -> Self:
        if self.shots[0] > self.shots[1] or self.shot_seconds[0] > self.shot_seconds[1]:
            raise ValueError("shots and shot_seconds are [minimum, maximum]")
        return self


class MakeShapeworldConfig(Config):
    """Nothing -> a folder of drawn videos, their stories, questions and instruction data."""

    output: Location
    """Folder to write: videos/, stories.jsonl, questions.jsonl and instructions.jsonl."""
    split: Literal["train", "heldout", "test"] = "train"
    """No story is in two splits."""
    videos: PositiveInt = 200
    seed: NonNegativeInt = 0
    world: WorldConfig = WorldConfig()
    questions_per_video: NonNegativeInt = 6
    instructions_per_video: NonNegativeInt = 8
    order_share: Share = 0.0
    """Share of the instructions that ask about the order of events. At 0, a model's sense of order
    must come from elsewhere."""
    ray: RayConfig = RayConfig()


class PretrainConfig(Config):
    """Nothing -> a tiny Video LLM and the record of its training."""

    output: LocalPath
    """Folder of the model. An interrupted run resumes from its last checkpoint."""
    family: Literal["qwen2_5_vl", "qwen3_vl"] = "qwen2_5_vl"
    seed: NonNegativeInt = 0
    steps: PositiveInt = 4000
    threads: PositiveInt = 2


class DemoConfig(Config):
    """Everything from nothing: corpus, pairs, two trained models, endpoint, scores, picture."""

    run: LocalPath = "runs/demo"
    """A finished run is started over; an unfinished one resumes."""
    config: str = "embedded"
    """The config whose sections the jobs run with: a shipped one's name, or a file."""
    seed: NonNegativeInt = 0
    train_videos: PositiveInt = 160
    test_videos: PositiveInt = 120
    port: int | None = Field(None, ge=1, le=65535)
    """Port of the endpoint on this machine; null takes a free one."""
