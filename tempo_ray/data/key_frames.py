"""Kept videos -> the key frames of their clips, at the model's size."""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from queue import SimpleQueue

import numpy as np

from tempo_ray.config import DecodeConfig, RespondConfig
from tempo_ray.data.decode import read_frames_at
from tempo_ray.data.failures import VideoOutcome, failure_of, outcome_of
from tempo_ray.data.isolate import Crashed, Isolated, Limits
from tempo_ray.records import VideoAnswers
from tempo_ray.retry import retry_with_backoff

KeyFrames = dict[int, np.ndarray]
"""Frame number -> the frame, (height, width, 3) uint8 RGB."""


class KeyFrameReader:
    """Rows -> the rows, failed where their frames cannot be read; and the key frames of the kept
    ones, by video id.

    Decodes in child processes, one per whole CPU of the actor: a codec that crashes must not take
    an engine with it.
    """

    def __init__(self, config: RespondConfig, limits: DecodeConfig) -> None:
        self._max_pixels = config.key_frame_pixels
        self._attempts = limits.attempts
        processes = max(1, int(config.pool.cpus))
        self._threads = ThreadPoolExecutor(processes, thread_name_prefix="key frames")
        self._idle: SimpleQueue[Isolated] = SimpleQueue()
        for _ in range(processes):
            self._idle.put(Isolated(Limits(limits.timeout_s, limits.memory_bytes)))

    def __call__(
        self, rows: Sequence[VideoAnswers]
    ) -> tuple[list[VideoOutcome], dict[str, KeyFrames]]:
        read = list(self._threads.map(self._read, rows))
        key_frames = {row.video_id: frames for row, frames in read if frames is not None}
        return [row for row, _ in read], key_frames

    def _read(self, row: VideoAnswers) -> tuple[VideoOutcome, KeyFrames | None]:
        if row.status != "kept":
            return row, None
        try:
            return row, self._key_frames(row)
        except Exception as error:  # noqa: BLE001, a file may raise anything in a decoder
            return outcome_of(row, failure_of(error, "respond")), None

    def _key_frames(self, row: VideoAnswers) -> KeyFrames:
        assert row.decoder is not None
        decoder = row.decoder
        indices = [index for clip in row.clips for index in clip.key_frames]
        isolated = self._idle.get()
        try:
            return retry_with_backoff(
                lambda: isolated(read_frames_at, row.uri, decoder, indices, self._max_pixels),
                self._attempts,
                Crashed,
                OSError,
            )
        finally:
            self._idle.put(isolated)

    def close(self) -> None:
        """Ends the child processes; no call may be running."""
        self._threads.shutdown()
        while not self._idle.empty():
            self._idle.get().close()
