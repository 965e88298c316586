"""Copies of folders that lie elsewhere."""

import multiprocessing
import os
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import pytest

from tempo_ray.train.folders import fetch, forget


@pytest.fixture
def far(tmp_path: Path) -> Iterator[str]:
    """A URI with two files behind it."""
    folder = tmp_path / "far" / "deep"
    folder.mkdir(parents=True)
    (folder.parent / "one").write_text("1")
    (folder / "two").write_text("2" * 1_000_000)
    uri = folder.parent.as_uri()
    yield uri
    forget(uri)


def test_a_local_folder_is_used_where_it_is(tmp_path: Path) -> None:
    assert fetch(str(tmp_path)) == str(tmp_path)
    forget(str(tmp_path))
    assert tmp_path.exists()


def test_a_copy_is_made_once_and_anew_when_the_folder_has_changed(far: str, tmp_path: Path) -> None:
    copy = Path(fetch(far))
    assert (copy / "deep" / "two").stat().st_size == 1_000_000
    inode = (copy / "one").stat().st_ino
    assert Path(fetch(far), "one").stat().st_ino == inode
    (tmp_path / "far" / "one").write_text("other")
    assert Path(fetch(far), "one").read_text() == "other"
    assert not copy.exists()
    assert len(list(copy.parent.iterdir())) == 1
    forget(far)
    assert not copy.parent.exists()


def _inode(uri: str) -> int:
    return os.stat(Path(fetch(uri), "deep", "two")).st_ino


def test_processes_at_once_have_one_copy(far: str) -> None:
    with ProcessPoolExecutor(4, mp_context=multiprocessing.get_context("spawn")) as pool:
        assert len(set(pool.map(_inode, [far] * 4))) == 1
