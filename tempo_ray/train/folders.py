"""Folders that may lie on any of Arrow's file systems -> local ones, and back, whole or not at all."""

import hashlib
import os
import shutil
import tempfile
from pathlib import Path

from pyarrow import fs

from tempo_ray.paths import resolve


def fetch(uri: str) -> str:
    """A local folder with what is at `uri`. A URI's folder is copied once a machine; a local path is used where it is."""
    if "://" not in uri:
        return uri
    local = Path(tempfile.gettempdir()) / "tempo_ray" / hashlib.sha256(uri.encode()).hexdigest()[:16]
    if not local.exists():
        part = Path(tempfile.mkdtemp(dir=_made(local.parent)))
        filesystem, path = resolve(uri)
        fs.copy_files(path, str(part), source_filesystem=filesystem, destination_filesystem=fs.LocalFileSystem())
        _rename(part, local)
    return str(local)


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
        fs.copy_files(str(folder), path, source_filesystem=fs.LocalFileSystem(), destination_filesystem=filesystem)
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


def _rename(part: Path, target: Path) -> None:
    """Another process may have been faster; its copy is as good."""
    try:
        os.rename(part, target)
    except OSError:
        if not target.exists():
            raise
        shutil.rmtree(part)
