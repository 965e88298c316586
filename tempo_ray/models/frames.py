"""A video file -> the frames a model sees, with the metadata that goes with them.

One rule for training, for answers and for serving: the indices are those of the model family's own loader, as vLLM runs
it at the endpoint.
"""

import contextlib
import io
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, BinaryIO

import av
import av.error
import decord
import numpy as np
from av.video.reformatter import VideoReformatter

from tempo_ray.config import FramesConfig
from tempo_ray.paths import read_bytes

DECORD_ERRORS = (decord.DECORDError, RuntimeError, IndexError, AssertionError)
"""What decord raises for a file that it cannot open or a frame that it cannot decode."""


class UnreadableVideo(ValueError):
    """The bytes are no video, or hold no frame that can be decoded. Trying again will not help."""


@dataclass(frozen=True)
class Frames:
    """`pixels` is (time, height, width, 3) uint8 RGB, an even number of frames; `metadata` as transformers and vLLM take it."""

    pixels: np.ndarray
    metadata: dict[str, Any]

    @classmethod
    def presented(cls, pixels: np.ndarray, fps: float) -> "Frames":
        """Frames as one video of their own, in the order given: nothing tells where they came from."""
        if len(pixels) % 2:
            pixels = np.concatenate([pixels, pixels[-1:]])
        count, height, width, _ = pixels.shape
        return cls(pixels, _metadata(count, fps, list(range(count)), width, height))


def _metadata(
    total: int, fps: float, indices: list[int], width: int, height: int
) -> dict[str, Any]:
    return {
        "total_num_frames": total,
        "fps": float(fps),
        "frames_indices": indices,
        "width": width,
        "height": height,
        "duration": total / fps,
        "video_backend": "opencv",
    }


def sample_indices(total: int, fps: float, config: FramesConfig, model_type: str) -> list[int]:
    """The frames of a video that a model of this family is shown: an even number, or one frame twice.

    Qwen2-VL and Qwen2.5-VL step evenly from the first frame; Qwen3-VL spans the first to the last. Both as the loaders of
    vLLM 0.32 and of transformers 5.19 do it.
    """
    import torch  # here alone: processes that decode do without

    if total < 1:
        raise UnreadableVideo("no frames")
    if total == 1:
        return [0, 0]
    wanted = total / fps * config.fps
    if model_type == "qwen3_vl":
        count = min(max(int(wanted), config.min_frames), config.max_frames, total)
        indices = np.linspace(0, total - 1, count).round().astype(int).tolist()
        return indices if count % 2 == 0 else [*indices, indices[-1]]
    most = min(config.max_frames, total) // 2 * 2
    count = math.floor(min(max(wanted, config.min_frames), most) / 2) * 2
    # torch.arange in float32, as both loaders do it: its rounding decides a frame, or one frame more, now and then
    indices = torch.arange(0, total, total / count).int().clamp(max=total - 1).tolist()
    return indices if len(indices) % 2 == 0 else [*indices, indices[-1]]


def _read_decord(
    data: bytes, config: FramesConfig, model_type: str
) -> tuple[np.ndarray, list[int], int, float]:
    reader = decord.VideoReader(io.BytesIO(data), num_threads=1)
    total, fps = len(reader), float(reader.get_avg_fps())
    if total < 1 or not math.isfinite(fps) or fps <= 0:
        raise UnreadableVideo("no frames")
    indices = sample_indices(total, fps, config, model_type)
    return reader.get_batch(indices).asnumpy(), indices, total, fps


@contextlib.contextmanager
def video_stream(
    source: str | BinaryIO, options: dict[str, str] | None = None
) -> Iterator[tuple[av.container.InputContainer, av.VideoStream]]:
    """An open container and the largest of its video streams, decoded by one thread. Raises UnreadableVideo."""
    try:
        container = av.open(source, "r", metadata_errors="replace")
    except av.error.FFmpegError as error:
        raise UnreadableVideo(f"not a readable video: {error.strerror}") from error
    with container:
        if not container.streams.video:
            raise UnreadableVideo("no video stream")
        stream = max(container.streams.video, key=lambda one: one.width * one.height)
        stream.thread_count = 1
        stream.codec_context.options = options or {}
        yield container, stream


def picked(source: str | BinaryIO, indices: Sequence[int]) -> Iterator[tuple[int, np.ndarray]]:
    """Frames by number, in rising order, (height, width, 3) uint8 RGB, upright; those that are not there are left out.

    All of the size of the video's first frame, where it changes on the way.
    """
    wanted = set(indices)
    scaled = VideoReformatter()
    size: tuple[int, int] | None = None
    with video_stream(source) as (container, stream):
        for number, frame in enumerate(container.decode(stream)):
            size = size or (frame.width, frame.height)
            if number in wanted:
                pixels = scaled.reformat(frame, *size, "rgb24").to_ndarray()
                yield number, np.ascontiguousarray(np.rot90(pixels, frame.rotation // 90 % 4))
            if number >= max(wanted):
                return


def _read_av(
    data: bytes, config: FramesConfig, model_type: str
) -> tuple[np.ndarray, list[int], int, float]:
    with video_stream(io.BytesIO(data)) as (container, stream):
        fps = float(stream.average_rate or stream.guessed_rate or 0)
        total = sum(1 for _ in container.decode(stream))
    if not total or fps <= 0:
        raise UnreadableVideo("no frames")
    indices = sample_indices(total, fps, config, model_type)
    kept = dict(picked(io.BytesIO(data), indices))
    return np.stack([kept[index] for index in indices]), indices, total, fps


def read_frames(uri: str, config: FramesConfig, model_type: str) -> Frames:
    """The frames of one file. Raises UnreadableVideo, or OSError where the file cannot be opened."""
    data = read_bytes(uri)
    if not data:
        raise UnreadableVideo("empty file")
    try:
        pixels, indices, total, fps = _read_decord(data, config, model_type)
    except DECORD_ERRORS:
        try:
            pixels, indices, total, fps = _read_av(data, config, model_type)
        except av.error.FFmpegError as error:
            raise UnreadableVideo(f"not a readable video: {error}") from error
    height, width = pixels.shape[1:3]
    return Frames(pixels, _metadata(total, fps, indices, width, height))


def as_vllm(frames: Sequence[Frames]) -> list[tuple[np.ndarray, dict[str, Any]]]:
    """vLLM's `multi_modal_data["video"]`: the frames are sampled already and must not be sampled again."""
    return [(one.pixels, one.metadata | {"do_sample_frames": False}) for one in frames]
