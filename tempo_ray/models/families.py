"""A model's type or processor -> its `Family`: all that differs between families of Video LLMs.

To support another family, add its `Family` here and its cases to tests/models/test_families.py.
Imports neither torch nor transformers: processes that only decode videos do without them.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tempo_ray.config import FramesConfig
from tempo_ray.errors import UserError

PLACEHOLDER = "<|video_pad|>"
"""What stands for one video in a prompt; the processor repeats it, once per token."""
_MARKED_PLACEHOLDER = f"<|vision_start|>{PLACEHOLDER}<|vision_end|>"


class InvalidModel(UserError):
    """This project cannot use the model; the message says what is wrong with it."""


@dataclass(frozen=True)
class Family:
    """A family of Video LLMs. `model_type` and `processor_class` are transformers' names for it."""

    model_type: str
    processor_class: str
    sample_indices: Callable[[int, float, FramesConfig], list[int]]
    """(total frames, at least 2; frames per second; config) -> numbers of the frames to show."""
    video_runs: Callable[[Any, tuple[int, int, int], float], list[NDArray[np.int64]]]
    """(vision config; grid as temporal patches, rows and columns of tokens; seconds per temporal
    patch) -> for each uninterrupted run of the video's tokens, (3, tokens) positions relative to
    the start of the run."""
    limit_video_tokens: Callable[[Any, int], None]
    """(video processor, tokens): from now on it scales a video down to that many tokens in all."""
    marks_each_frame: bool
    """Whether the processor writes vision markers around every frame, not around the video.

    transformers 5.19 and vLLM 0.32 then keep the chat template's markers around the whole video as
    well; the model was pre-trained with those of the frames alone.
    """

    def prompt_text(self, text: str) -> str:
        """A rendered prompt, or a chat template, with the markers of the model's pre-training."""
        return text.replace(_MARKED_PLACEHOLDER, PLACEHOLDER) if self.marks_each_frame else text

    def served_chat_template(self, processor: Any) -> str | None:
        """The chat template to serve the model with; None if its own is right."""
        return self.prompt_text(processor.chat_template) if self.marks_each_frame else None


def _every_nth_frame(total: int, fps: float, config: FramesConfig) -> list[int]:
    """Evenly spaced from the first frame on, as in vLLM 0.32's and transformers 5.19's loaders."""
    import torch  # only here, see the module's docstring

    wanted = total / fps * config.fps
    most = min(config.max_frames, total) // 2 * 2
    count = math.floor(min(max(wanted, config.min_frames), most) / 2) * 2
    # float32 as in both loaders: its rounding sometimes decides a frame, or adds one
    indices = torch.arange(0, total, total / count).int().clamp(max=total - 1)
    return [int(index) for index in indices]


def _first_to_last_frame(total: int, fps: float, config: FramesConfig) -> list[int]:
    """Evenly spaced, first and last included, as in vLLM 0.32's and transformers 5.19's loaders."""
    wanted = total / fps * config.fps
    count = min(max(int(wanted), config.min_frames), config.max_frames, total)
    return [int(index) for index in np.linspace(0, total - 1, count).round()]


def _one_run(
    vision: Any, grid: tuple[int, int, int], seconds_per_patch: float
) -> list[NDArray[np.int64]]:
    """The time axis advances by `tokens_per_second` positions per second of video."""
    run = np.indices(grid)
    run[0] = (run[0] * (seconds_per_patch * vision.tokens_per_second)).astype(np.int64)
    return [run.reshape(3, -1)]


def _one_run_per_patch(
    vision: Any, grid: tuple[int, int, int], seconds_per_patch: float
) -> list[NDArray[np.int64]]:
    """Each temporal patch is a run of its own, preceded by its time in words."""
    patches, rows, columns = grid
    run = np.indices((1, rows, columns)).reshape(3, -1)
    return [run] * patches


def _pixels_per_token(video_processor: Any) -> int:
    side: int = video_processor.patch_size * video_processor.merge_size
    return side**2


def _limit_per_frame(video_processor: Any, tokens: int) -> None:
    """The processor divides 90% of its `max_video_tokens` among the frames."""
    pixels = _pixels_per_token(video_processor)
    video_processor.cap_pixels_per_frame = True
    video_processor.max_video_tokens = math.ceil(tokens / 0.9)
    video_processor.size = {
        "shortest_edge": pixels,
        "longest_edge": max(pixels, video_processor.size["longest_edge"]),
    }


def _limit_all_frames(video_processor: Any, tokens: int) -> None:
    """The processor's sizes are pixels of all frames together."""
    pixels = _pixels_per_token(video_processor) * video_processor.temporal_patch_size * tokens
    video_processor.cap_pixels_per_frame = False
    video_processor.size = {
        "shortest_edge": min(video_processor.size["shortest_edge"], pixels),
        "longest_edge": pixels,
    }


QWEN2_5_VL = Family(
    model_type="qwen2_5_vl",
    processor_class="Qwen2_5_VLProcessor",
    sample_indices=_every_nth_frame,
    video_runs=_one_run,
    limit_video_tokens=_limit_per_frame,
    marks_each_frame=False,
)
QWEN3_VL = Family(
    model_type="qwen3_vl",
    processor_class="Qwen3VLProcessor",
    sample_indices=_first_to_last_frame,
    video_runs=_one_run_per_patch,
    limit_video_tokens=_limit_all_frames,
    marks_each_frame=True,
)
FAMILIES = (QWEN2_5_VL, QWEN3_VL)
SUPPORTED = tuple(family.model_type for family in FAMILIES)


def family_of(model_type: str | None) -> Family:
    """The family of a model's `model_type`. Raises InvalidModel if it is not supported."""
    for family in FAMILIES:
        if family.model_type == model_type:
            return family
    raise InvalidModel(
        f"model_type {model_type} is not supported; use one of {', '.join(SUPPORTED)}"
    )


def family_of_processor(processor: Any) -> Family:
    """The family that a transformers processor belongs to. Raises InvalidModel if none does."""
    name = type(processor).__name__
    for family in FAMILIES:
        if family.processor_class == name:
            return family
    known = ", ".join(family.processor_class for family in FAMILIES)
    raise InvalidModel(f"processor {name} is not supported; use a model with one of {known}")
