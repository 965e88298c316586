"""Folders and lists of videos, and the manifest that they become."""

import os
import tempfile
from pathlib import Path

import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.parquet as pq
import pytest

from tempo_ray.config import VideosConfig
from tempo_ray.data.videos import list_videos, write_manifest
from tempo_ray.errors import UserError


def test_a_folder_is_listed_in_the_order_of_names(tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    for name in ("b.MP4", "a.mkv", "sub/c.mp4", "notes.txt"):
        (tmp_path / name).write_bytes(b"x")
    videos = list(list_videos(VideosConfig(input=str(tmp_path))))
    assert [Path(video.uri).name for video in videos] == ["a.mkv", "b.MP4", "c.mp4"]
    assert [video.bytes for video in videos] == [1, 1, 1]
    assert len(list(list_videos(VideosConfig(input=str(tmp_path), limit=2)))) == 2


def test_an_input_without_videos_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no such file or folder"):
        list(list_videos(VideosConfig(input=str(tmp_path / "no"))))
    (tmp_path / "texts").mkdir()
    (tmp_path / "texts" / "a.txt").write_bytes(b"x")
    with pytest.raises(UserError, match="1 files of other kinds"):
        list(list_videos(VideosConfig(input=str(tmp_path / "texts"))))
    (tmp_path / "empty.txt").write_text("\n")
    with pytest.raises(UserError, match="the list is empty"):
        list(list_videos(VideosConfig(input=str(tmp_path / "empty.txt"))))


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
    with pytest.raises(UserError, match="no column uri"):
        list(list_videos(VideosConfig(input=str(tmp_path / "other.parquet"))))
    (tmp_path / "relative.txt").write_text("sub/e.mp4\ns3://bucket/f.mp4\n")
    videos = list_videos(VideosConfig(input=str(tmp_path / "relative.txt")))
    assert [video.uri for video in videos] == [str(tmp_path / "sub/e.mp4"), "s3://bucket/f.mp4"]
    pq.write_table(pa.table({"uri": ["/x/c.mp4", None]}), tmp_path / "null.parquet")
    with pytest.raises(UserError, match="no uri in row 2"):
        list(list_videos(VideosConfig(input=str(tmp_path / "null.parquet"))))


def test_a_folder_without_permission_is_named() -> None:
    """Root, who may read everything, takes another user's rights for a moment."""
    user = os.geteuid()
    with tempfile.TemporaryDirectory() as folder:
        os.chmod(folder, 0o755)
        closed = Path(folder) / "closed"
        closed.mkdir(0o000)
        if user == 0:
            os.seteuid(65534)
        try:
            with pytest.raises(UserError, match=r"cannot be listed: .*Permission denied"):
                list(list_videos(VideosConfig(input=str(closed))))
        finally:
            os.seteuid(user)
