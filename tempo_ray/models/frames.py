"""A video file -> the frames that a model is shown, with their metadata.

Training, answers and serving share one sampling rule: that of the family's own loader, as vLLM
runs it behind the endpoint. Imports neither torch nor transformers.
"""

import contextlib
import io
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, BinaryIO, TypedDict

import av
import av.error
import decord
import numpy as np
from av.video.reformatter import VideoReformatter
from numpy.typing import NDArray

from tempo_ray.config import FramesConfig
from tempo_ray.models.families import family_of
from tempo_ray.storage import read_bytes

DECORD_ERRORS = (decord.DECORDError, RuntimeError, IndexError, AssertionError)
"""What decord raises for a file that it cannot open or a frame that it cannot decode."""


class UnreadableVideo(ValueError):
    """The bytes are not a video, or have no frame that can be decoded. Retrying will not help."""


class FramesMetadata(TypedDict):
    """transformers' VideoMetadata, which vLLM takes too."""

    total_num_frames: int
    fps: float
    """Frames per second of the file."""
    frames_indices: list[int]
    """Numbers of the sampled frames in the file."""
    width: int
    height: int
    duration: float
    """Seconds of the whole file."""
    video_backend: str


@dataclass(frozen=True)
class Frames:
    """Sampled frames. `pixels` is (frames, height, width, 3) uint8 RGB, an even number of frames.

    Two frames make one temporal patch.
    """

    pixels: NDArray[np.uint8]
    metadata: FramesMetadata

    @classmethod
    def presented(cls, pixels: NDArray[np.uint8], fps: float) -> "Frames":
        """(frames, height, width, 3) uint8 RGB, in the order given, as a video of `fps` frames per
        second. Nothing reveals where the frames came from. The last is repeated if their number is
        odd."""
        if len(pixels) % 2:
            pixels = np.concatenate([pixels, pixels[-1:]])
        total, height, width, _ = pixels.shape
        return cls(pixels, _metadata(total, fps, list(range(total)), width, height))


def _metadata(
    total: int, fps: float, indices: list[int], width: int, height: int
) -> FramesMetadata:
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
    """Numbers of the frames that a model of this family is shown: an even number of them.

    `total` frames at `fps` frames per second; a single frame is shown twice.

    Raises:
        UnreadableVideo: there are no frames.
        InvalidModel: the family is not supported.
    """
    if total < 1:
        raise UnreadableVideo("no frames")
    if total == 1:
        return [0, 0]
    indices = family_of(model_type).sample_indices(total, fps, config)
    return indices if len(indices) % 2 == 0 else [*indices, indices[-1]]


def read_frames(uri: str, config: FramesConfig, model_type: str) -> Frames:
    """The sampled frames of one file, a local path or a URI, at the file's own size.

    Raises:
        UnreadableVideo: the file is not a video that decord or FFmpeg can decode.
        OSError: the file cannot be opened.
    """
    data = read_bytes(uri)
    if not data:
        raise UnreadableVideo("empty file")
    with contextlib.suppress(*DECORD_ERRORS):
        return _read_decord(data, config, model_type)
    try:
        return _read_av(data, config, model_type)
    except av.error.FFmpegError as error:
        raise UnreadableVideo(f"not a readable video: {error}") from error


def _read_decord(data: bytes, config: FramesConfig, model_type: str) -> Frames:
    reader = decord.VideoReader(io.BytesIO(data), num_threads=1)
    total, fps = len(reader), float(reader.get_avg_fps())
    if total < 1 or not math.isfinite(fps) or fps <= 0:
        raise UnreadableVideo("no frames")
    indices = sample_indices(total, fps, config, model_type)
    pixels = reader.get_batch(indices).asnumpy()
    height, width = pixels.shape[1:3]
    return Frames(pixels, _metadata(total, fps, indices, width, height))


def _read_av(data: bytes, config: FramesConfig, model_type: str) -> Frames:
    with video_stream(io.BytesIO(data)) as (container, stream):
        fps = float(stream.average_rate or stream.guessed_rate or 0)
        total = sum(1 for _ in container.decode(stream))
    if not total or fps <= 0:
        raise UnreadableVideo("no frames")
    indices = sample_indices(total, fps, config, model_type)
    kept = dict(picked(io.BytesIO(data), indices))
    pixels = np.stack([kept[index] for index in indices])
    height, width = pixels.shape[1:3]
    return Frames(pixels, _metadata(total, fps, indices, width, height))


@contextlib.contextmanager
def video_stream(
    source: str | BinaryIO, options: dict[str, str] | None = None
) -> Iterator[tuple[av.container.InputContainer, av.VideoStream]]:
    """An open container and its largest video stream, decoded by one thread.

    `options` are FFmpeg's for the decoder. Raises UnreadableVideo.
    """
    try:
        container = av.open(source, "r", metadata_errors="replace")
    except av.error.FFmpegError as error:
        raise UnreadableVideo(f"not a readable video: {error.strerror}") from error
    with container:
        if not container.streams.video:
            raise UnreadableVideo("no video stream")
        stream = max(container.streams.video, key=lambda stream: stream.width * stream.height)
        stream.thread_count = 1
        stream.codec_context.options = options or {}
        yield container, stream


def picked(
    source: str | BinaryIO, indices: Sequence[int]
) -> Iterator[tuple[int, NDArray[np.uint8]]]:
    """The frames with these numbers in rising order, each (height, width, 3) uint8 RGB, upright.

    Numbers beyond the end are skipped. If the size changes within the video, all frames are scaled
    to the first one's. Raises UnreadableVideo, or av.error.FFmpegError for a frame that cannot be
    decoded.
    """
    wanted = set(indices)
    reformatter = VideoReformatter()
    size: tuple[int, int] | None = None
    with video_stream(source) as (container, stream):
        for number, frame in enumerate(container.decode(stream)):
            size = size or (frame.width, frame.height)
            if number in wanted:
                pixels = reformatter.reformat(frame, *size, "rgb24").to_ndarray()
                yield number, np.ascontiguousarray(np.rot90(pixels, frame.rotation // 90 % 4))
            if number >= max(wanted):
                return


def as_vllm(frames: Sequence[Frames]) -> list[tuple[NDArray[np.uint8], dict[str, Any]]]:
    """vLLM's `multi_modal_data["video"]`: per video, (frames, height, width, 3) uint8 pixels and
    metadata. The frames are sampled already and must not be sampled again."""
    return [(video.pixels, {**video.metadata, "do_sample_frames": False}) for video in frames]
