"""Selection on ShapeWorld, and on files that are no videos."""

import dataclasses
import os
import tempfile
from pathlib import Path

import numpy as np
import pytest

from tempo_ray.config import DecodeConfig, SelectConfig
from tempo_ray.data.clips import Descriptor
from tempo_ray.data.select import Selector, decode_video, judged
from tempo_ray.data.videos import video_id
from tempo_ray.records import TransientFailure, Video, VideoAnswers
from tempo_ray.shapeworld.render import write_video
from tempo_ray.shapeworld.story import Story, draw_story
from tests import horrors

CONFIG = SelectConfig()
EMBED = Descriptor(CONFIG.clips.descriptor_similarity)


def selected(path: Path, config: SelectConfig = CONFIG) -> VideoAnswers:
    """As Selector does it, in this process."""
    row = VideoAnswers(video_id(str(path)), str(path))
    return judged(decode_video(row, config), config, EMBED)


@pytest.mark.parametrize(
    ("name", "data"), [("empty.mp4", b""), ("text.mp4", b"no video at all\n" * 50)]
)
def test_what_is_no_video_fails_with_its_reason(tmp_path: Path, name: str, data: bytes) -> None:
    (tmp_path / name).write_bytes(data)
    row = selected(tmp_path / name)
    assert (row.status, row.reason, row.failed_at) == ("failed", "not a video", "open")
    assert row.message


def test_a_truncated_video_fails_and_a_missing_one_too(tmp_path: Path) -> None:
    write_video(draw_story(np.random.default_rng(0), 5), tmp_path / "v.mp4", 24, 64, 64)
    whole = (tmp_path / "v.mp4").read_bytes()
    (tmp_path / "truncated.mp4").write_bytes(whole[: len(whole) // 2])
    assert selected(tmp_path / "truncated.mp4").status == "failed"
    assert selected(tmp_path / "gone.mp4").reason == "not there"


def test_a_single_shot_is_dropped_with_numbers(tmp_path: Path) -> None:
    write_video(draw_story(np.random.default_rng(0), 1), tmp_path / "v.mp4", 24, 64, 64)
    row = selected(tmp_path / "v.mp4")
    assert (row.status, row.reason) == ("dropped", "too few shots (1 < 4)")


def test_a_long_video_is_not_decoded(tmp_path: Path) -> None:
    write_video(draw_story(np.random.default_rng(0), 5), tmp_path / "v.mp4", 24, 64, 64)
    row = selected(tmp_path / "v.mp4", SelectConfig(decode=DecodeConfig(max_seconds=2.0)))
    assert row.reason == "too long (5 s > 2 s)"


@pytest.mark.slow
def test_richness_orders_videos_of_known_richness(tmp_path: Path) -> None:
    """More scenes are richer; as many that share the time evenly are richer than if one takes most
    of it."""

    def rich(story: Story) -> float:
        write_video(story, tmp_path / "v.mp4", 24, 64, 64)
        bits = selected(tmp_path / "v.mp4").richness
        assert bits is not None
        return bits

    def drawn(seed: int, shots: int) -> Story:
        return draw_story(np.random.default_rng(seed), shots, (1.5, 1.5))

    by_scenes = [
        np.mean([rich(drawn(seed, shots)) for seed in range(4)]) for shots in (4, 6, 9, 13, 18)
    ]
    assert by_scenes == sorted(by_scenes)
    assert np.allclose(by_scenes, np.log2([4, 6, 9, 13, 18]), atol=0.25)
    for seed in range(4):
        even = drawn(seed, 6)
        uneven = Story((dataclasses.replace(even.shots[0], seconds=8.0), *even.shots[1:]))
        repeated = Story((*even.shots[:4], *even.shots[:2]))
        assert rich(uneven) < rich(even) - 0.2
        assert rich(repeated) < rich(even) - 0.2


def test_a_file_that_cannot_be_read_now_is_retried_by_the_next_run(tmp_path: Path) -> None:
    (tmp_path / "folder.mp4").mkdir()  # opening it raises an OSError that is not FileNotFoundError
    selector = Selector(SelectConfig(decode=DecodeConfig(attempts=1)))
    row = selector(Video("v", str(tmp_path / "folder.mp4")))
    selector.close()
    assert isinstance(row, TransientFailure)
    assert (row.video_id, row.failed_at) == ("v", "open")
    assert "Is a directory" in row.message


def test_a_file_without_read_permission_raises_what_is_retried() -> None:
    """Root, who may read everything, takes another user's rights for a moment."""
    user = os.geteuid()
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "v.mp4"
        write_video(draw_story(np.random.default_rng(0), 5), file, 24, 64, 64)
        os.chmod(folder, 0o755)
        file.chmod(0)
        if user == 0:
            os.seteuid(65534)
        try:
            with pytest.raises(PermissionError):  # an OSError, which Selector makes transient
                decode_video(VideoAnswers("v", str(file)), CONFIG)
        finally:
            os.seteuid(user)


@pytest.mark.slow
def test_a_long_full_hd_video_needs_little_memory(tmp_path: Path) -> None:
    """3 minutes of 1080p, 30 frames a second: 33 GB of pixels, of which the decoding process never
    holds 1 GB."""
    horrors.repeated(tmp_path / "v.mp4", seconds=180, fps=30, width=1920, height=1080)
    selector = Selector(CONFIG)
    row = selector(Video("v", str(tmp_path / "v.mp4")))
    status = Path(f"/proc/{selector.pid}/status").read_text().splitlines()
    peak_kib = next(int(line.split()[1]) for line in status if line.startswith("VmHWM"))
    selector.close()
    assert isinstance(row, VideoAnswers)
    assert (row.frames, row.width, row.height) == (5400, 1920, 1080)
    assert len(row.shots) > 20
    assert peak_kib * 1024 < 1e9
