"""Workers' parts of a training state -> saves that are whole or are not seen, on any of Arrow's file systems.

A save is the folder ROOT/STEP. Its save.json is written last and names every file with its size: what a dead worker, a full
disk or a torn copy left half-written has none, or does not agree with it, and is never loaded.
"""

import json
import posixpath
import shutil
import subprocess
import sys
import tempfile
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch.distributed as dist
from pyarrow import fs

from tempo_ray.paths import read_bytes, resolve, write_bytes
from tempo_ray.train.folders import fetch, forget

KEPT = 2
INVENTORY = "save.json"
TAG = "state"


@dataclass(frozen=True)
class Save:
    uri: str
    step: int
    workers: int


def _files(folder: str) -> dict[str, int]:
    """Paths below the folder, with their sizes."""
    filesystem, path = resolve(folder)
    found = filesystem.get_file_info(fs.FileSelector(path, recursive=True, allow_not_found=True))
    sizes = {
        posixpath.relpath(info.path, path): info.size
        for info in found
        if info.type == fs.FileType.File
    }
    return {name: size for name, size in sizes.items() if name != INVENTORY}


def _steps(root: str) -> list[str]:
    filesystem, path = resolve(root)
    found = filesystem.get_file_info(fs.FileSelector(path, allow_not_found=True))
    return sorted(info.base_name for info in found if info.base_name.isdigit())


def _read(uri: str) -> Save | None:
    """The save in this folder; None where it is not whole."""
    try:
        said = json.loads(read_bytes(posixpath.join(uri, INVENTORY)))
    except (FileNotFoundError, ValueError):
        return None
    there = _files(uri)
    whole = all(there.get(name) == size for name, size in said["files"].items())
    return Save(uri, said["step"], said["workers"]) if whole else None


def latest(root: str) -> Save | None:
    """The last whole save under `root`."""
    saves = (_read(posixpath.join(root, step)) for step in reversed(_steps(root)))
    return next((save for save in saves if save is not None), None)


def seen_by_all(root: str) -> bool:
    """Whether all workers see what rank 0 writes under `root`; every worker must call this."""
    if "://" in root:
        return True
    mark = Path(root, f".{agreed(uuid.uuid4().hex)}")
    if dist.get_rank() == 0:
        mark.parent.mkdir(parents=True, exist_ok=True)
        mark.touch()
    dist.barrier()
    seen = gathered(mark.exists())
    if dist.get_rank() == 0:
        mark.unlink()
    return all(seen)


def gathered(value: Any) -> list[Any]:
    """Every worker's value, in the order of their ranks."""
    values = [None] * dist.get_world_size()
    dist.all_gather_object(values, value)
    return values


def agreed(value: Any) -> Any:
    """Rank 0's value, on every worker."""
    told = [value]
    dist.broadcast_object_list(told)
    return told[0]


def write(root: str, step: int, parts: Callable[[str], None]) -> None:
    """`parts` writes the calling worker's files into a folder that it is given; every worker must call this.

    Local saves are written where they stay: all workers must see that folder.
    """
    uri = posixpath.join(root, f"{step:08d}")
    if "://" in root:
        with tempfile.TemporaryDirectory() as folder:
            parts(folder)
            filesystem, path = resolve(uri)
            fs.copy_files(folder, path, destination_filesystem=filesystem)
    else:
        if dist.get_rank() == 0:
            shutil.rmtree(uri, ignore_errors=True)
        dist.barrier()
        parts(uri)
    dist.barrier()
    if dist.get_rank() == 0:
        inventory = {"step": step, "workers": dist.get_world_size(), "files": _files(uri)}
        write_bytes(posixpath.join(uri, INVENTORY), json.dumps(inventory).encode())
        _prune(root)
    dist.barrier()


def _prune(root: str) -> None:
    """Keeps the last whole saves and nothing else."""
    filesystem, path = resolve(root)
    whole = [
        step for step in reversed(_steps(root)) if _read(posixpath.join(root, step)) is not None
    ]
    found = filesystem.get_file_info(fs.FileSelector(path))
    for info in found:
        if info.type == fs.FileType.Directory and info.base_name not in whole[:KEPT]:
            filesystem.delete_dir(info.path)


def no_room(root: str, needed: int) -> str | None:
    """Why a save of so many bytes cannot be written to a local disk; None where it can, or where nobody knows."""
    if "://" in root:
        return None
    folder = Path(root)
    while not folder.exists():
        folder = folder.parent
    free = shutil.disk_usage(folder).free
    if free >= needed:
        return None
    return (
        f"a save takes {needed / 1e9:.2f} GB and {free / 1e9:.2f} GB are free at {folder}: the save before it is whole; "
        "make room, and the same command goes on from there"
    )


def opened(save: Save, universal: bool) -> str:
    """A local folder from which this worker can load the save, every worker calling this; `universal` for another number of
    workers than wrote it: DeepSpeed's universal checkpoint, made by rank 0 beside the save."""
    if not universal:
        return fetch(save.uri)
    uri = f"{save.uri}-universal"
    if dist.get_rank() == 0 and _read(uri) is None:
        _convert(save, uri)
    dist.barrier()
    return fetch(uri)


def closed(save: Save) -> None:
    """Once all workers have loaded it: the copies of a save in a bucket take room that is needed."""
    dist.barrier()
    for uri in (save.uri, f"{save.uri}-universal"):
        forget(uri)


def _convert(save: Save, uri: str) -> None:
    """On the disk where the saves are, where that is a disk."""
    with tempfile.TemporaryDirectory(dir=None if "://" in uri else Path(uri).parent) as made:
        source = str(Path(fetch(save.uri), TAG))
        # a save of zero_stage 2 says nothing of how its parameters are to be joined: none of ours is split
        words = [
            "--input_folder",
            source,
            "--output_folder",
            str(Path(made, TAG)),
            "--inject_missing_state",
        ]
        command = [sys.executable, "-m", "deepspeed.checkpoint.ds_to_universal", *words]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            raise RuntimeError(
                f"{save.uri} could not be made a universal checkpoint: {done.stderr.strip().splitlines()[-1]}"
            )
        filesystem, path = resolve(uri)
        fs.copy_files(made, path, destination_filesystem=filesystem)
    inventory = {"step": save.step, "workers": save.workers, "files": _files(uri)}
    write_bytes(posixpath.join(uri, INVENTORY), json.dumps(inventory).encode())
