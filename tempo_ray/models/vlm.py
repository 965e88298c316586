"""A model folder -> weights and processor; messages and frames -> token ids, patches, positions.

`encode` is the only way from a message to model input: training uses its tensors, and vLLM, given
`chat_text` and the same frames, builds the same.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError
from transformers import (
    AutoConfig,
    AutoModelForImageTextToText,
    AutoProcessor,
    PretrainedConfig,
    PreTrainedModel,
)

from tempo_ray.models.families import InvalidModel, family_of_processor
from tempo_ray.models.frames import Frames
from tempo_ray.models.positions import mrope_positions


@lru_cache(maxsize=4)
def load_processor(path: str, max_video_tokens: int | None = None) -> Any:
    """The model's processor. `max_video_tokens` makes it scale a video down to that many tokens in
    all, but never below one token per frame."""
    processor: Any = AutoProcessor.from_pretrained(path)
    if max_video_tokens is not None:
        family = family_of_processor(processor)
        family.limit_video_tokens(processor.video_processor, max_video_tokens)
    return processor


def load_model_config(path: str) -> PretrainedConfig:
    config: PretrainedConfig = AutoConfig.from_pretrained(path)
    return config


def load_model(path: str, dtype: torch.dtype) -> PreTrainedModel:
    """The model with its weights in `dtype`.

    Raises:
        InvalidModel: the files lack weights, which transformers would initialise at random.
    """
    try:
        loaded: Any = AutoModelForImageTextToText.from_pretrained(
            path, dtype=dtype, attn_implementation="sdpa", output_loading_info=True
        )
    except SafetensorError as error:
        raise InvalidModel(f"{path}: its weights cannot be read: {error}") from error
    model: PreTrainedModel
    model, info = loaded
    wrong = sorted([*info["missing_keys"], *(str(key) for key in info["mismatched_keys"])])
    if wrong:
        raise InvalidModel(
            f"{path}: {len(wrong)} weights are missing or of another shape, such as {wrong[0]}"
        )
    return model


def user_message(parts: Sequence[str | None]) -> dict[str, Any]:
    """A user turn in the chat format. None stands for a video, in the order of the frames."""
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
    """The prompt as text up to where the model's answer begins, with one placeholder per video.

    `parts` is the first user message; `turns` are further rounds of (answer, next question).
    """
    messages: list[dict[str, Any]] = []
    if system is not None:
        messages.append({"role": "system", "content": system})
    messages.append(user_message(parts))
    for answer, question in turns:
        messages += [{"role": "assistant", "content": answer}, user_message([question])]
    text = processor.apply_chat_template(messages, add_generation_prompt=True, tokenize=False)
    return family_of_processor(processor).prompt_text(text)


@dataclass(frozen=True)
class Encoded:
    """One sequence as model input.

    `input_ids` (tokens,), `positions` (3, tokens), and of its videos `pixel_values_videos`
    (patches, values per patch) and `video_grid_thw` (videos, 3) in patches; None without a video.
    """

    input_ids: NDArray[np.int64]
    positions: NDArray[np.int64]
    pixel_values_videos: torch.Tensor | None
    video_grid_thw: torch.Tensor | None


def encode(
    processor: Any,
    config: PretrainedConfig,
    texts: Sequence[str],
    videos: Sequence[Sequence[Frames]],
) -> list[Encoded]:
    """Texts from `chat_text`, which an answer may follow, and the videos of each -> model input."""
    output = _process(processor, texts, [video for of_text in videos for video in of_text])
    grids = output.get("video_grid_thw")
    patches: tuple[torch.Tensor, ...] = ()
    if grids is not None:
        patches = torch.split(output["pixel_values_videos"], grids.prod(-1).tolist())
    seconds = output.get("second_per_grid_ts")
    encoded = []
    start = 0
    for token_ids, of_text in zip(output["input_ids"], videos, strict=True):
        ids = np.asarray(token_ids)
        if grids is None or not of_text:
            encoded.append(Encoded(ids, mrope_positions(config, ids), None, None))
            continue
        own = slice(start, start + len(of_text))
        per_grid = None if seconds is None else [float(value) for value in seconds[own]]
        positions = mrope_positions(config, ids, grids[own].numpy(), per_grid)
        encoded.append(Encoded(ids, positions, torch.cat(patches[own]), grids[own]))
        start = own.stop
    return encoded


def _process(processor: Any, texts: Sequence[str], videos: Sequence[Frames]) -> Any:
    """The processor's output for texts and all their videos, in order."""
    if not videos:
        return processor(text=list(texts))
    # a processor may extend the list of indices in place
    metadata = [
        {**video.metadata, "frames_indices": list(video.metadata["frames_indices"])}
        for video in videos
    ]
    return processor(
        text=list(texts),
        videos=[video.pixels for video in videos],
        video_metadata=metadata,
        do_sample_frames=False,
    )
