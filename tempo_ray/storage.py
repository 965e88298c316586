"""Every question about a location: a local path, or a URI of any of Arrow's file systems.

Files are written beside their target and renamed, folders are staged and published: a reader finds
the whole or nothing.
"""

import hashlib
import os
import posixpath
import shutil
import tempfile
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

import pyarrow as pa
from filelock import FileLock
from pyarrow import fs

if TYPE_CHECKING:
    import pyarrow.dataset as ds

LOCAL = fs.LocalFileSystem()


def is_uri(location: str) -> bool:
    return "://" in location


def absolute(location: str) -> str:
    """A local path made absolute; a URI as it is. One file has one name, however it was written."""
    return location if is_uri(location) else os.path.abspath(os.path.expanduser(location))


def join(location: str, *parts: str) -> str:
    return posixpath.join(location.rstrip("/") or "/", *parts)


def parent(location: str) -> str:
    return posixpath.dirname(location)


def relative_to(folder: str, location: str) -> str:
    """A path in a file of `folder`: relative ones are relative to that folder."""
    return location if is_uri(location) else posixpath.join(folder, location)


@lru_cache
def _filesystem(scheme: str, authority: str) -> tuple[fs.FileSystem, str]:
    filesystem, path = fs.FileSystem.from_uri(f"{scheme}://{authority}")
    return filesystem, str(path)


def resolve(location: str) -> tuple[fs.FileSystem, str]:
    """The Arrow file system and the path in it.

    Behind the bucket every character stands for itself, as in the stores' own tools: a name may
    contain spaces and % signs.
    """
    scheme, found, rest = location.partition("://")
    if not found:
        return LOCAL, location
    authority, slash, path = rest.partition("/")
    if not authority:  # file:///a/b
        return fs.FileSystem.from_uri(f"{scheme}:///")[0], slash + path
    filesystem, base = _filesystem(scheme, authority)
    return filesystem, posixpath.join(base, path) if path else base


def exists(location: str) -> bool:
    filesystem, path = resolve(location)
    return bool(filesystem.get_file_info(path).type != fs.FileType.NotFound)


def list_files(folder: str, recursive: bool = False) -> dict[str, int]:
    """Path relative to the folder -> bytes, in the order of the paths. Empty without the folder."""
    filesystem, path = resolve(folder)
    selector = fs.FileSelector(path, recursive=recursive, allow_not_found=True)
    found = [info for info in filesystem.get_file_info(selector) if info.type == fs.FileType.File]
    return {
        posixpath.relpath(info.path, path): info.size
        for info in sorted(found, key=lambda info: info.path)
    }


def list_folders(folder: str) -> list[str]:
    """Names of the folders in it, sorted."""
    filesystem, path = resolve(folder)
    found = filesystem.get_file_info(fs.FileSelector(path, allow_not_found=True))
    return sorted(info.base_name for info in found if info.type == fs.FileType.Directory)


def delete_folder(folder: str) -> None:
    """The folder and all in it, if it exists."""
    filesystem, path = resolve(folder)
    if filesystem.get_file_info(path).type != fs.FileType.NotFound:
        filesystem.delete_dir(path)


def delete_file(file: str) -> None:
    filesystem, path = resolve(file)
    filesystem.delete_file(path)


def read_bytes(file: str) -> bytes:
    """The whole file. Raises FileNotFoundError or another OSError."""
    filesystem, path = resolve(file)
    with filesystem.open_input_stream(path) as stream:
        return stream.read()  # type: ignore[no-any-return]  # Arrow's stream is untyped


@contextmanager
def open_output(file: str) -> Iterator[pa.NativeFile]:
    """A file written beside its target, then renamed. Makes the folders on the way."""
    filesystem, path = resolve(file)
    folder, name = posixpath.split(path)
    filesystem.create_dir(folder, recursive=True)
    # readers of a Parquet folder ignore names that begin with a dot
    part = posixpath.join(folder, f".{name}.{uuid.uuid4().hex[:8]}.part")
    try:
        with filesystem.open_output_stream(part) as stream:
            yield stream
        filesystem.move(part, path)
    except BaseException:  # an interrupt too leaves no half file behind, and propagates
        with suppress(OSError):
            filesystem.delete_file(part)
        raise


