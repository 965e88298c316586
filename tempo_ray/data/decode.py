"""A video file -> its frames, small and in chunks; or a few of them at full size. decord first, PyAV for what it cannot read."""

import io
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import av
import av.error
import cv2
import decord
import numpy as np
from pyarrow import fs

from tempo_ray.config import DecodeConfig
from tempo_ray.models.frames import DECORD_ERRORS, UnreadableVideo
from tempo_ray.paths import read_bytes, resolve


@dataclass(frozen=True)
class Probe:
    """What the container says. `frames` may be more than can be decoded."""

    frames: int
    fps: float
    width: int
    height: int
    decoder: str


def _source(uri: str) -> str | io.BytesIO:
    """Local files are opened in place; others are read whole."""
    filesystem, path = resolve(uri)
    if isinstance(filesystem, fs.LocalFileSystem):
        with open(path, "rb") as file:
            if not file.read(1):
                raise UnreadableVideo("empty file")
        return path
    data = read_bytes(uri)
    if not data:
        raise UnreadableVideo("empty file")
    return io.BytesIO(data)


def _small(width: int, height: int, short_side: int) -> tuple[int, int]:
    scale = min(1.0, short_side / min(width, height))
    return max(2, round(width * scale)), max(2, round(height * scale))


def _largest(container: av.container.InputContainer) -> av.VideoStream:
    if not container.streams.video:
        raise UnreadableVideo("no video stream")
    return max(container.streams.video, key=lambda one: one.width * one.height)


def _probe_av(uri: str) -> Probe:
    with av.open(_source(uri), "r") as container:
        stream = _largest(container)
        fps = float(stream.average_rate or stream.guessed_rate or 0)
        seconds = (
            float(stream.duration * stream.time_base) if stream.duration and stream.time_base else (container.duration or 0) / 1e6
        )
        frames = stream.frames or int(seconds * fps)
        return Probe(frames, fps, stream.width, stream.height, "pyav")


def probe(uri: str) -> Probe:
    """Raises UnreadableVideo, or OSError where the file cannot be opened."""
    try:
        reader = decord.VideoReader(_source(uri), num_threads=1)
        height, width = reader[0].shape[:2]
        found = Probe(len(reader), float(reader.get_avg_fps()), width, height, "decord")
    except DECORD_ERRORS:
        try:
            found = _probe_av(uri)
        except av.error.FFmpegError as error:
            raise UnreadableVideo(f"not a readable video: {error.strerror}") from error
    if found.fps <= 0 or not math.isfinite(found.fps) or found.width < 2 or found.height < 2:
        raise UnreadableVideo(f"no usable frame rate or size ({found.fps} fps, {found.width}x{found.height})")
    return found


def _chunks_decord(uri: str, size: tuple[int, int], frames: int) -> Iterator[np.ndarray]:
    reader = decord.VideoReader(_source(uri), width=size[0], height=size[1], num_threads=1)
    for start in range(0, len(reader), frames):
        yield reader.get_batch(range(start, min(start + frames, len(reader)))).asnumpy()


def _chunks_av(uri: str, size: tuple[int, int], frames: int) -> Iterator[np.ndarray]:
    held: list[np.ndarray] = []
    with av.open(_source(uri), "r") as container:
        for frame in container.decode(_largest(container)):
            held.append(frame.to_ndarray(format="rgb24", width=size[0], height=size[1]))
            if len(held) == frames:
                yield np.stack(held)
                held = []
    if held:
        yield np.stack(held)


def small_frames(uri: str, known: Probe, config: DecodeConfig, most: int | None = None) -> Iterator[np.ndarray]:
    """Every frame in order, in chunks of (frames, height, width, 3) uint8 RGB; at most `most` frames.

    Raises UnreadableVideo where a frame cannot be decoded.
    """
    chunks = _chunks_decord if known.decoder == "decord" else _chunks_av
    size = _small(known.width, known.height, config.short_side)
    try:
        given = 0
        for chunk in chunks(uri, size, config.chunk_frames):
            rest = len(chunk) if most is None else min(len(chunk), most - given)
            yield chunk[:rest]
            given += rest
            if given == most:
                return
    except (*DECORD_ERRORS, av.error.FFmpegError) as error:
        raise UnreadableVideo(f"cannot be decoded to its end: {str(error).splitlines()[0]}") from error


def fit(frame: np.ndarray, max_pixels: int) -> np.ndarray:
    """The frame, made smaller where it has more pixels than that; its shape is kept."""
    height, width = frame.shape[:2]
    if height * width <= max_pixels:
        return frame
    scale = math.sqrt(max_pixels / (height * width))
    return cv2.resize(frame, (max(2, int(width * scale)), max(2, int(height * scale))), interpolation=cv2.INTER_AREA)


def frames_at(uri: str, decoder: str, indices: Sequence[int], max_pixels: int) -> dict[int, np.ndarray]:
    """Those frames, none larger than `max_pixels`. Raises UnreadableVideo where one is not there."""
    wanted = sorted(set(indices))
    found: dict[int, np.ndarray] = {}
    try:
        if decoder == "decord":
            reader = decord.VideoReader(_source(uri), num_threads=1)
            found = {index: fit(reader[index].asnumpy(), max_pixels) for index in wanted if index < len(reader)}
        else:
            with av.open(_source(uri), "r") as container:
                for number, frame in enumerate(container.decode(_largest(container))):
                    if number in wanted:
                        found[number] = fit(frame.to_ndarray(format="rgb24"), max_pixels)
                    if number >= wanted[-1]:
                        break
    except (*DECORD_ERRORS, av.error.FFmpegError) as error:
        raise UnreadableVideo(f"frames cannot be decoded: {str(error).splitlines()[0]}") from error
    if len(found) < len(wanted):
        raise UnreadableVideo(f"frame {next(index for index in wanted if index not in found)} is announced and not there")
    return found
