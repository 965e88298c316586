"""Selection on ShapeWorld, whose cuts are known, and on files that are no videos."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.parquet as pq
import pytest

from tempo_ray.config import DecodeConfig, SelectConfig, VideosConfig, WorldConfig
from tempo_ray.data.clips import Descriptor, clips_of, groups_of, key_frames
from tempo_ray.data.select import EMPTY, PASSING, Selector, judged, look
from tempo_ray.data.videos import NoVideos, list_videos, video_id, write_manifest
from tempo_ray.schema import ANSWERS
from tempo_ray.shapeworld.render import cut_frames, write_video
from tempo_ray.shapeworld.story import draw_story

CONFIG = SelectConfig()
EMBED = Descriptor(CONFIG.clips.descriptor_similarity)


def chosen(path: Path, config: SelectConfig = CONFIG) -> dict:
    """As Selector does it, in this process."""
    row = {"video_id": video_id(str(path)), "uri": str(path)} | EMPTY
    return row | judged(look((str(path), config)), config, EMBED)


def test_known_cuts_are_found_to_the_frame(tmp_path: Path) -> None:
    """99% of the cuts within one frame, at most 1% false: the bound of the whole project."""
    world = WorldConfig()
    right = false = known = 0
    for seed in range(40):
        story = draw_story(np.random.default_rng(seed), 4 + seed % 5)
        write_video(story, tmp_path / "v.mp4", world.fps, world.width, world.height)
        row = chosen(tmp_path / "v.mp4")
        found = {cut["start"] for cut in row["cuts"]} - {0}
        true = set(cut_frames(story, world.fps)[1:-1])
        known += len(true)
        right += sum(any(abs(start - one) <= 1 for start in found) for one in true)
        false += sum(all(abs(start - one) > 1 for one in true) for start in found)
        assert row["status"] == "kept", row["reason"]
        assert set(row) == set(ANSWERS.names)
    assert known > 150
    assert right >= 0.99 * known
    assert false <= 0.01 * known


@pytest.mark.parametrize(
    ("name", "data", "reason"),
    [("empty.mp4", b"", "not a video"), ("text.mp4", b"no video at all\n" * 50, "not a video")],
)
def test_what_is_no_video_fails_with_its_reason(tmp_path: Path, name: str, data: bytes, reason: str) -> None:
    (tmp_path / name).write_bytes(data)
    row = chosen(tmp_path / name)
    assert (row["status"], row["reason"], row["failed_at"]) == ("failed", reason, "open")
    assert row["message"]


def test_a_truncated_video_fails_and_a_missing_one_too(tmp_path: Path) -> None:
    write_video(draw_story(np.random.default_rng(0), 5), tmp_path / "v.mp4", 24, 64, 64)
    whole = (tmp_path / "v.mp4").read_bytes()
    (tmp_path / "cut.mp4").write_bytes(whole[: len(whole) // 2])
    assert chosen(tmp_path / "cut.mp4")["status"] == "failed"
    assert chosen(tmp_path / "gone.mp4")["reason"] == "not there"


def test_a_single_shot_is_dropped_with_numbers(tmp_path: Path) -> None:
    write_video(draw_story(np.random.default_rng(0), 1), tmp_path / "v.mp4", 24, 64, 64)
    row = chosen(tmp_path / "v.mp4")
    assert (row["status"], row["reason"]) == ("dropped", "too few cuts (1 < 4)")


def test_a_long_video_is_not_decoded(tmp_path: Path) -> None:
    write_video(draw_story(np.random.default_rng(0), 5), tmp_path / "v.mp4", 24, 64, 64)
    config = CONFIG.model_copy(update={"decode": DecodeConfig(max_seconds=2.0)})
    row = chosen(tmp_path / "v.mp4", config)
    assert row["reason"] == "too long (5 s > 2 s)"


def test_groups_merge_the_most_alike_first() -> None:
    features = np.array([[1.0, 0.0], [0.99, 0.14], [0.0, 1.0], [1.0, 0.02]])
    assert groups_of(features, 0.8) == [0, 0, 1, 0]
    assert groups_of(features, 0.9999) == [0, 1, 2, 3]
    assert groups_of(features[:1], 0.8) == [0]


def test_clips_are_runs_of_one_group() -> None:
    cuts = [{"start": start, "end": start + 10} for start in range(0, 50, 10)]
    made = clips_of(cuts, [0, 0, 1, 0, 2], np.ones(50))
    assert [(clip["start"], clip["end"], clip["group"]) for clip in made] == [(0, 20, 0), (20, 30, 1), (30, 40, 0), (40, 50, 2)]


def test_key_frames_are_the_sharpest_near_the_thirds() -> None:
    sharpness = np.ones(30)
    sharpness[12] = 50.0
    assert key_frames(sharpness, 0, 30) == [12, 19]
    assert key_frames(np.zeros(30), 0, 30)[0] in (9, 10)


def test_listing(tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    for name in ("b.MP4", "a.mkv", "sub/c.mp4", "notes.txt"):
        (tmp_path / name).write_bytes(b"x")
    rows = list(list_videos(VideosConfig(input=str(tmp_path))))
    assert [Path(row["uri"]).name for row in rows] == ["a.mkv", "b.MP4", "c.mp4"]
    assert len(list(list_videos(VideosConfig(input=str(tmp_path), limit=2)))) == 2
    with pytest.raises(NoVideos, match="no such file or folder"):
        list(list_videos(VideosConfig(input=str(tmp_path / "no"))))
    (tmp_path / "texts").mkdir()
    (tmp_path / "texts" / "a.txt").write_bytes(b"x")
    with pytest.raises(NoVideos, match="1 files of other kinds"):
        list(list_videos(VideosConfig(input=str(tmp_path / "texts"))))


def test_a_manifest_grows_by_what_is_new(tmp_path: Path) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    for name in ("a.mp4", "b.mp4"):
        (folder / name).write_bytes(b"x")
    manifest = str(tmp_path / "videos")
    assert write_manifest(VideosConfig(input=str(folder)), manifest, "h") == 2
    assert write_manifest(VideosConfig(input=str(folder)), manifest, "h") == 2
    (folder / "c.mp4").write_bytes(b"x")
    (folder / "a.mp4").unlink()
    assert write_manifest(VideosConfig(input=str(folder)), manifest, "h") == 3
    rows = ds.dataset(manifest, format="parquet").to_table().to_pylist()
    assert sorted(Path(row["uri"]).name for row in rows) == ["a.mp4", "b.mp4", "c.mp4"]


def test_lists_of_videos(tmp_path: Path) -> None:
    (tmp_path / "l.txt").write_text("/x/a b.mp4\n\n/x/c.mp4\n/x/a b.mp4\n")
    pq.write_table(pa.table({"uri": ["/x/c.mp4", "/x/d.mp4"]}), tmp_path / "l.parquet")
    pq.write_table(pa.table({"path": ["/x/c.mp4"]}), tmp_path / "other.parquet")
    manifest = str(tmp_path / "videos")
    assert write_manifest(VideosConfig(input=str(tmp_path / "l.txt")), manifest, "h") == 2
    assert write_manifest(VideosConfig(input=str(tmp_path / "l.parquet")), manifest, "h") == 3
    with pytest.raises(NoVideos, match="no column uri"):
        list(list_videos(VideosConfig(input=str(tmp_path / "other.parquet"))))


def test_a_file_that_may_not_be_read_now_is_to_be_tried_again(tmp_path: Path) -> None:
    (tmp_path / "folder.mp4").mkdir()  # opening it raises an OSError that is not FileNotFoundError
    config = CONFIG.model_copy(update={"decode": DecodeConfig(attempts=1)})
    selector = Selector(config, EMBED)
    row = selector({"video_id": "v", "uri": str(tmp_path / "folder.mp4")})
    selector.close()
    assert (row["status"], row["reason"]) == ("failed", PASSING)
    assert "Is a directory" in row["message"]
    assert set(row) == set(ANSWERS.names)
