"""Locations: local paths, and URIs of Arrow's file systems."""

import multiprocessing
import os
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tempo_ray import storage
from tempo_ray.storage import delete_local_copy, local_copy, publish, staging_folder


@pytest.fixture(params=["path", "uri"])
def root(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """The same folder, as a local path and as a URI."""
    return str(tmp_path) if request.param == "path" else tmp_path.as_uri()


@pytest.fixture
def remote(tmp_path: Path) -> Iterator[str]:
    """A URI with two files behind it."""
    folder = tmp_path / "remote" / "deep"
    folder.mkdir(parents=True)
    (folder.parent / "small").write_text("1")
    (folder / "large").write_text("2" * 1_000_000)
    uri = folder.parent.as_uri()
    yield uri
    delete_local_copy(uri)


def test_local_paths_become_absolute_and_uris_stay() -> None:
    assert storage.absolute("s3://bucket/x") == "s3://bucket/x"
    assert storage.absolute("~/x") == os.path.join(os.path.expanduser("~"), "x")
    assert storage.absolute("a/../b") == os.path.abspath("b")


@pytest.mark.parametrize(
    ("folder", "parts", "joined"),
    [
        ("/runs/a", ("pairs",), "/runs/a/pairs"),
        ("/runs/a/", ("pairs", "0"), "/runs/a/pairs/0"),
        ("/", ("pairs",), "/pairs"),
        ("s3://bucket/a/", ("pairs",), "s3://bucket/a/pairs"),
    ],
)
def test_locations_are_joined(folder: str, parts: tuple[str, ...], joined: str) -> None:
    assert storage.join(folder, *parts) == joined


def test_the_parent_of_a_location_is_its_folder() -> None:
    assert storage.parent("/data/x.json") == "/data"
    assert storage.parent("s3://bucket/data/x.json") == "s3://bucket/data"


def test_relative_locations_in_a_file_are_relative_to_its_folder() -> None:
    assert storage.relative_to("s3://bucket", "videos/1.mp4") == "s3://bucket/videos/1.mp4"
    assert storage.relative_to("/data", "/videos/1.mp4") == "/videos/1.mp4"
    assert storage.relative_to("/data", "s3://bucket/1.mp4") == "s3://bucket/1.mp4"


def test_spaces_and_percent_signs_in_a_uri_stand_for_themselves(tmp_path: Path) -> None:
    (tmp_path / "a %20 b").write_text("here")
    assert storage.read_bytes(f"file://{tmp_path}/a %20 b") == b"here"


def test_files_are_written_read_listed_and_deleted(root: str) -> None:
    file = storage.join(root, "new", "folder", "b.txt")
    assert not storage.exists(file)
    storage.write_bytes(file, b"bytes")
    storage.write_bytes(storage.join(root, "new", "a.txt"), b"more")
    assert storage.read_bytes(file) == b"bytes"
    folder = storage.join(root, "new")
    assert storage.list_files(folder) == {"a.txt": 4}
    assert storage.list_files(folder, recursive=True) == {"a.txt": 4, "folder/b.txt": 5}
    assert storage.list_folders(folder) == ["folder"]
    storage.delete_file(file)
    assert not storage.exists(file)
    storage.delete_folder(folder)
    storage.delete_folder(folder)
    assert storage.list_files(folder) == {}
    assert storage.list_folders(folder) == []
    with pytest.raises(FileNotFoundError):
        storage.read_bytes(file)


def test_a_file_that_is_interrupted_leaves_nothing_and_keeps_the_old_one(root: str) -> None:
    file = storage.join(root, "a.txt")
    storage.write_bytes(file, b"old")

    def interrupted_write() -> None:
        with storage.open_output(file) as stream:
            stream.write(b"half")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted_write()
    assert storage.list_files(root) == {"a.txt": 3}
    assert storage.read_bytes(file) == b"old"


def test_files_and_folders_are_copied(root: str) -> None:
    source = storage.join(root, "source")
    storage.write_bytes(storage.join(source, "deep", "a"), b"a")
    storage.copy_folder(source, storage.join(root, "target"))
    assert storage.list_files(storage.join(root, "target"), recursive=True) == {"deep/a": 1}
    storage.copy_file(storage.join(source, "deep", "a"), storage.join(root, "elsewhere", "b"))
    assert storage.read_bytes(storage.join(root, "elsewhere", "b")) == b"a"


def test_a_folder_of_parquet_files_is_a_dataset(root: str) -> None:
    folder = storage.join(root, "pairs")
    assert storage.parquet_dataset(folder) is None
    with storage.open_output(storage.join(folder, "0.parquet")) as stream:
        pq.write_table(pa.table({"a": [1, 2]}), stream)
    dataset = storage.parquet_dataset(folder)
    assert dataset is not None
    assert dataset.to_table().to_pydict() == {"a": [1, 2]}


def test_a_local_folder_is_used_where_it_is(tmp_path: Path) -> None:
    assert local_copy(str(tmp_path)) == str(tmp_path)
    delete_local_copy(str(tmp_path))
    assert tmp_path.exists()


def test_a_copy_is_made_once_and_again_when_the_folder_has_changed(
    remote: str, tmp_path: Path
) -> None:
    copy = Path(local_copy(remote))
    assert (copy / "deep" / "large").stat().st_size == 1_000_000
    inode = (copy / "small").stat().st_ino
    assert Path(local_copy(remote), "small").stat().st_ino == inode
    (tmp_path / "remote" / "small").write_text("changed")
    assert Path(local_copy(remote), "small").read_text() == "changed"
    assert not copy.exists()
    assert len(list(copy.parent.iterdir())) == 1
    delete_local_copy(remote)
    assert not copy.parent.exists()


def _inode(uri: str) -> int:
    return os.stat(Path(local_copy(uri), "deep", "large")).st_ino


def test_concurrent_processes_share_one_copy(remote: str) -> None:
    with ProcessPoolExecutor(4, mp_context=multiprocessing.get_context("spawn")) as pool:
        assert len(set(pool.map(_inode, [remote] * 4))) == 1


def test_a_published_folder_replaces_what_was_there(root: str) -> None:
    target = storage.join(root, "model")
    for name in ("first", "second"):
        staging = staging_folder(target)
        assert list(staging.iterdir()) == []
        (staging / name).write_text(name)
        publish(staging, target)
        assert storage.list_files(target) == {name: len(name)}
        assert not staging.exists()
    assert storage.list_folders(root) == ["model"]


def test_staging_beside_a_local_target_discards_an_earlier_attempt(tmp_path: Path) -> None:
    target = str(tmp_path / "model")
    (staging_folder(target) / "left over").write_text("")
    staging = staging_folder(target)
    assert staging.parent == tmp_path
    assert list(staging.iterdir()) == []
