"""Small frames, in order -> shots, and what each frame looks like in three numbers."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from scenedetect import FrameTimecode
from scenedetect.detectors import AdaptiveDetector

from tempo_ray.config import CutsConfig

DETECTOR = "pyscenedetect-adaptive"


@dataclass(frozen=True)
class Scan:
    """One pass over a video.

    Where shots begin, the frame in the middle of each, and per frame its sharpness, darkest and brightest grey (0 to 255).
    """

    starts: list[int]
    middles: list[np.ndarray]
    sharpness: np.ndarray
    darkest: np.ndarray
    brightest: np.ndarray

    @property
    def frames(self) -> int:
        return len(self.sharpness)


class _Middles:
    """Frames one by one, and cuts as they are found -> the middle frame of each shot; holds the frames of one shot."""

    MOST = 1024
    """Of a longer shot every other frame is held, then every fourth ...: its middle is met within that."""

    def __init__(self) -> None:
        self.frames: list[np.ndarray] = []
        self._held: list[tuple[int, np.ndarray]] = []
        self._start = 0
        self._stride = 1

    def see(self, number: int, frame: np.ndarray) -> None:
        if number % self._stride == 0:
            self._held.append((number, frame))
        if len(self._held) > self.MOST:
            self._stride *= 2
            self._held = [one for one in self._held if one[0] % self._stride == 0]

    def cut(self, end: int) -> None:
        middle = (self._start + end) // 2
        self.frames.append(min(self._held, key=lambda one: abs(one[0] - middle))[1])
        self._held = [one for one in self._held if one[0] >= end]
        self._start, self._stride = end, 1


def scan(chunks: Iterable[np.ndarray], fps: float, config: CutsConfig) -> Scan:
    """Reads every frame (BGR, as OpenCV has it) once; holds one shot at a time. Sharpness: the variance of grey's Laplacian."""
    detector = AdaptiveDetector(
        adaptive_threshold=config.adaptive_threshold, min_content_val=config.min_content_val, min_scene_len=1
    )
    starts = [0]
    middles = _Middles()
    sharpness: list[float] = []
    darkest: list[int] = []
    brightest: list[int] = []
    for chunk in chunks:
        for frame in chunk:
            found = detector.process_frame(FrameTimecode(len(sharpness), fps), frame)
            middles.see(len(sharpness), frame)
            for cut in found:
                starts.append(cut.frame_num)
                middles.cut(cut.frame_num)
            gray = cv2.cvtColor(frame, cv2.COLOR_BGR2GRAY)
            _, deviation = cv2.meanStdDev(cv2.Laplacian(gray, cv2.CV_16S))
            sharpness.append(float(deviation[0, 0]) ** 2)
            dark, bright, _, _ = cv2.minMaxLoc(gray)
            darkest.append(int(dark))
            brightest.append(int(bright))
    for cut in detector.post_process(FrameTimecode(len(sharpness), fps)):
        starts.append(cut.frame_num)
        middles.cut(cut.frame_num)
    if sharpness:
        middles.cut(len(sharpness))
    return Scan(starts, middles.frames, np.array(sharpness), np.array(darkest), np.array(brightest))


def cuts_of(scanned: Scan, fps: float, config: CutsConfig) -> list[dict[str, Any]]:
    """The shots worth keeping (schema.CUT): long enough, and not of one grey."""
    return [cut for cut, _ in _kept(scanned, fps, config)]


def middles_of(scanned: Scan, fps: float, config: CutsConfig) -> list[np.ndarray]:
    """The middle frame of each of `cuts_of`, RGB."""
    return [np.ascontiguousarray(middle[..., ::-1]) for _, middle in _kept(scanned, fps, config)]


def _kept(scanned: Scan, fps: float, config: CutsConfig) -> Iterator[tuple[dict[str, Any], np.ndarray]]:
    shortest = max(config.min_shot_frames, config.min_shot_seconds * fps)
    ends = [*scanned.starts[1:], scanned.frames]
    for start, end, middle in zip(scanned.starts, ends, scanned.middles, strict=True):
        if end - start < shortest:
            continue
        span = int(scanned.brightest[start:end].max()) - int(scanned.darkest[start:end].min())
        if span >= config.min_gray_range:
            yield {"start": start, "end": end, "gray_range": float(span)}, middle
