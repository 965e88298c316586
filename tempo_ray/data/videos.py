"""A folder or a list of URIs -> the manifest: one row per video file, in Parquet under a run."""

import io
import os
import uuid
from collections.abc import Iterator
from itertools import islice

import numpy as np
import pyarrow.dataset as ds
import pyarrow.parquet as pq
from pyarrow import fs

from tempo_ray import schema
from tempo_ray.config import VideosConfig
from tempo_ray.errors import UserError
from tempo_ray.records import Video
from tempo_ray.storage import is_uri, join, open_output, parent, relative_to, resolve
from tempo_ray.tables import open_dataset, table_of

_NAMESPACE = uuid.uuid5(uuid.NAMESPACE_URL, "tempo_ray/video")
ROWS_PER_FILE = 50_000
LISTS = (".parquet", ".txt")


def video_id(uri: str) -> str:
    return str(uuid.uuid5(_NAMESPACE, uri))


def _video(uri: str, size: int | None) -> Video:
    return Video(video_id(uri), uri, size)


def _walk(filesystem: fs.FileSystem, folder: str) -> Iterator[tuple[str, int | None]]:
    """Path and bytes of every file below a folder, one folder at a time, in the order of names."""
    if isinstance(filesystem, fs.LocalFileSystem):
        yield from _walk_local(folder, (os.path.realpath(folder),))
        return
    infos = filesystem.get_file_info(fs.FileSelector(folder))
    for info in sorted(infos, key=lambda info: info.path):
        if info.type == fs.FileType.Directory:
            yield from _walk(filesystem, info.path)
        else:
            yield info.path, info.size


def _walk_local(folder: str, ancestors: tuple[str, ...]) -> Iterator[tuple[str, int | None]]:
    """Links are followed, except to a folder that this one is in. Dangling links are listed too,
    which Arrow's own listing leaves out."""
    with os.scandir(folder) as scanned:
        entries = sorted(scanned, key=lambda entry: entry.name)
    for entry in entries:
        # a name in another encoding: the row shows it escaped, and fails as not there
        path = os.fsencode(entry.path).decode(errors="backslashreplace")
        try:
            is_folder = entry.is_dir()
            size = None if is_folder else entry.stat().st_size
        except OSError:  # a link to itself or to nowhere: selection fails it with the reason
            is_folder, size = False, None
        if not is_folder:
            yield path, size
            continue
        real = os.path.realpath(entry.path)
        if real not in ancestors:
            yield from _walk_local(entry.path, (*ancestors, real))


def _videos_of_list(config: VideosConfig, filesystem: fs.FileSystem, path: str) -> Iterator[Video]:
    for number, uri in enumerate(_uris_of_list(config, filesystem, path), 1):
        if not uri:
            raise UserError(f"videos.input={config.input}: no uri in row {number}; remove that row")
        yield _video(relative_to(parent(config.input), uri), None)


def _uris_of_list(
    config: VideosConfig, filesystem: fs.FileSystem, path: str
) -> Iterator[str | None]:
    if path.endswith(".txt"):
        with filesystem.open_input_stream(path) as stream:
            lines = (line.strip() for line in io.TextIOWrapper(stream, "utf-8"))
            yield from (line for line in lines if line)
        return
    listed = ds.dataset(path, filesystem=filesystem, format="parquet")
    if "uri" not in listed.schema.names:
        columns = ", ".join(listed.schema.names)
        raise UserError(f"videos.input={config.input}: no column uri in it; it has {columns}")
    for batch in listed.to_batches(columns=["uri"]):
        yield from batch["uri"].to_pylist()


def _videos_of_folder(
    config: VideosConfig, filesystem: fs.FileSystem, path: str
) -> Iterator[Video]:
    scheme = config.input.split("://")[0] + "://" if is_uri(config.input) else ""
    extensions = tuple(extension.lower() for extension in config.extensions)
    videos = other_files = 0
    for file, size in _walk(filesystem, path):
        if file.lower().endswith(extensions):
            videos += 1
            yield _video(scheme + file, size)
        else:
            other_files += 1
    if not videos:
        content = f"{other_files} files of other kinds" if other_files else "nothing"
        raise UserError(
            f"videos.input={config.input}: no videos in it ({content}); "
            f"extensions taken: {' '.join(extensions)}"
        )


def _all_videos(config: VideosConfig) -> Iterator[Video]:
    filesystem, path = resolve(config.input)
    info = filesystem.get_file_info(path)
    if info.type == fs.FileType.NotFound:
        raise UserError(f"videos.input={config.input}: no such file or folder")
    if info.type == fs.FileType.Directory:
        yield from _videos_of_folder(config, filesystem, path)
    elif path.endswith(LISTS):
        yield from _videos_of_list(config, filesystem, path)
    else:
        yield _video(config.input, info.size)


def list_videos(config: VideosConfig) -> Iterator[Video]:
    """The videos of the input, with one folder or one batch of a list in memory at a time.

    Raises UserError where there is no video, or a folder cannot be listed.
    """
    count = -1
    try:
        for count, video in enumerate(_all_videos(config)):
            if count == config.limit:
                return
            yield video
    except OSError as error:
        raise UserError(
            f"videos.input={config.input}: cannot be listed: {str(error).splitlines()[0]}"
        ) from error
    if count < 0:
        raise UserError(f"videos.input={config.input}: the list is empty")


def _short_ids(video_ids: list[str]) -> np.ndarray:
    """The first 64 bits of each id, (ids,) uint64: enough to tell a hundred million apart."""
    short = [int(video_id.replace("-", "")[:16], 16) for video_id in video_ids]
    return np.array(short, dtype=np.uint64)


def known_ids(folder: str) -> np.ndarray:
    """Short ids of the rows of a manifest, (rows,) uint64, sorted. Raises UserError where another
    schema version wrote it."""
    parts = [np.empty(0, np.uint64)]
    manifest = open_dataset(folder)
    if manifest is not None:
        for batch in manifest.to_batches(columns=["video_id"]):
            parts.append(_short_ids(batch["video_id"].to_pylist()))
    return np.sort(np.concatenate(parts))


def write_manifest(config: VideosConfig, folder: str, config_hash: str) -> int:
    """Adds the videos that the manifest does not have yet, and returns the number of all its rows.

    Each of its files is written whole or not at all. Raises UserError as `list_videos` does.
    """
    known = known_ids(folder)
    total = len(known)
    added: set[int] = set()
    listed = list_videos(config)
    while videos := list(islice(listed, ROWS_PER_FILE)):
        short = _short_ids([video.video_id for video in videos])
        is_new = ~np.isin(short, known)
        new = []
        for video, number, unknown in zip(videos, short.tolist(), is_new.tolist(), strict=True):
            if unknown and number not in added:  # a list may name a file twice
                added.add(number)
                new.append(video)
        if new:
            _write_part(new, folder, config_hash)
            total += len(new)
    return total


def _write_part(videos: list[Video], folder: str, config_hash: str) -> None:
    table = table_of(videos, schema.with_metadata(schema.VIDEO, config_hash))
    with open_output(join(folder, f"manifest-{uuid.uuid4().hex[:12]}.parquet")) as stream:
        pq.write_table(table, stream)
