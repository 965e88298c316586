"""A story -> frames; frames -> an H.264 mp4 with a hard cut between shots."""

import colorsys
import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import av
import cv2
import numpy as np
from numpy.typing import NDArray

from tempo_ray.shapeworld.story import COLORS, DIRECTIONS, SPEEDS, Shot, Story

Image = NDArray[np.uint8]
"""(height, width, 3) RGB."""

_FRACTION_BITS = 4
"""cv2 draws at sub-pixel precision in fixed-point coordinates with this many fraction bits."""


@dataclass(frozen=True)
class _Pose:
    """How the shape looks at one moment. Lengths are shares of the frame, `color` is (3,) RGB."""

    x: float
    y: float
    radius: float
    alpha: float
    angle: float
    """Radians."""
    color: NDArray[np.float64]


def _background(hue: int, pattern: int, width: int, height: int) -> Image:
    """Six dark hues, each plain, striped or shaded."""
    value = (0.22, 0.38, 0.3)[pattern]
    base = np.array(colorsys.hsv_to_rgb(hue / 6, 0.75, value)) * 255
    paler = np.array(colorsys.hsv_to_rgb(hue / 6, 0.45, value * 0.55)) * 255
    weight: NDArray[np.float64] | NDArray[np.int64]
    if pattern == 0:
        weight = np.zeros((height, width))
    elif pattern == 1:
        weight = np.broadcast_to((np.arange(width) * 8 // width % 2)[None, :], (height, width))
    else:
        weight = np.broadcast_to(np.linspace(0, 1, height)[:, None], (height, width))
    image: Image = (base + (paler - base) * weight[..., None]).astype(np.uint8)
    return image


def _cross() -> NDArray[np.float64]:
    a, b = 0.33, 1.05
    right = [(a, -b), (a, -a), (b, -a), (b, a), (a, a), (a, b)]
    left = [(-a, b), (-a, a), (-b, a), (-b, -a), (-a, -a)]
    return np.array([(-a, -b), *right, *left])


def _outline(shape: str, angle: float) -> NDArray[np.float64]:
    """(corners, 2) polygon with a radius of about 1, turned by `angle` radians."""
    if shape == "square":
        corners = np.array([(-0.85, -0.85), (0.85, -0.85), (0.85, 0.85), (-0.85, 0.85)])
    elif shape == "triangle":
        turns = np.array([0, 1, 2]) * 2 * math.pi / 3 - math.pi / 2
        corners = np.stack([np.cos(turns), np.sin(turns)], axis=1) * 1.15
    elif shape == "cross":
        corners = _cross()
    else:
        turns = np.arange(40) * 2 * math.pi / 40
        corners = np.stack([np.cos(turns), np.sin(turns)], axis=1)
    cos, sin = math.cos(angle), math.sin(angle)
    turned: NDArray[np.float64] = corners @ np.array([[cos, sin], [-sin, cos]])
    return turned


def _pose(shot: Shot, u: float) -> _Pose:
    event = shot.event
    color = np.array(COLORS[event.color], dtype=float)
    x, y, radius, alpha, angle = shot.x, shot.y, shot.size, 1.0, 0.0
    if event.action == "moves":
        dx, dy = DIRECTIONS[event.detail]
        x += dx * SPEEDS[event.speed] * (u - 0.5)
        y += dy * SPEEDS[event.speed] * (u - 0.5)
    elif event.action == "grows":
        radius *= 0.45 + 0.9 * u
    elif event.action == "shrinks":
        radius *= 1.35 - 0.9 * u
    elif event.action == "spins":
        angle = math.pi * (0.5 if event.shape == "triangle" else 0.35) * 2 * u
    elif event.action == "appears":
        alpha = min(1.0, 0.05 + 1.3 * u)
    elif event.action == "vanishes":
        alpha = min(1.0, 0.05 + 1.3 * (1 - u))
    elif event.action == "turns":
        turned = min(1.0, max(0.0, (u - 0.2) / 0.28))
        color = color + (np.array(COLORS[event.detail]) - color) * turned
    return _Pose(x, y, radius, alpha, angle, color)


def draw_frame(
    shot: Shot, u: float, width: int, height: int, background: Image | None = None
) -> Image:
    """(height, width, 3) uint8 RGB: the shot after the share `u`, from 0 to 1, of its duration.

    `background` saves drawing the shot's background again.
    """
    if background is None:
        background = _background(*shot.background, width, height)
    pose = _pose(shot, u)
    scale, centre = min(width, height), (pose.x * width, pose.y * height)
    corners = _outline(shot.event.shape, pose.angle) * pose.radius * scale + centre
    points = np.round(corners * 2**_FRACTION_BITS).astype(np.int32)
    color = tuple(float(channel) for channel in pose.color)
    painted = background.copy()
    cv2.fillPoly(painted, [points], color, lineType=cv2.LINE_AA, shift=_FRACTION_BITS)
    if pose.alpha >= 1.0:
        return painted
    blended = cv2.addWeighted(painted, pose.alpha, background, 1 - pose.alpha, 0)
    return blended.astype(np.uint8, copy=False)


def cut_frames(story: Story, fps: int) -> list[int]:
    """Frame numbers: where each shot starts, and one past the end of the last."""
    starts = [0]
    for shot in story.shots:
        starts.append(starts[-1] + max(1, round(shot.seconds * fps)))
    return starts


def frame_at(story: Story, index: int, fps: int, width: int, height: int) -> Image:
    """(height, width, 3) uint8 RGB: frame `index` of the video before encoding."""
    starts = cut_frames(story, fps)
    number = int(np.searchsorted(starts, index, side="right")) - 1
    u = (index - starts[number]) / (starts[number + 1] - starts[number])
    return draw_frame(story.shots[number], u, width, height)


def draw_frames(story: Story, fps: int, width: int, height: int) -> Iterator[Image]:
    """Every frame of the video in order, each (height, width, 3) uint8 RGB."""
    starts = cut_frames(story, fps)
    for shot, start, end in zip(story.shots, starts, starts[1:], strict=False):
        background = _background(*shot.background, width, height)
        for index in range(end - start):
            yield draw_frame(shot, index / (end - start), width, height, background)


def write_video(story: Story, path: Path, fps: int, width: int, height: int) -> None:
    """Writes an mp4 (H.264, yuv420p) beside its target and renames it: it is whole or absent."""
    part = path.with_name(f".{path.name}.part")
    with av.open(str(part), "w", format="mp4") as container:
        options = {"crf": "16", "preset": "veryfast"}
        stream = container.add_stream("libx264", rate=fps, options=options)
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        stream.thread_count = 1
        for frame in draw_frames(story, fps, width, height):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode())
    part.rename(path)
