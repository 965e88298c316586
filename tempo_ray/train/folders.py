"""Folders that may lie on any of Arrow's file systems -> local ones, and back, whole or not at all."""

import hashlib
import os
import shutil
import tempfile
from pathlib import Path

from filelock import FileLock
from pyarrow import fs

from tempo_ray.paths import resolve


def fetch(uri: str) -> str:
    """A local folder with what is at `uri` now. A local path is used where it is; a URI's folder is copied once a machine by
    whoever asks first, in the place of what was copied from there before."""
    if "://" not in uri:
        return uri
    filesystem, path = resolve(uri)
    found = filesystem.get_file_info(fs.FileSelector(path, recursive=True))
    files = sorted(
        (info.path, info.size, info.mtime_ns) for info in found if info.type == fs.FileType.File
    )
    copies = _copies(uri)
    local = copies / _digest(repr(files))
    with _alone(copies):
        if not local.exists():
            shutil.rmtree(copies, ignore_errors=True)
            part = Path(tempfile.mkdtemp(dir=_made(copies)))
            fs.copy_files(
                path,
                str(part),
                source_filesystem=filesystem,
                destination_filesystem=fs.LocalFileSystem(),
            )
            os.rename(part, local)
    return str(local)


def forget(uri: str) -> None:
    """Deletes this machine's copy, where there is one."""
    if "://" in uri:
        with _alone(_copies(uri)):
            shutil.rmtree(_copies(uri), ignore_errors=True)


def _copies(uri: str) -> Path:
    return Path(tempfile.gettempdir(), f"tempo_ray-{os.getuid()}", _digest(uri))


def _alone(copies: Path) -> FileLock:
    return FileLock(_made(copies.parent) / f"{copies.name}.lock")


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def work_folder(uri: str) -> Path:
    """An empty folder to build in; beside a local target, so that `publish` is a rename."""
    if "://" in uri:
        return Path(tempfile.mkdtemp())
    target = Path(uri)
    part = _made(target.parent) / f".{target.name}.part"
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir()
    return part


def publish(folder: Path, uri: str) -> None:
    """Puts a folder made by `work_folder` where it belongs, in the place of what is there."""
    if "://" in uri:
        filesystem, path = resolve(uri)
        filesystem.create_dir(path, recursive=True)
        filesystem.delete_dir_contents(path)
        fs.copy_files(
            str(folder),
            path,
            source_filesystem=fs.LocalFileSystem(),
            destination_filesystem=filesystem,
        )
        shutil.rmtree(folder)
        return
    old = Path(uri).with_name(f".{Path(uri).name}.old")
    shutil.rmtree(old, ignore_errors=True)
    if Path(uri).exists():
        os.rename(uri, old)
    os.rename(folder, uri)
    shutil.rmtree(old, ignore_errors=True)


def _made(folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    return folder
