"""Key frames of kept videos, read in child processes."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from tempo_ray.config import DecodeConfig, RespondConfig
from tempo_ray.data.key_frames import KeyFrameReader
from tempo_ray.records import TransientFailure, VideoAnswers
from tempo_ray.shapeworld.render import write_video
from tempo_ray.shapeworld.story import draw_story
from tests.data.rows import kept_video


@pytest.fixture(scope="module")
def reader() -> Iterator[KeyFrameReader]:
    config = RespondConfig(model="m", key_frame_pixels=2000)
    read = KeyFrameReader(config, DecodeConfig(attempts=1))
    yield read
    read.close()


def test_rows_come_back_in_order_with_the_frames_of_the_kept_ones(
    reader: KeyFrameReader, tmp_path: Path
) -> None:
    write_video(draw_story(np.random.default_rng(3), 4), tmp_path / "v.mp4", 24, 64, 64)
    (tmp_path / "text.mp4").write_text("no video")
    good = kept_video(uri=str(tmp_path / "v.mp4"))
    dropped = replace(good, video_id="dropped", status="dropped", reason="too few clips (3 < 4)")
    bad = replace(good, video_id="bad", uri=str(tmp_path / "text.mp4"))
    gone = replace(good, video_id="gone", uri=str(tmp_path / "gone.mp4"))
    rows, key_frames = reader([dropped, bad, good, gone])
    assert [row.video_id for row in rows] == ["dropped", "bad", "v", "gone"]
    assert (rows[0], rows[2]) == (dropped, good)
    assert set(key_frames) == {"v"}
    assert sorted(key_frames["v"]) == [7, 15, 31, 39, 55, 63, 79, 87]
    assert {frame.shape for frame in key_frames["v"].values()} == {(44, 44, 3)}
    failed, transient = rows[1], rows[3]
    assert isinstance(failed, VideoAnswers)
    assert (failed.status, failed.reason, failed.failed_at) == ("failed", "undecodable", "respond")
    assert isinstance(transient, TransientFailure)
    assert (transient.failed_at, "FileNotFoundError" in transient.message) == ("respond", True)
