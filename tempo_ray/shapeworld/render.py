"""Story -> frames, and frames -> an H.264 mp4 with a hard cut between shots."""

import colorsys
import math
from collections.abc import Iterator
from pathlib import Path

import av
import cv2
import numpy as np

from tempo_ray.shapeworld.story import COLORS, DIRECTIONS, SPEEDS, Shot, Story

_FRACTION_BITS = (
    4  # cv2 draws at sub-pixel precision: coordinates are fixed-point with this many fraction bits
)


def _background(hue: int, pattern: int, width: int, height: int) -> np.ndarray:
    """(height, width, 3) uint8: six dark hues, each plain, striped or shaded."""
    value = (0.22, 0.38, 0.3)[pattern]
    base = np.array(colorsys.hsv_to_rgb(hue / 6, 0.75, value)) * 255
    other = np.array(colorsys.hsv_to_rgb(hue / 6, 0.45, value * 0.55)) * 255
    if pattern == 0:
        weight = np.zeros((height, width))
    elif pattern == 1:
        weight = np.broadcast_to((np.arange(width) * 8 // width % 2)[None, :], (height, width))
    else:
        weight = np.broadcast_to(np.linspace(0, 1, height)[:, None], (height, width))
    return (base + (other - base) * weight[..., None]).astype(np.uint8)


def _outline(shape: str, angle: float) -> np.ndarray:
    """(corners, 2) polygon of radius 1."""
    if shape == "square":
        corners = np.array([(-0.85, -0.85), (0.85, -0.85), (0.85, 0.85), (-0.85, 0.85)])
    elif shape == "triangle":
        turns = np.array([0, 1, 2]) * 2 * math.pi / 3 - math.pi / 2
        corners = np.stack([np.cos(turns), np.sin(turns)], axis=1) * 1.15
    elif shape == "cross":
        a, b = 0.33, 1.05
        corners = np.array(
            [
                (-a, -b),
                (a, -b),
                (a, -a),
                (b, -a),
                (b, a),
                (a, a),
                (a, b),
                (-a, b),
                (-a, a),
                (-b, a),
                (-b, -a),
                (-a, -a),
            ]
        )
    else:
        turns = np.arange(40) * 2 * math.pi / 40
        corners = np.stack([np.cos(turns), np.sin(turns)], axis=1)
    cos, sin = math.cos(angle), math.sin(angle)
    return corners @ np.array([[cos, sin], [-sin, cos]])


def draw_frame(
    shot: Shot, u: float, width: int, height: int, background: np.ndarray | None = None
) -> np.ndarray:
    """(height, width, 3) uint8 RGB: the shot at the share `u` (0 to 1) of its time."""
    event = shot.event
    frame = (
        _background(*shot.background, width, height) if background is None else background
    ).copy()
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
        color = color + (np.array(COLORS[event.detail]) - color) * min(
            1.0, max(0.0, (u - 0.2) / 0.28)
        )
    corners = _outline(event.shape, angle) * radius * min(width, height) + (x * width, y * height)
    points = np.round(corners * 2**_FRACTION_BITS).astype(np.int32)
    painted = frame if alpha >= 1.0 else frame.copy()
    cv2.fillPoly(
        painted,
        [points],
        tuple(float(c) for c in color),
        lineType=cv2.LINE_AA,
        shift=_FRACTION_BITS,
    )
    return painted if painted is frame else cv2.addWeighted(painted, alpha, frame, 1 - alpha, 0)


def cut_frames(story: Story, fps: int) -> list[int]:
    """Frame numbers: where each shot starts, and one past the end of the last."""
    starts = [0]
    for shot in story.shots:
        starts.append(starts[-1] + max(1, round(shot.seconds * fps)))
    return starts


def frame_at(story: Story, index: int, fps: int, width: int, height: int) -> np.ndarray:
    """Frame `index` of the video, as it is before encoding."""
    starts = cut_frames(story, fps)
    number = int(np.searchsorted(starts, index, side="right")) - 1
    return draw_frame(
        story.shots[number],
        (index - starts[number]) / (starts[number + 1] - starts[number]),
        width,
        height,
    )


def draw_frames(story: Story, fps: int, width: int, height: int) -> Iterator[np.ndarray]:
    """Every frame of the video, in order."""
    starts = cut_frames(story, fps)
    for shot, start, end in zip(story.shots, starts, starts[1:], strict=False):
        background = _background(*shot.background, width, height)
        for index in range(end - start):
            yield draw_frame(shot, index / (end - start), width, height, background)


def write_video(story: Story, path: Path, fps: int, width: int, height: int) -> None:
    """An mp4 (H.264, yuv420p); written beside and renamed, so that a file is whole or not there."""
    part = path.with_name(f".{path.name}.part")
    with av.open(str(part), "w", format="mp4") as container:
        stream = container.add_stream(
            "libx264", rate=fps, options={"crf": "16", "preset": "veryfast"}
        )
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        stream.thread_count = 1
        for frame in draw_frames(story, fps, width, height):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode())
    part.rename(path)
