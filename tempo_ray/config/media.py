"""Frames, sampling and engines: what answers, training and serving configure alike."""

from typing import Annotated, Literal, Self

from pydantic import Field, NonNegativeFloat, PositiveInt, model_validator

from tempo_ray.config.base import Config

PositiveFinite = Annotated[float, Field(gt=0, allow_inf_nan=False)]


class FramesConfig(Config):
    """How a video becomes the frames that a model sees; the same in answers, training, serving."""

    fps: PositiveFinite = 2.0
    """Frames sampled per second of video."""
    min_frames: PositiveInt = 4
    max_frames: PositiveInt = 768

    @model_validator(mode="after")
    def _check_even(self) -> Self:
        if self.max_frames % 2 or self.min_frames % 2 or self.max_frames < self.min_frames:
            raise ValueError(
                "min_frames and max_frames must be even (two frames make one temporal patch), and "
                "max_frames at least min_frames"
            )
        return self


class SamplingConfig(Config):
    temperature: NonNegativeFloat = 0.7
    repetition_penalty: float = Field(1.05, gt=0.0)
    top_p: float = Field(1.0, gt=0.0, le=1.0)
    caption_tokens: PositiveInt = 256
    """Maximum tokens of a clip caption."""
    answer_tokens: PositiveInt = 1024
    """Maximum tokens of a whole-video answer."""


class EngineConfig(Config):
    """The settings of a vLLM engine."""

    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    max_model_len: PositiveInt = 16384
    max_num_seqs: PositiveInt = 256
    tensor_parallel_size: PositiveInt = 1
    kv_cache_bytes: int | None = None
    """KV cache of one engine; null lets vLLM take its share of a GPU's memory. Required on CPU."""
    enforce_eager: bool = False
    """Skip graph capture: slower steps, faster start."""
    in_process: bool = False
    """Run the engine core inside the actor: starts in seconds instead of a minute on CPU."""
