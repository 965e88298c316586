"""Files of many codecs and containers: all frames small, some at full size; and how far the two
readers agree."""

from pathlib import Path

import av
import numpy as np
import pytest

from tempo_ray.config import DecodeConfig, FramesConfig
from tempo_ray.data.decode import Source, decoder_of, fit, frames_at, open_source, open_video
from tempo_ray.models.frames import UnreadableVideo, read_frames
from tempo_ray.shapeworld.render import write_video
from tempo_ray.shapeworld.story import draw_story
from tests import horrors

SHARED = Path(__file__).parents[3] / "shared" / "data" / "videos"
REAL = sorted(SHARED.iterdir()) if SHARED.is_dir() else []
PYAV_ONLY = {"av1_video.mkv", "discard_first_keyframe.mp4"}
CONFIG = DecodeConfig()


def all_small(source: Source, config: DecodeConfig = CONFIG) -> tuple[np.ndarray, list[float]]:
    with open_video(source) as video:
        return np.concatenate(list(video.small_frames(config))), video.times


@pytest.fixture
def video(tmp_path: Path) -> str:
    write_video(draw_story(np.random.default_rng(3), 4), tmp_path / "v.mp4", 24, 64, 64)
    return str(tmp_path / "v.mp4")


def test_every_frame_comes_once_and_in_chunks(video: str) -> None:
    with open_video(video) as file:
        probe = file.probe
        assert (probe.frames, probe.seconds, probe.fps) == (96, 4.0, 24.0)
        assert (probe.width, probe.height) == (64, 64)
        chunks = list(file.small_frames(DecodeConfig(chunk_frames=7, short_side=32)))
        assert np.allclose(file.times, np.arange(96) / 24)
        assert decoder_of(video, file.times) == "decord"
    assert [len(chunk) for chunk in chunks] == [7] * 13 + [5]
    assert {chunk.shape[1:] for chunk in chunks} == {(32, 32, 3)}
    with open_video(video) as file:
        assert sum(len(chunk) for chunk in file.small_frames(CONFIG, max_frames=10)) == 10


@pytest.mark.skipif(not REAL, reason="the folder of real videos is not beside the checkout")
@pytest.mark.parametrize("file", REAL, ids=lambda file: file.name)
def test_real_files(file: Path) -> None:
    """Every file gives frames; where decord is chosen, it gives the same frames as PyAV under the
    same numbers."""
    with open_source(str(file)) as source:
        small, times = all_small(source)
        with open_video(source) as again:
            probe = again.probe
        assert len(small) == len(times) > 0
        decoder = decoder_of(source, times)
        wanted = np.random.default_rng(0).permutation(len(times))[:12].tolist()
        by_pyav = frames_at(source, "pyav", wanted, 10**7)
        assert sorted(by_pyav) == sorted(wanted)
        assert {frame.shape for frame in by_pyav.values()} == {(probe.height, probe.width, 3)}
        assert (decoder == "pyav") == (file.name in PYAV_ONLY)
        if decoder == "decord":
            by_decord = frames_at(source, "decord", wanted, 10**7)
            # they round 10-bit colours differently; all else is equal to the bit
            apart = max(
                np.abs(by_pyav[index].astype(int) - by_decord[index]).mean() for index in wanted
            )
            assert apart < 3 if "10bit" in file.name else apart == 0
    for index in wanted:  # the small frame is the same picture
        upright = fit(by_pyav[index], small.shape[1] * small.shape[2])
        assert np.abs(upright.mean((0, 1)) - small[index].mean((0, 1))[::-1]).max() < 6


@pytest.mark.skipif(not REAL, reason="the folder of real videos is not beside the checkout")
def test_a_rotated_video_is_upright_everywhere() -> None:
    uri = str(SHARED / "nasa_13013_rotated.mp4")
    with open_video(uri) as file:
        assert (file.probe.width, file.probe.height) == (270, 480)
    assert all_small(uri)[0].shape[1:] == (114, 64, 3)
    assert read_frames(uri, FramesConfig(), "qwen2_5_vl").pixels.shape[1:] == (480, 270, 3)


def test_a_variable_frame_rate(tmp_path: Path) -> None:
    """Both readers count the frames one by one, whatever their times."""
    shown = [0, 1, 2, 10, 11, 30, 31, 32, 33, 60]
    with av.open(str(tmp_path / "v.mp4"), "w") as container:
        stream = container.add_stream("libx264", rate=30)
        stream.width = stream.height = 64
        for number, pts in enumerate(shown):
            frame = av.VideoFrame.from_ndarray(
                np.full((64, 64, 3), 20 * number, np.uint8), format="rgb24"
            )
            frame.pts = pts
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    uri = str(tmp_path / "v.mp4")
    chunk, times = all_small(uri)
    assert np.allclose(np.array(times) * 30, shown)
    assert np.allclose(chunk.mean((1, 2, 3)), 20 * np.arange(10), atol=4)
    assert decoder_of(uri, times) == "decord"
    for decoder in ("decord", "pyav"):
        (frame,) = frames_at(uri, decoder, [6], 10**6).values()
        assert abs(frame.mean() - 120) < 4


def test_a_video_that_holds_less_than_announced_is_unreadable(tmp_path: Path) -> None:
    """The index of this file is at its head, so that it opens however little of it is left."""
    horrors.encode(
        tmp_path / "v.mp4", horrors.shots(5, 48, 64, 64), options={"movflags": "faststart"}
    )
    whole = (tmp_path / "v.mp4").read_bytes()
    (tmp_path / "truncated.mp4").write_bytes(whole[: len(whole) * 6 // 10])
    uri = str(tmp_path / "truncated.mp4")
    with pytest.raises(UnreadableVideo, match=r"announced|cannot be decoded to its end"):
        all_small(uri)


@pytest.mark.parametrize("decoder", ["decord", "pyav"])
def test_a_missing_frame_is_named(video: str, decoder: str) -> None:
    with pytest.raises(UnreadableVideo, match="frame 96 is announced and not there"):
        frames_at(video, decoder, [0, 96], 10**6)
