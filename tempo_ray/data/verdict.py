"""Shots, clips -> keep or drop, with the reason; and how rich in time the video is. Pure."""

import math
from collections import Counter
from collections.abc import Sequence

from tempo_ray.config import VerdictConfig
from tempo_ray.records import Clip, Shot


def judge_shots(shots: Sequence[Shot], fps: float, config: VerdictConfig) -> str | None:
    """Why a video with these shots is dropped, or None. `fps` is in frames per second."""
    if len(shots) < config.min_shots:
        return f"too few shots ({len(shots)} < {config.min_shots})"
    if len(shots) > config.max_shots:
        return f"too many shots ({len(shots)} > {config.max_shots})"
    longest = max(shot.frames / fps for shot in shots)
    if longest > config.max_shot_seconds:
        return f"shot too long ({longest:.1f} s > {config.max_shot_seconds:g} s)"
    return None


def judge_clips(clips: Sequence[Clip], richness_bits: float, config: VerdictConfig) -> str | None:
    """Why a video with these clips is dropped, or None."""
    if len(clips) < config.min_clips:
        return f"too few clips ({len(clips)} < {config.min_clips})"
    recurrence = max(Counter(clip.scene for clip in clips).values())
    allowed = min(len(clips) // 3, config.max_recurrence)
    if recurrence > allowed:
        return f"a scene recurs too often ({recurrence} > {allowed} of {len(clips)} clips)"
    if richness_bits < config.min_richness:
        return f"not rich enough in time ({richness_bits:.2f} < {config.min_richness:g} bits)"
    return None


def richness(clips: Sequence[Clip]) -> float:
    """Entropy, in bits, of how the video's time is divided among its scenes.

    0 for a single scene; log2(k) for k scenes of equal length. The more scenes there are, and the
    more evenly they share the time, the more there is an order to tell.
    """
    frames: Counter[int] = Counter()
    for clip in clips:
        frames[clip.scene] += clip.frames
    total = sum(frames.values())
    if not total:
        return 0.0
    return -sum(count / total * math.log2(count / total) for count in frames.values())
