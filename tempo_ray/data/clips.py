"""Shots and a frame of each -> scenes -> clips: runs of consecutive shots of one scene, with two
key frames each."""

import itertools
from collections.abc import Sequence
from typing import Any, Protocol

import cv2
import numpy as np
from scipy.cluster.hierarchy import fcluster, linkage

from tempo_ray.config import ClipsConfig
from tempo_ray.records import Clip, Shot


class Embed(Protocol):
    """Frames, (height, width, 3) uint8 RGB -> (frames, features) float."""

    name: str
    similarity: float
    """Shots whose features have a larger cosine than this are of one scene."""

    def __call__(self, frames: Sequence[np.ndarray]) -> np.ndarray: ...


class Descriptor:
    """Frames -> colour histograms and edge grids, (frames, 480) float64. Needs no weights.

    The cosine of two is 0.7 x the Bhattacharyya coefficient of their colours + 0.3 x the cosine of
    their edge grids.
    """

    name = "colour-and-edge"

    def __init__(self, similarity: float) -> None:
        self.similarity = similarity

    def __call__(self, frames: Sequence[np.ndarray]) -> np.ndarray:
        return np.stack([self._describe(frame) for frame in frames])

    def _describe(self, frame: np.ndarray) -> np.ndarray:
        frame = cv2.resize(frame, (96, 96), interpolation=cv2.INTER_AREA)
        hsv = cv2.cvtColor(frame, cv2.COLOR_RGB2HSV)
        ranges = [0, 180, 0, 256, 0, 256]
        colours = cv2.calcHist([hsv], [0, 1, 2], None, [12, 4, 8], ranges).ravel()
        grey = cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY)
        laplacian = np.abs(cv2.Laplacian(grey, cv2.CV_32F))
        edges = laplacian.reshape(6, 16, 6, 16).mean((1, 3)).ravel()
        edges = edges / max(float(np.linalg.norm(edges)), 1e-9)
        return np.concatenate([np.sqrt(0.7 * colours / colours.sum()), np.sqrt(0.3) * edges])


class ImageEncoder:
    """Frames -> the pooled output of a transformers image encoder (SigLIP, DINOv2), (frames,
    features) float32 of norm 1."""

    def __init__(self, path: str, similarity: float) -> None:
        import torch
        from transformers import AutoImageProcessor, AutoModel

        self.name = path
        self.similarity = similarity
        self._device = "cuda" if torch.cuda.is_available() else "cpu"
        self._dtype = torch.bfloat16 if self._device == "cuda" else torch.float32
        load_processor: Any = AutoImageProcessor.from_pretrained  # untyped in transformers
        self._processor = load_processor(path)
        model = AutoModel.from_pretrained(path, dtype=self._dtype)
        # SigLIP and CLIP have a text tower too; DINOv2 is a vision tower alone
        has_towers = "vision_config" in model.config.to_dict()
        self._model = (model.vision_model if has_towers else model).to(self._device).eval()

    def __call__(self, frames: Sequence[np.ndarray]) -> np.ndarray:
        import torch

        with torch.inference_mode():
            inputs = self._processor(images=list(frames), return_tensors="pt")
            pooled = self._model(**inputs.to(self._device, self._dtype)).pooler_output
            features = torch.nn.functional.normalize(pooled, dim=-1)
        array: np.ndarray[Any, Any] = features.float().cpu().numpy()
        return array


def make_embed(config: ClipsConfig) -> Embed:
    if config.encoder is None:
        return Descriptor(config.descriptor_similarity)
    return ImageEncoder(config.encoder, config.similarity)


def scenes_of(features: np.ndarray, similarity: float) -> list[int]:
    """Features of the shots, (shots, features) -> the scene number of each, by first appearance.

    Agglomerative: the two most similar scenes are merged first, a merged scene's similarity to the
    rest is the plain mean of its two parts' (WPGMA), until no two are more similar than
    `similarity` (cosine).
    """
    if len(features) < 2:
        return [0] * len(features)
    unit = features / np.maximum(np.linalg.norm(features, axis=1, keepdims=True), 1e-9)
    distances = np.clip(1 - unit @ unit.T, 0, 2)[np.triu_indices(len(unit), 1)]
    tree = linkage(distances, method="weighted")
    labels = fcluster(tree, np.nextafter(1 - similarity, 0), criterion="distance")
    numbers: dict[int, int] = {}
    return [numbers.setdefault(int(label), len(numbers)) for label in labels]


def key_frames(sharpness: np.ndarray, start: int, end: int) -> tuple[int, int]:
    """The two key frames of the clip [start, end), one around each third of it: the sharpest frame,
    weighted by a cosine window. `sharpness` is (frames of the video,)."""
    position = (np.arange(end - start) + 0.5) / (end - start)

    def sharpest_near(centre: float) -> int:
        weight = np.cos(np.clip((position - centre) * 6, -1, 1) * np.pi / 2)
        return start + int(((sharpness[start:end] + 1e-6) * weight).argmax())

    return sharpest_near(1 / 3), sharpest_near(2 / 3)


def clips_of(
    shots: Sequence[Shot], scenes: Sequence[int], sharpness: np.ndarray
) -> tuple[Clip, ...]:
    """Consecutive shots of one scene make one clip, not yet captioned. `scenes` has the scene of
    each shot; `sharpness` is (frames of the video,)."""
    clips = []
    numbered = zip(scenes, shots, strict=True)
    for scene, run in itertools.groupby(numbered, key=lambda numbered_shot: numbered_shot[0]):
        run_shots = [shot for _, shot in run]
        start, end = run_shots[0].start, run_shots[-1].end
        clips.append(Clip(start, end, scene, key_frames(sharpness, start, end)))
    return tuple(clips)
