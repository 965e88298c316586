"""Each rank's part of a training state -> checkpoints that are complete or are ignored.

A checkpoint is the folder ROOT/STEP, on any of Arrow's file systems. Its checkpoint.json is written
last and names every file with its size: what a dead worker, a full disk or a torn copy left
incomplete lacks it or does not match it, and is never loaded.
"""

import json
import shutil
import subprocess
import sys
import tempfile
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch.distributed as dist

from tempo_ray.records import read_row, write_row
from tempo_ray.storage import (
    copy_folder,
    delete_folder,
    delete_local_copy,
    is_uri,
    join,
    list_files,
    list_folders,
    local_copy,
    read_bytes,
    write_bytes,
)
from tempo_ray.train.stage.collectives import all_gather, broadcast

KEPT = 2
"""Checkpoints that are kept; older ones are deleted."""
INVENTORY = "checkpoint.json"
TAG = "state"
"""DeepSpeed's name of the folder in a checkpoint's folder."""


@dataclass(frozen=True)
class Inventory:
    """What checkpoint.json says: `workers` wrote these `files`, path -> bytes."""

    step: int
    workers: int
    files: dict[str, int]


@dataclass(frozen=True)
class Checkpoint:
    uri: str
    step: int
    workers: int


def find_latest(root: str) -> Checkpoint | None:
    """The last complete checkpoint under `root`."""
    for step in reversed(_steps(root)):
        checkpoint = _read(join(root, step))
        if checkpoint is not None:
            return checkpoint
    return None


def _steps(root: str) -> list[str]:
    return [name for name in list_folders(root) if name.isdigit()]


def _read(uri: str) -> Checkpoint | None:
    """The checkpoint in this folder; None if it is incomplete."""
    try:
        inventory = read_row(Inventory, json.loads(read_bytes(join(uri, INVENTORY))))
    except (FileNotFoundError, ValueError):
        return None
    files = list_files(uri, recursive=True)
    if any(files.get(name) != size for name, size in inventory.files.items()):
        return None
    return Checkpoint(uri, inventory.step, inventory.workers)


def _write_inventory(uri: str, step: int, workers: int) -> None:
    files = list_files(uri, recursive=True)
    files.pop(INVENTORY, None)
    inventory = write_row(Inventory(step, workers, files))
    write_bytes(join(uri, INVENTORY), json.dumps(inventory).encode())


def is_shared(root: str) -> bool:
    """Whether all ranks see what rank 0 writes under `root`. All ranks must call it."""
    if is_uri(root):
        return True
    probe = Path(root, f".{broadcast(uuid.uuid4().hex)}")
    if dist.get_rank() == 0:
        probe.parent.mkdir(parents=True, exist_ok=True)
        probe.touch()
    dist.barrier()
    seen = all_gather(probe.exists())
    if dist.get_rank() == 0:
        probe.unlink()
    return all(seen)


def write_checkpoint(root: str, step: int, write_part: Callable[[str], None]) -> None:
    """`write_part` writes the calling rank's files into the folder that it is given. All ranks must
    call it.

    Local checkpoints are written in place, in a folder that all ranks see.
    """
    uri = join(root, f"{step:08d}")
    if is_uri(root):
        with tempfile.TemporaryDirectory() as folder:
            write_part(folder)
            copy_folder(folder, uri)
    else:
        if dist.get_rank() == 0:
            shutil.rmtree(uri, ignore_errors=True)
        dist.barrier()
        write_part(uri)
    dist.barrier()
    if dist.get_rank() == 0:
        _write_inventory(uri, step, dist.get_world_size())
        _prune(root)
    dist.barrier()


def _prune(root: str) -> None:
    """Keeps the last complete checkpoints and deletes everything else."""
    steps = reversed(_steps(root))
    complete = [step for step in steps if _read(join(root, step)) is not None]
    for name in list_folders(root):
        if name not in complete[:KEPT]:
            delete_folder(join(root, name))


def lack_of_space(root: str, needed: int) -> str | None:
    """Why a checkpoint of `needed` bytes cannot be written to a local disk; None if it can, or if
    that is unknown."""
    if is_uri(root):
        return None
    folder = Path(root)
    while not folder.exists():
        folder = folder.parent
    free = shutil.disk_usage(folder).free
    if free >= needed:
        return None
    return (
        f"a checkpoint takes {needed / 1e9:.2f} GB and {free / 1e9:.2f} GB are free at {folder}: "
        "the previous checkpoint is complete; free some space, and the same command resumes from it"
    )


def open_local(checkpoint: Checkpoint, universal: bool) -> str:
    """A local folder from which this rank can load the checkpoint. All ranks must call it.

    `universal`: for a number of workers other than wrote it. Rank 0 converts it to DeepSpeed's
    universal format, beside the checkpoint.
    """
    if not universal:
        return local_copy(checkpoint.uri)
    uri = _universal_uri(checkpoint)
    if dist.get_rank() == 0 and _read(uri) is None:
        _convert(checkpoint, uri)
    dist.barrier()
    return local_copy(uri)


def delete_copies(checkpoint: Checkpoint) -> None:
    """Deletes the local copies of a checkpoint in a bucket, once all ranks have loaded it. All
    ranks must call it."""
    dist.barrier()
    for uri in (checkpoint.uri, _universal_uri(checkpoint)):
        delete_local_copy(uri)


def _universal_uri(checkpoint: Checkpoint) -> str:
    return f"{checkpoint.uri}-universal"


def _convert(checkpoint: Checkpoint, uri: str) -> None:
    # beside a local checkpoint: /tmp may be a smaller disk
    beside = None if is_uri(uri) else Path(uri).parent
    with tempfile.TemporaryDirectory(dir=beside) as folder:
        source, target = Path(local_copy(checkpoint.uri), TAG), Path(folder, TAG)
        command = [sys.executable, "-m", "deepspeed.checkpoint.ds_to_universal"]
        command += ["--input_folder", str(source), "--output_folder", str(target)]
        # a checkpoint of ZeRO-2 does not say how to join its parameters; none of ours is split
        command += ["--inject_missing_state"]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            reason = done.stderr.strip().splitlines()[-1]
            raise RuntimeError(
                f"{checkpoint.uri} could not be converted to a universal checkpoint: {reason}"
            )
        copy_folder(folder, uri)
    _write_inventory(uri, checkpoint.step, checkpoint.workers)
