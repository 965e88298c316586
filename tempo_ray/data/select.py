"""One video -> its shots, clips and verdict, decoded once: its row of answers/, without answers."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import ParamSpec, TypeVar

import numpy as np

from tempo_ray.config import SelectConfig
from tempo_ray.data import decode, shots
from tempo_ray.data.clips import Embed, clips_of, make_embed, scenes_of
from tempo_ray.data.failures import VideoOutcome, failed, failure_of, outcome_of
from tempo_ray.data.isolate import Crashed, Isolated, Limits
from tempo_ray.data.verdict import judge_clips, judge_shots, richness
from tempo_ray.errors import TransientError
from tempo_ray.models.frames import UnreadableVideo
from tempo_ray.records import Shot, Video, VideoAnswers
from tempo_ray.retry import retry_with_backoff

Args = ParamSpec("Args")
Result = TypeVar("Result")


@dataclass(frozen=True)
class DecodedVideo:
    """What one decoding pass leaves of a video.

    While the row's status is undecided, also the scan; and, where the shots are known, one frame of
    each, (height, width, 3) uint8 RGB.
    """

    row: VideoAnswers
    scan: shots.Scan | None = None
    shot_frames: tuple[np.ndarray, ...] = ()


def _dropped(row: VideoAnswers, reason: str) -> VideoAnswers:
    return replace(row, status="dropped", reason=reason)


def decode_video(row: VideoAnswers, config: SelectConfig) -> DecodedVideo:
    """Decodes the file of a row. A bad file does not raise: its row says why it failed.

    Raises OSError where an existing file cannot be read.
    """
    try:
        with decode.open_source(row.uri) as source:
            return _decode(row, source, config)
    except (UnreadableVideo, FileNotFoundError) as error:
        return DecodedVideo(failed(row, failure_of(error, "open")))


def _decode(row: VideoAnswers, source: decode.Source, config: SelectConfig) -> DecodedVideo:
    max_seconds = config.decode.max_seconds
    with decode.open_video(source) as video:
        probe = video.probe
        row = replace(
            row, frames=probe.frames, fps=probe.fps, width=probe.width, height=probe.height
        )
        if probe.seconds > max_seconds:
            return DecodedVideo(
                _dropped(row, f"too long ({probe.seconds:.0f} s > {max_seconds:g} s)")
            )
        max_frames = int(max_seconds * probe.fps)  # a file may hold more than it announces
        frames = video.small_frames(config.decode, max_frames + 1)
        try:
            scan = shots.scan_frames(frames, probe.fps, config.shots)
        except UnreadableVideo as error:
            return DecodedVideo(failed(row, failure_of(error, "decode")))
    if scan.frames > max_frames:
        return DecodedVideo(
            _dropped(row, f"too long (over {max_seconds:g} s, more than announced)")
        )
    row = replace(row, frames=scan.frames, detector=shots.DETECTORS[config.shots.detector])
    if scan.thumbnails is None:
        row = with_shots(row, scan, scan.shots, config)
        if row.status is not None:
            return DecodedVideo(row)
    row = replace(row, decoder=decode.decoder_of(source, video.times))
    if scan.thumbnails is not None:
        return DecodedVideo(row, scan)
    if config.clips.encoder is None:  # the descriptor needs no more than the small frames
        return DecodedVideo(row, scan, shots.middle_frames(scan, row.shots))
    try:
        return DecodedVideo(row, scan, _middle_frames(source, row, config))
    except UnreadableVideo as error:
        return DecodedVideo(failed(row, failure_of(error, "decode")))


def _middle_frames(
    source: decode.Source, row: VideoAnswers, config: SelectConfig
) -> tuple[np.ndarray, ...]:
    assert row.decoder is not None
    indices = [shot.middle for shot in row.shots]
    frames = decode.frames_at(source, row.decoder, indices, config.decode.embed_pixels)
    return tuple(frames[index] for index in indices)


def read_middle_frames(row: VideoAnswers, config: SelectConfig) -> tuple[np.ndarray, ...]:
    """The middle frame of each shot, (height, width, 3) uint8 RGB. Raises UnreadableVideo and
    OSError."""
    with decode.open_source(row.uri) as source:
        return _middle_frames(source, row, config)


def with_shots(
    row: VideoAnswers, scan: shots.Scan, detected: Sequence[Shot], config: SelectConfig
) -> VideoAnswers:
    """The row with its usable shots, dropped where they say so."""
    usable = shots.usable_shots(scan, detected, config.shots)
    row = replace(row, shots=usable)
    reason = judge_shots(usable, scan.fps, config.verdict)
    return row if reason is None else _dropped(row, reason)


def judged(video: DecodedVideo, config: SelectConfig, embed: Embed) -> VideoAnswers:
    """The row of a video whose shots are known, with its clips, richness and verdict."""
    if video.scan is None:
        return video.row
    scenes = scenes_of(embed(video.shot_frames), embed.similarity)
    clips = clips_of(video.row.shots, scenes, video.scan.sharpness)
    bits = richness(clips)
    row = replace(video.row, embedding=embed.name, clips=clips, richness=bits)
    reason = judge_clips(clips, bits, config.verdict)
    return replace(row, status="kept") if reason is None else _dropped(row, reason)


class Selector:
    """A video -> its row of answers/ without answers, or of failures/. Never raises for a file.

    Files are decoded in a child process, within `config.decode`'s limits of time and memory; neural
    networks, where the config names them, run in this process.
    """

    def __init__(self, config: SelectConfig) -> None:
        self._config = config
        self._embed = make_embed(config.clips)
        self._transnet = None
        if config.shots.detector == "transnetv2":
            self._transnet = shots.TransNetV2(config.shots)
        self._isolated = Isolated(Limits(config.decode.timeout_s, config.decode.memory_bytes))

    def __call__(self, video: Video) -> VideoOutcome:
        row = VideoAnswers(video.video_id, video.uri)
        try:
            return self._select(row)
        except TransientError as error:
            return outcome_of(row, failure_of(error, "open"))
        except Exception as error:  # noqa: BLE001, a file may raise anything in a decoder
            return outcome_of(row, failure_of(error, "decode"))

    def _select(self, row: VideoAnswers) -> VideoAnswers:
        video = self._decode(decode_video, row, self._config)
        scan = video.scan
        if self._transnet is not None and scan is not None and scan.thumbnails is not None:
            detected = self._transnet(scan.thumbnails)
            row = with_shots(video.row, scan, detected, self._config)
            if row.status is not None:
                return row
            frames = self._decode(read_middle_frames, row, self._config)
            video = DecodedVideo(row, scan, frames)
        return judged(video, self._config, self._embed)

    def _decode(
        self, function: Callable[Args, Result], *args: Args.args, **kwargs: Args.kwargs
    ) -> Result:
        return retry_with_backoff(
            lambda: self._isolated(function, *args, **kwargs),
            self._config.decode.attempts,
            Crashed,
            OSError,
        )

    @property
    def pid(self) -> int | None:
        """Of the process that decodes."""
        return self._isolated.pid

    def close(self) -> None:
        self._isolated.close()
