"""Cuts and a frame of each -> clips: runs of neighbouring cuts that look alike, with two key frames each."""

from collections.abc import Sequence
from typing import Any, Protocol

import cv2
import numpy as np
from scipy.cluster.hierarchy import fcluster, linkage

from tempo_ray.config import ClipsConfig


class Embed(Protocol):
    name: str
    similarity: float

    def __call__(self, frames: Sequence[np.ndarray]) -> np.ndarray: ...


class Descriptor:
    """Frames -> colour histograms and edge grids, (frames, features): needs no weights.

    The cosine of two is 0.7 x the Bhattacharyya coefficient of their colours + 0.3 x the cosine of where their edges are.
    """

    name = "colour-and-edge"

    def __init__(self, similarity: float) -> None:
        self.similarity = similarity

    def __call__(self, frames: Sequence[np.ndarray]) -> np.ndarray:
        return np.stack([self._one(frame) for frame in frames])

    def _one(self, frame: np.ndarray) -> np.ndarray:
        frame = cv2.resize(frame, (96, 96), interpolation=cv2.INTER_AREA)
        hsv = cv2.cvtColor(frame, cv2.COLOR_RGB2HSV)
        colors = cv2.calcHist([hsv], [0, 1, 2], None, [12, 4, 8], [0, 180, 0, 256, 0, 256]).ravel()
        edges = (
            np.abs(cv2.Laplacian(cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY), cv2.CV_32F))
            .reshape(6, 16, 6, 16)
            .mean((1, 3))
            .ravel()
        )
        edges = edges / max(float(np.linalg.norm(edges)), 1e-9)
        return np.concatenate([np.sqrt(0.7 * colors / colors.sum()), np.sqrt(0.3) * edges])


class Encoder:
    """Frames -> the pooled output of a transformers image encoder (SigLIP, DINOv2), (frames, features), of length 1."""

    def __init__(self, path: str, similarity: float) -> None:
        import torch
        from transformers import AutoImageProcessor, AutoModel

        self.name = path
        self.similarity = similarity
        self._device = "cuda" if torch.cuda.is_available() else "cpu"
        self._dtype = torch.bfloat16 if self._device == "cuda" else torch.float32
        self._processor = AutoImageProcessor.from_pretrained(path)
        model = AutoModel.from_pretrained(path, dtype=self._dtype)
        both = (
            "vision_config" in model.config.to_dict()
        )  # SigLIP and CLIP read text too; DINOv2 has one tower
        self._model = (model.vision_model if both else model).to(self._device).eval()

    def __call__(self, frames: Sequence[np.ndarray]) -> np.ndarray:
        import torch

        with torch.inference_mode():
            inputs = self._processor(images=list(frames), return_tensors="pt").to(
                self._device, self._dtype
            )
            pooled = self._model(**inputs).pooler_output
        return torch.nn.functional.normalize(pooled, dim=-1).float().cpu().numpy()


def make_embed(config: ClipsConfig) -> Embed:
    if config.encoder is None:
        return Descriptor(config.descriptor_similarity)
    return Encoder(config.encoder, config.similarity)


def groups_of(features: np.ndarray, similarity: float) -> list[int]:
    """A group number for each cut, in order of first appearance.

    Agglomerative: the most alike pair is merged first, a merged pair's similarity to others is the plain mean of the two
    (WPGMA), until no pair is more alike than `similarity`.
    """
    if len(features) < 2:
        return [0] * len(features)
    unit = features / np.maximum(np.linalg.norm(features, axis=1, keepdims=True), 1e-9)
    distance = np.clip(1 - unit @ unit.T, 0, 2)[np.triu_indices(len(unit), 1)]
    labels = fcluster(
        linkage(distance, method="weighted"), np.nextafter(1 - similarity, 0), criterion="distance"
    )
    first: dict[int, int] = {}
    return [first.setdefault(int(label), len(first)) for label in labels]


def key_frames(sharpness: np.ndarray, start: int, end: int) -> list[int]:
    """Two frames of a clip, round a third and two thirds of it: the sharpest, weighted by a cosine window."""
    length = end - start
    chosen = []
    for center in (1 / 3, 2 / 3):
        share = (np.arange(length) + 0.5) / length
        weight = np.cos(np.clip((share - center) * 6, -1, 1) * np.pi / 2)
        score = (sharpness[start:end] + 1e-6) * weight
        chosen.append(start + int(score.argmax()))
    return chosen


def clips_of(
    cuts: Sequence[dict[str, Any]], groups: Sequence[int], sharpness: np.ndarray
) -> list[dict[str, Any]]:
    """Neighbouring cuts of one group make one clip (schema.CLIP, not yet captioned)."""
    spans: list[dict[str, Any]] = []
    for cut, group in zip(cuts, groups, strict=True):
        if spans and spans[-1]["group"] == group:
            spans[-1]["end"] = cut["end"]
        else:
            spans.append({"start": cut["start"], "end": cut["end"], "group": group})
    empty = {"caption": None, "caption_finish_reason": None, "caption_tokens": None}
    return [
        span | {"key_frames": key_frames(sharpness, span["start"], span["end"])} | empty
        for span in spans
    ]
