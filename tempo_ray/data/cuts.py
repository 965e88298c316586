"""Small frames, in order -> shots, and what each frame looks like in three numbers."""

from collections.abc import Iterable
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
    """One pass over a video: where shots begin, and per frame its sharpness, darkest and brightest grey (0 to 255)."""

    starts: list[int]
    sharpness: np.ndarray
    darkest: np.ndarray
    brightest: np.ndarray

    @property
    def frames(self) -> int:
        return len(self.sharpness)


def scan(chunks: Iterable[np.ndarray], fps: float, config: CutsConfig) -> Scan:
    """Reads every frame once; holds one chunk at a time. Sharpness is the variance of the Laplacian of grey."""
    detector = AdaptiveDetector(
        adaptive_threshold=config.adaptive_threshold, min_content_val=config.min_content_val, min_scene_len=1
    )
    starts = [0]
    sharpness: list[float] = []
    darkest: list[int] = []
    brightest: list[int] = []
    for chunk in chunks:
        for frame in chunk:
            gray = cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY)
            timecode = FrameTimecode(len(sharpness), fps)
            starts += [cut.frame_num for cut in detector.process_frame(timecode, cv2.cvtColor(frame, cv2.COLOR_RGB2BGR))]
            sharpness.append(float(cv2.Laplacian(gray, cv2.CV_32F).var()))
            darkest.append(int(gray.min()))
            brightest.append(int(gray.max()))
    starts += [cut.frame_num for cut in detector.post_process(FrameTimecode(len(sharpness), fps))]
    return Scan(sorted(set(starts)), np.array(sharpness), np.array(darkest), np.array(brightest))


def cuts_of(scanned: Scan, fps: float, config: CutsConfig) -> list[dict[str, Any]]:
    """The shots worth keeping (schema.CUT): long enough, and not of one grey."""
    shortest = max(config.min_shot_frames, config.min_shot_seconds * fps)
    cuts = []
    for start, end in zip(scanned.starts, [*scanned.starts[1:], scanned.frames], strict=True):
        if end - start < shortest:
            continue
        span = int(scanned.brightest[start:end].max()) - int(scanned.darkest[start:end].min())
        if span >= config.min_gray_range:
            cuts.append({"start": start, "end": end, "gray_range": float(span)})
    return cuts
