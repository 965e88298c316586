"""A file becomes the frames of its family's rule, whichever decoder reads it.

That the endpoint shows a model the same frames is tested in tests/serve/test_frames.py, files that
no decoder reads in tests/data/test_decode.py.
"""

from pathlib import Path

import numpy as np
import pytest

from tempo_ray.config import FramesConfig
from tempo_ray.models import frames as room
from tempo_ray.models.families import SUPPORTED
from tempo_ray.models.frames import Frames, UnreadableVideo, as_vllm, read_frames, sample_indices
from tempo_ray.shapeworld.render import write_video
from tempo_ray.shapeworld.story import draw_story


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("videos") / "a b%20c.mp4"
    write_video(draw_story(np.random.default_rng(0), 4), file, 24, 96, 64)
    return file


@pytest.mark.parametrize("model_type", SUPPORTED)
def test_a_path_and_a_uri_give_the_frames_of_the_rule(file: Path, model_type: str) -> None:
    config = FramesConfig()
    frames = read_frames(str(file), config, model_type)
    assert frames.metadata["frames_indices"] == sample_indices(96, 24.0, config, model_type)
    assert frames.metadata["total_num_frames"] == 96
    assert frames.metadata["duration"] == 4.0
    assert frames.pixels.shape == (len(frames.metadata["frames_indices"]), 64, 96, 3)
    assert frames.pixels.dtype == np.uint8
    by_uri = read_frames(f"file://{file}", config, model_type)
    assert np.array_equal(by_uri.pixels, frames.pixels)


def test_both_decoders_give_the_same_frames(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    decord = read_frames(str(file), FramesConfig(), SUPPORTED[0])

    def fail(*_: object) -> Frames:
        raise RuntimeError("no decord")

    monkeypatch.setattr(room, "_read_decord", fail)
    pyav = read_frames(str(file), FramesConfig(), SUPPORTED[0])
    assert pyav.metadata == decord.metadata
    # the two round YUV to RGB differently
    assert np.abs(pyav.pixels.astype(int) - decord.pixels.astype(int)).max() <= 4


def test_what_is_not_a_video_is_unreadable(tmp_path: Path) -> None:
    (tmp_path / "empty.mp4").write_bytes(b"")
    (tmp_path / "text.mp4").write_bytes(b"this is not a video\n" * 99)
    with pytest.raises(UnreadableVideo, match="empty file"):
        read_frames(str(tmp_path / "empty.mp4"), FramesConfig(), SUPPORTED[0])
    with pytest.raises(UnreadableVideo, match="not a readable video"):
        read_frames(str(tmp_path / "text.mp4"), FramesConfig(), SUPPORTED[0])
    with pytest.raises(FileNotFoundError):
        read_frames(str(tmp_path / "nowhere.mp4"), FramesConfig(), SUPPORTED[0])


def test_the_fewest_frames() -> None:
    assert sample_indices(1, 24.0, FramesConfig(), SUPPORTED[0]) == [0, 0]
    with pytest.raises(UnreadableVideo, match="no frames"):
        sample_indices(0, 24.0, FramesConfig(), SUPPORTED[0])


def test_presented_frames_do_not_reveal_where_they_came_from() -> None:
    pixels = np.arange(3 * 4 * 4 * 3, dtype=np.uint8).reshape(3, 4, 4, 3)
    frames = Frames.presented(pixels, 2.0)
    assert frames.pixels.shape == (4, 4, 4, 3)
    assert np.array_equal(frames.pixels[3], pixels[2])
    assert frames.metadata["frames_indices"] == [0, 1, 2, 3]
    assert frames.metadata["duration"] == 2.0
    [(sent, metadata)] = as_vllm([frames])
    assert sent is frames.pixels
    assert metadata == {**frames.metadata, "do_sample_frames": False}