def write_bytes(file: str, data: bytes) -> None:
    with open_output(file) as stream:
        stream.write(data)


def copy_folder(source: str, target: str) -> None:
    """Every file of `source` into `target`."""
    source_fs, source_path = resolve(source)
    target_fs, target_path = resolve(target)
    target_fs.create_dir(target_path, recursive=True)
    fs.copy_files(
        source_path, target_path, source_filesystem=source_fs, destination_filesystem=target_fs
    )


def copy_file(source: str, target: str) -> None:
    source_fs, source_path = resolve(source)
    with source_fs.open_input_stream(source_path) as stream, open_output(target) as out:
        while chunk := stream.read(8 << 20):
            out.write(chunk)


def parquet_dataset(folder: str) -> "ds.Dataset | None":
    """The Parquet files of a folder; None where there is no folder."""
    import pyarrow.dataset as ds  # here alone: it imports pandas, which --help must not wait for

    if not exists(folder):
        return None
    filesystem, path = resolve(folder)
    return ds.dataset(path, filesystem=filesystem, format="parquet")


def local_copy(uri: str) -> str:
    """A local folder with what is at `uri` now.

    A local path is used where it is. A URI's folder is copied once per machine, by whoever asks
    first, and replaces an older copy of the same URI.
    """
    if not is_uri(uri):
        return uri
    filesystem, path = resolve(uri)
    found = filesystem.get_file_info(fs.FileSelector(path, recursive=True))
    files = [info for info in found if info.type == fs.FileType.File]
    content = sorted((info.path, info.size, info.mtime_ns) for info in files)
    copies = _copies_of(uri)
    local = copies / _digest(repr(content))
    with _lock(copies):
        if not local.exists():
            shutil.rmtree(copies, ignore_errors=True)
            copies.mkdir(parents=True)
            part = tempfile.mkdtemp(dir=copies)
            fs.copy_files(path, part, source_filesystem=filesystem, destination_filesystem=LOCAL)
            os.rename(part, local)
    return str(local)


def delete_local_copy(uri: str) -> None:
    """Deletes this machine's copy of a URI's folder, if there is one."""
    if is_uri(uri):
        with _lock(_copies_of(uri)):
            shutil.rmtree(_copies_of(uri), ignore_errors=True)


def _copies_of(uri: str) -> Path:
    return Path(tempfile.gettempdir(), f"tempo_ray-{os.getuid()}", _digest(uri))


def _lock(copies: Path) -> FileLock:
    copies.parent.mkdir(parents=True, exist_ok=True)
    return FileLock(copies.parent / f"{copies.name}.lock")


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def staging_folder(location: str) -> Path:
    """An empty local folder to build in; beside a local target, so that `publish` is a rename."""
    if is_uri(location):
        return Path(tempfile.mkdtemp())
    target = Path(location)
    staging = target.parent / f".{target.name}.part"
    shutil.rmtree(staging, ignore_errors=True)
    staging.mkdir(parents=True)
    return staging


def publish(staging: Path, location: str) -> None:
    """Moves a folder made by `staging_folder` to its location and replaces what is there."""
    if is_uri(location):
        filesystem, path = resolve(location)
        filesystem.create_dir(path, recursive=True)
        filesystem.delete_dir_contents(path)
        fs.copy_files(
            str(staging), path, source_filesystem=LOCAL, destination_filesystem=filesystem
        )
        shutil.rmtree(staging)
        return
    target = Path(location)
    old = target.with_name(f".{target.name}.old")
    shutil.rmtree(old, ignore_errors=True)
    if target.exists():
        os.rename(target, old)
    os.rename(staging, target)
    shutil.rmtree(old, ignore_errors=True)
