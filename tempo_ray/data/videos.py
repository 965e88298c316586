"""A folder, or a list of URIs -> the manifest: one row per video file (schema.VIDEO), in files of its own under a run."""

import io
import os
import posixpath
import uuid
from collections.abc import Iterator
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.parquet as pq
from pyarrow import fs

from tempo_ray import schema
from tempo_ray.config import VideosConfig
from tempo_ray.paths import exists, resolve, writing

_NAMESPACE = uuid.uuid5(uuid.NAMESPACE_URL, "tempo_ray/video")
ROWS_PER_FILE = 50_000
LISTS = (".parquet", ".txt")

Row = dict[str, Any]


class NoVideos(ValueError):
    """There is nothing to work on; the message says where was looked and what to change."""


def video_id(uri: str) -> str:
    return str(uuid.uuid5(_NAMESPACE, uri))


def _row(uri: str, size: int | None) -> Row:
    return {"video_id": video_id(uri), "uri": uri, "bytes": size}


def _walk(filesystem: fs.FileSystem, folder: str) -> Iterator[tuple[str, int | None]]:
    """Path and bytes of everything below a folder that is no folder, a folder at a time, in the order of the names."""
    if isinstance(filesystem, fs.LocalFileSystem):
        yield from _walk_local(folder, (os.path.realpath(folder),))
        return
    for info in sorted(filesystem.get_file_info(fs.FileSelector(folder)), key=lambda one: one.path):
        if info.type == fs.FileType.Directory:
            yield from _walk(filesystem, info.path)
        else:
            yield info.path, info.size


def _walk_local(folder: str, above: tuple[str, ...]) -> Iterator[tuple[str, int | None]]:
    """Links are followed, but not to a folder on the way here. Arrow's listing leaves out links that lead nowhere."""
    with os.scandir(folder) as entries:
        found = sorted(entries, key=lambda one: one.name)
    for entry in found:
        # a name in another encoding: the row says what it can of it, and that there is no such file
        path = os.fsencode(entry.path).decode(errors="backslashreplace")
        try:
            is_folder = entry.is_dir()
            size = None if is_folder else entry.stat().st_size
        except OSError:  # a link to itself or to nowhere: whoever opens it will say so
            is_folder, size = False, None
        if not is_folder:
            yield path, size
        elif (real := os.path.realpath(entry.path)) not in above:
            yield from _walk_local(entry.path, (*above, real))


def _in_list(config: VideosConfig, filesystem: fs.FileSystem, path: str) -> Iterator[Row]:
    for line, uri in enumerate(_lines(config, filesystem, path), 1):
        if not uri:
            raise NoVideos(f"videos.input={config.input}: no uri in row {line}; take that row out")
        absolute = "://" in uri or uri.startswith("/")
        yield _row(uri if absolute else posixpath.join(posixpath.dirname(config.input), uri), None)


def _lines(config: VideosConfig, filesystem: fs.FileSystem, path: str) -> Iterator[str | None]:
    if path.endswith(".txt"):
        with filesystem.open_input_stream(path) as stream:
            yield from (line.strip() for line in io.TextIOWrapper(stream, "utf-8") if line.strip())
        return
    data = ds.dataset(path, filesystem=filesystem, format="parquet")
    if "uri" not in data.schema.names:
        raise NoVideos(
            f"videos.input={config.input}: no column uri in it; it has {', '.join(data.schema.names)}"
        )
    for batch in data.to_batches(columns=["uri"]):
        yield from batch["uri"].to_pylist()


def _in_folder(config: VideosConfig, filesystem: fs.FileSystem, path: str) -> Iterator[Row]:
    prefix = config.input.split("://")[0] + "://" if "://" in config.input else ""
    known = tuple(extension.lower() for extension in config.extensions)
    others = found = 0
    for file, size in _walk(filesystem, path):
        if file.lower().endswith(known):
            found += 1
            yield _row(prefix + file, size)
        else:
            others += 1
    if not found:
        held = f"{others} files of other kinds" if others else "nothing"
        raise NoVideos(
            f"videos.input={config.input}: no videos in it ({held}); extensions taken: {' '.join(known)}"
        )


def _listed(config: VideosConfig) -> Iterator[Row]:
    filesystem, path = resolve(config.input)
    info = filesystem.get_file_info(path)
    if info.type == fs.FileType.NotFound:
        raise NoVideos(f"videos.input={config.input}: no such file or folder")
    if info.type == fs.FileType.Directory:
        yield from _in_folder(config, filesystem, path)
    elif path.endswith(LISTS):
        yield from _in_list(config, filesystem, path)
    else:
        yield _row(config.input, info.size)


def list_videos(config: VideosConfig) -> Iterator[Row]:
    """The videos of the input (schema.VIDEO), a folder or a batch of a list in memory at a time.

    Raises NoVideos where there is none, or where a folder cannot be listed.
    """
    count = -1
    try:
        for count, row in enumerate(_listed(config)):
            if count == config.limit:
                return
            yield row
    except OSError as error:
        raise NoVideos(
            f"videos.input={config.input}: cannot be listed: {str(error).splitlines()[0]}"
        ) from error
    if count < 0:
        raise NoVideos(f"videos.input={config.input}: the list is empty")


def _short(video_ids: list[str]) -> np.ndarray:
    """The first 64 bits of each id: enough to tell a hundred million apart, in 8 bytes each."""
    return np.array([int(one.replace("-", "")[:16], 16) for one in video_ids], dtype=np.uint64)


def known_ids(folder: str) -> np.ndarray:
    """Short ids of the rows of a manifest, sorted."""
    if not exists(folder):
        return np.empty(0, np.uint64)
    filesystem, path = resolve(folder)
    data = ds.dataset(path, filesystem=filesystem, format="parquet")
    parts = [
        _short(batch["video_id"].to_pylist()) for batch in data.to_batches(columns=["video_id"])
    ]
    return np.sort(np.concatenate([np.empty(0, np.uint64), *parts]))


def write_manifest(config: VideosConfig, folder: str, config_hash: str) -> int:
    """Adds to the manifest what is not in it yet; a file of it is there whole or not at all. Returns the number of all rows."""
    known = known_ids(folder)
    total = len(known)
    filesystem, path = resolve(folder)
    filesystem.create_dir(path, recursive=True)
    typed = schema.with_metadata(schema.VIDEO, config_hash)
    held: list[Row] = []
    seen: set[int] = set()

    def flush() -> None:
        nonlocal held, total
        short = _short([row["video_id"] for row in held])
        new = ~np.isin(short, known)
        fresh = []
        for row, name, is_new in zip(held, short.tolist(), new.tolist(), strict=True):
            if is_new and name not in seen:  # a list may name a file twice
                seen.add(name)
                fresh.append(row)
        held = []
        if fresh:
            with writing(
                posixpath.join(folder, f"manifest-{uuid.uuid4().hex[:12]}.parquet")
            ) as stream:
                pq.write_table(pa.Table.from_pylist(fresh, schema=typed), stream)
            total += len(fresh)

    for row in list_videos(config):
        held.append(row)
        if len(held) == ROWS_PER_FILE:
            flush()
    flush()
    return total
