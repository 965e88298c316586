"""A video file -> all its frames, small and in chunks (PyAV); or some frames by number, full size.

FFmpeg, through PyAV, streams: it was measured to be faster than decord for a pass over all frames,
and it reads every codec. decord picks frames by number without decoding what lies between them. It
is used where it counts a file's frames as FFmpeg does. Where it does not (edit lists that discard
frames, say) or cannot read the file (AV1), PyAV does both, so that a frame number always means the
same frame. Both turn frames upright, take the largest of several video streams, and count the
frames of a variable rate one by one. Their pixels are equal, except for 10-bit video, whose colours
their versions of FFmpeg round differently.
"""

import contextlib
import io
import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import BinaryIO, cast

import av
import av.error
import cv2
import decord
import numpy as np
from av.video.reformatter import Interpolation, VideoReformatter
from pyarrow import fs

from tempo_ray.config import DecodeConfig
from tempo_ray.models.frames import DECORD_ERRORS, UnreadableVideo, picked, video_stream
from tempo_ray.storage import resolve

Source = str | BinaryIO
WHOLE_BYTES = 64_000_000
"""Files in a store are read whole up to this size; of larger ones only the parts that are needed,
by PyAV alone."""
SAME_TIME_S = 2e-3
"""Frames that two readers place this close together are the same frame."""


@dataclass(frozen=True)
class Probe:
    """What the container and the first frame say. `frames` and `seconds` may be more than can be
    decoded."""

    frames: int
    seconds: float
    fps: float
    width: int
    height: int
    quarter_turns: int
    """Counter-clockwise turns that make a frame upright; `width` and `height` are after them."""


@contextlib.contextmanager
def open_source(uri: str) -> Iterator[Source]:
    """Local files are read in place. Raises UnreadableVideo for an empty file, and OSError."""
    filesystem, path = resolve(uri)
    if isinstance(filesystem, fs.LocalFileSystem):
        with open(path, "rb") as file:
            if not file.read(1):
                raise UnreadableVideo("empty file")
        yield path
        return
    with filesystem.open_input_file(path) as stored:
        size = stored.size()
        if not size:
            raise UnreadableVideo("empty file")
        if size <= WHOLE_BYTES:
            yield io.BytesIO(stored.read())
        else:
            yield cast(BinaryIO, io.BufferedReader(stored, 8 << 20))


def _rewound(source: Source) -> Source:
    if not isinstance(source, str):
        source.seek(0)
    return source


def _seconds(container: av.container.InputContainer, stream: av.VideoStream) -> float:
    if stream.duration and stream.time_base:
        return float(stream.duration * stream.time_base)
    return (container.duration or 0) / 1e6


@dataclass
class OpenVideo:
    """A file that is open at its first frame."""

    probe: Probe
    stream: av.VideoStream
    frames: Iterator[av.VideoFrame]
    times: list[float] = field(default_factory=list)
    """Presentation times, in seconds, of the frames read so far."""

    def small_frames(
        self, config: DecodeConfig, max_frames: int | None = None
    ) -> Iterator[np.ndarray]:
        """The frames in order, at most `max_frames` of them, in chunks of (frames, height, width,
        3) uint8 BGR.

        Raises UnreadableVideo where a frame cannot be decoded, and at the end where clearly less
        was decoded than the container announced.
        """
        turns = self.probe.quarter_turns
        width, height = _small_size(self.probe.width, self.probe.height, config.short_side)
        if turns % 2:
            width, height = height, width
        # one for all frames: setting up the scaler costs as much as scaling
        scaler = VideoReformatter()
        chunk: list[np.ndarray] = []
        try:
            for frame in self.frames:
                self.times.append(math.nan if frame.time is None else frame.time)
                small = scaler.reformat(
                    frame, width, height, "bgr24", interpolation=Interpolation.AREA
                ).to_ndarray()
                chunk.append(np.rot90(small, turns) if turns else small)
                if len(chunk) == config.chunk_frames:
                    yield np.stack(chunk)
                    chunk = []
                if len(self.times) == max_frames:
                    break
            else:
                self._check_complete()
        except av.error.FFmpegError as error:
            raise UnreadableVideo(
                f"cannot be decoded to its end: {error.strerror} after {len(self.times)} frames"
            ) from error
        if chunk:
            yield np.stack(chunk)

    def _check_complete(self) -> None:
        if not self.stream.duration:  # the container announces nothing for this stream
            return
        decoded = max(self.times) - min(self.times) + 1 / self.probe.fps
        if decoded < 0.95 * self.probe.seconds - 0.5:
            raise UnreadableVideo(
                f"{decoded:.1f} s can be decoded of {self.probe.seconds:.1f} s announced"
            )


