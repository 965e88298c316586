"""A model folder -> weights, processor and wording; a message -> token ids, pixels and positions.

`encode` is the one way from a message to model input in this project: training uses its tensors, and vLLM, given
`chat_text` and the same frames, builds the same.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from transformers import (
    AutoConfig,
    AutoModelForImageTextToText,
    AutoProcessor,
    PretrainedConfig,
    PreTrainedModel,
    Qwen3VLProcessor,
    Qwen3VLVideoProcessor,
)

from tempo_ray.models.check import NotAModel
from tempo_ray.models.frames import Frames
from tempo_ray.models.positions import mrope_positions

_VIDEO = "<|vision_start|><|video_pad|><|vision_end|>"


@lru_cache(maxsize=4)
def load_processor(path: str, max_video_tokens: int | None = None) -> Any:
    """`max_video_tokens` has it scale a video's frames down to that many tokens in all, never below one token a frame."""
    processor = AutoProcessor.from_pretrained(path)
    if max_video_tokens is not None:
        _limit(processor.video_processor, max_video_tokens)
    return processor


def _limit(videos: Any, tokens: int) -> None:
    """Qwen3-VL counts the pixels of all frames together; the others share 90% of `max_video_tokens` out among the frames."""
    token = (videos.patch_size * videos.merge_size) ** 2
    all_frames_together = isinstance(videos, Qwen3VLVideoProcessor)
    if all_frames_together:
        pixels = token * videos.temporal_patch_size * tokens
        videos.cap_pixels_per_frame = False
        videos.size = {
            "shortest_edge": min(videos.size["shortest_edge"], pixels),
            "longest_edge": pixels,
        }
    else:
        videos.cap_pixels_per_frame, videos.max_video_tokens = True, math.ceil(tokens / 0.9)
        videos.size = {
            "shortest_edge": token,
            "longest_edge": max(token, videos.size["longest_edge"]),
        }


def load_model_config(path: str) -> PretrainedConfig:
    return AutoConfig.from_pretrained(path)


def load_model(path: str, dtype: torch.dtype) -> PreTrainedModel:
    """Raises NotAModel where the files do not hold all of the model's weights; transformers would draw what is missing."""
    given: dict[str, Any] = {
        "dtype": dtype,
        "attn_implementation": "sdpa",
        "output_loading_info": True,
    }
    try:
        loaded: Any = AutoModelForImageTextToText.from_pretrained(path, **given)
    except SafetensorError as error:
        raise NotAModel(f"{path}: its weights cannot be read: {error}") from error
    model, told = loaded
    wrong = sorted([*told["missing_keys"], *(str(one) for one in told["mismatched_keys"])])
    if wrong:
        raise NotAModel(
            f"{path}: {len(wrong)} weights are missing or of another shape, {wrong[0]} for one"
        )
    return model


def user_message(parts: Sequence[str | None]) -> dict[str, Any]:
    """One user turn; None stands for a video, in the order of the frames given beside it."""
    content = [
        {"type": "video"} if part is None else {"type": "text", "text": part} for part in parts
    ]
    return {"role": "user", "content": content}


def chat_text(
    processor: Any,
    parts: Sequence[str | None],
    system: str | None = None,
    turns: Sequence[tuple[str, str]] = (),
) -> str:
    """The prompt as text, up to where the assistant's answer begins; one placeholder a video. `turns` are the answer to what
    was asked and the next question, as often as there were any.

    The markers round a Qwen3-VL video go: transformers 5.19 and vLLM 0.32 would leave them standing around the per-frame
    ones; the model's pre-training has the per-frame ones alone.
    """
    messages: list[dict[str, Any]] = (
        [] if system is None else [{"role": "system", "content": system}]
    )
    messages.append(user_message(parts))
    for answer, question in turns:
        messages += [{"role": "assistant", "content": answer}, user_message([question])]
    text = processor.apply_chat_template(messages, add_generation_prompt=True, tokenize=False)
    return (
        text.replace(_VIDEO, "<|video_pad|>") if isinstance(processor, Qwen3VLProcessor) else text
    )


@dataclass(frozen=True)
class Encoded:
    """One sequence: `input_ids` (tokens,), `positions` (3, tokens), and the videos' patches, None without a video."""

    input_ids: np.ndarray
    positions: np.ndarray
    pixel_values_videos: torch.Tensor | None
    video_grid_thw: torch.Tensor | None


def encode(
    processor: Any,
    config: PretrainedConfig,
    texts: Sequence[str],
    videos: Sequence[Sequence[Frames]],
) -> list[Encoded]:
    """Texts from `chat_text` (an answer may follow), and the videos of each -> model input."""
    flat = [one for group in videos for one in group]
    kwargs: dict[str, Any] = {}
    if flat:
        metadata = [
            one.metadata | {"frames_indices": list(one.metadata["frames_indices"])} for one in flat
        ]
        kwargs = {
            "videos": [one.pixels for one in flat],
            "video_metadata": metadata,
            "do_sample_frames": False,
        }
    out = processor(text=list(texts), **kwargs)
    grids = out["video_grid_thw"] if flat else None
    seconds = out.get("second_per_grid_ts")
    patches = (
        torch.split(out["pixel_values_videos"], grids.prod(-1).tolist())
        if grids is not None
        else ()
    )
    encoded = []
    start = 0
    for ids, group in zip(out["input_ids"], videos, strict=True):
        ids = np.asarray(ids)
        end = start + len(group)
        if grids is None or not group:
            encoded.append(Encoded(ids, mrope_positions(config, ids), None, None))
            continue
        between = None if seconds is None else [float(one) for one in seconds[start:end]]
        positions = mrope_positions(config, ids, grids[start:end].numpy(), between)
        encoded.append(Encoded(ids, positions, torch.cat(patches[start:end]), grids[start:end]))
        start = end
    return encoded
