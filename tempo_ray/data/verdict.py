"""Cuts and clips -> keep or drop, with the reason; and how rich in time the video is. Pure."""

import math
from collections import Counter
from collections.abc import Sequence
from typing import Any

from tempo_ray.config import VerdictConfig


def judge_cuts(cuts: Sequence[dict[str, Any]], fps: float, config: VerdictConfig) -> str | None:
    """Why a video with these cuts is dropped, or None."""
    if len(cuts) < config.min_cuts:
        return f"too few cuts ({len(cuts)} < {config.min_cuts})"
    if len(cuts) > config.max_cuts:
        return f"too many cuts ({len(cuts)} > {config.max_cuts})"
    longest = max((cut["end"] - cut["start"]) / fps for cut in cuts)
    if longest > config.max_cut_seconds:
        return f"cut too long ({longest:.1f} s > {config.max_cut_seconds:g} s)"
    return None


def judge_clips(clips: Sequence[dict[str, Any]], rich: float, config: VerdictConfig) -> str | None:
    """Why a video with these clips is dropped, or None."""
    if len(clips) < config.min_clips:
        return f"too few clips ({len(clips)} < {config.min_clips})"
    most = max(Counter(clip["group"] for clip in clips).values())
    allowed = min(len(clips) // 3, config.max_recurrence)
    if most > allowed:
        return f"a scene recurs too often ({most} > {allowed} of {len(clips)} clips)"
    if rich < config.min_richness:
        return f"not rich enough in time ({rich:.2f} < {config.min_richness:g} bits)"
    return None


def richness(clips: Sequence[dict[str, Any]]) -> float:
    """Entropy, in bits, of how the video's time is shared among its look-alike groups.

    0 for one scene; log2(k) for k different scenes of the same length: the more scenes, and the more evenly they share
    the time, the more there is an order to tell.
    """
    frames: Counter[int] = Counter()
    for clip in clips:
        frames[clip["group"]] += clip["end"] - clip["start"]
    total = sum(frames.values())
    return (
        -sum(count / total * math.log2(count / total) for count in frames.values())
        if total
        else 0.0
    )