def _small_size(width: int, height: int, short_side: int) -> tuple[int, int]:
    scale = min(1.0, short_side / min(width, height))
    return max(2, round(width * scale)), max(2, round(height * scale))


@contextlib.contextmanager
def open_video(source: Source) -> Iterator[OpenVideo]:
    """Opens a video at its first frame. Raises UnreadableVideo where it has none, or no usable size
    or frame rate."""
    # Not deblocking the frames that no other refers to is 7% faster at 720p, and differs by 0.005
    # of 255 grey levels after scaling.
    with video_stream(_rewound(source), {"skip_loop_filter": "noref"}) as (container, stream):
        fps = float(stream.average_rate or stream.guessed_rate or 0)
        seconds = _seconds(container, stream)
        decoded = container.decode(stream)
        try:
            first = next(decoded, None)
        except av.error.FFmpegError as error:
            raise UnreadableVideo(f"no frame can be decoded: {error.strerror}") from error
        if first is None:
            raise UnreadableVideo("no frame can be decoded")
        turns = first.rotation // 90 % 4
        width, height = (first.height, first.width) if turns % 2 else (first.width, first.height)
        if fps <= 0 or not math.isfinite(fps) or width < 2 or height < 2:
            raise UnreadableVideo(f"no usable frame rate or size ({fps} fps, {width}x{height})")
        probe = Probe(stream.frames or int(seconds * fps), seconds, fps, width, height, turns)
        yield OpenVideo(probe, stream, itertools.chain([first], decoded))


def decoder_of(source: Source, times: Sequence[float]) -> str:
    """`decord` where it counts the file's frames as FFmpeg does, which placed them at `times`
    (seconds); else `pyav`."""
    if isinstance(source, io.BufferedReader):
        return "pyav"
    try:
        reader = decord.VideoReader(_rewound(source), num_threads=1)
        decord_times = reader.get_frame_timestamp(range(len(reader)))[:, 0]
    except DECORD_ERRORS:
        return "pyav"
    ffmpeg_times = np.asarray(times)
    if len(ffmpeg_times) != len(decord_times) or not len(ffmpeg_times):
        return "pyav"
    from_start = (decord_times - decord_times[0]) - (ffmpeg_times - ffmpeg_times[0])
    # a frame without a time makes this nan, and so the file PyAV's
    return "decord" if np.abs(from_start).max() < SAME_TIME_S else "pyav"


def fit(frame: np.ndarray, max_pixels: int) -> np.ndarray:
    """The frame, (height, width, 3), scaled down where it has more pixels than that; it keeps its
    aspect ratio."""
    height, width = frame.shape[:2]
    if height * width <= max_pixels:
        return frame
    scale = math.sqrt(max_pixels / (height * width))
    size = (max(2, int(width * scale)), max(2, int(height * scale)))
    return cv2.resize(frame, size, interpolation=cv2.INTER_AREA)


def _decord_frames(source: Source, wanted: Sequence[int]) -> Iterator[tuple[int, np.ndarray]]:
    reader = decord.VideoReader(_rewound(source), num_threads=1)
    for index in wanted:
        if index < len(reader):
            yield index, reader[index].asnumpy()


def frames_at(
    source: Source, decoder: str, indices: Sequence[int], max_pixels: int
) -> dict[int, np.ndarray]:
    """The frames with those numbers, (height, width, 3) uint8 RGB, none larger than `max_pixels`.

    Raises UnreadableVideo where one is missing or cannot be decoded.
    """
    wanted = sorted(set(indices))
    read = _decord_frames if decoder == "decord" else picked
    try:
        frames = {index: fit(frame, max_pixels) for index, frame in read(_rewound(source), wanted)}
    except (*DECORD_ERRORS, av.error.FFmpegError) as error:
        raise UnreadableVideo(f"frames cannot be decoded: {str(error).splitlines()[0]}") from error
    for index in wanted:
        if index not in frames:
            raise UnreadableVideo(f"frame {index} is announced and not there")
    return frames


def read_frames_at(
    uri: str, decoder: str, indices: Sequence[int], max_pixels: int
) -> dict[int, np.ndarray]:
    """`frames_at` of a URI, to be called in a child process. Raises OSError too."""
    with open_source(uri) as source:
        return frames_at(source, decoder, indices, max_pixels)
