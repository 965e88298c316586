"""Frames and files: what is drawn is what the story says, at any size."""

from pathlib import Path

import av
import numpy as np
import pytest
from numpy.typing import NDArray

from tempo_ray.shapeworld.render import cut_frames, draw_frame, draw_frames, frame_at, write_video
from tempo_ray.shapeworld.story import COLORS, Action, Event, Shot, draw_story


def shot(action: Action, detail: str = "", speed: str = "") -> Shot:
    return Shot(Event("red", "square", action, detail, speed), (3, 0), 0.5, 0.5, 0.2, 1.0)


def red(frame: NDArray[np.uint8]) -> NDArray[np.int64]:
    """(pixels, 2): x and y of the reddish pixels."""
    close = np.abs(frame.astype(int) - COLORS["red"]).sum(-1) < 90
    return np.argwhere(close)[:, ::-1]


@pytest.mark.parametrize(
    ("direction", "axis", "sign"), [("left", 0, -1), ("right", 0, 1), ("up", 1, -1), ("down", 1, 1)]
)
def test_moves_go_where_they_say_and_as_fast(direction: str, axis: int, sign: int) -> None:
    travelled = {}
    for speed in ("slowly", "quickly"):
        moving = shot("moves", direction, speed)
        start, end = (red(draw_frame(moving, u, 64, 64)).mean(0)[axis] for u in (0.1, 0.9))
        travelled[speed] = sign * (end - start)
    assert 5 < travelled["slowly"] < 13
    assert 20 < travelled["quickly"] < 30


def test_sizes_and_colours_change() -> None:
    def area(action: Action, u: float) -> int:
        return len(red(draw_frame(shot(action), u, 64, 64)))

    assert area("grows", 0.9) > 2 * area("grows", 0.1)
    assert area("shrinks", 0.1) > 2 * area("shrinks", 0.9)
    assert area("appears", 0.0) == 0 < area("appears", 0.95)
    assert area("vanishes", 1.0) == 0 < area("vanishes", 0.05)
    assert len(red(draw_frame(shot("turns", "blue"), 0.6, 64, 64))) == 0


def test_a_background_may_be_drawn_once_and_is_not_painted_on() -> None:
    for action in ("grows", "appears"):
        background = draw_frame(shot("vanishes"), 1.0, 64, 64)
        before = background.copy()
        draw_frame(shot(action), 0.5, 64, 64, background)
        assert np.array_equal(background, before)


def test_a_file_has_the_frames_and_hard_cuts(tmp_path: Path) -> None:
    story = draw_story(np.random.default_rng(0), 4, (0.5, 1.5))
    write_video(story, tmp_path / "v.mp4", 24, 96, 64)
    with av.open(str(tmp_path / "v.mp4")) as container:
        decoded = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
        assert container.streams.video[0].codec_context.name == "h264"
    drawn = list(draw_frames(story, 24, 96, 64))
    assert len(decoded) == len(drawn) == cut_frames(story, 24)[-1]
    errors = [
        np.abs(after.astype(int) - before.astype(int)).mean()
        for after, before in zip(decoded, drawn, strict=True)
    ]
    assert np.mean(errors) < 6
    assert np.array_equal(frame_at(story, 7, 24, 96, 64), drawn[7])
