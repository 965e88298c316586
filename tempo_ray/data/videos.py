"""A folder -> its video files, one row each (schema.VIDEO)."""

import uuid
from collections.abc import Iterator
from typing import Any

from pyarrow import fs

from tempo_ray.config import VideosConfig
from tempo_ray.paths import resolve

_NAMESPACE = uuid.uuid5(uuid.NAMESPACE_URL, "tempo_ray/video")


class NoVideos(ValueError):
    """There is nothing to work on; the message says where was looked and what to change."""


def video_id(uri: str) -> str:
    return str(uuid.uuid5(_NAMESPACE, uri))


def _files(filesystem: fs.FileSystem, path: str) -> Iterator[fs.FileInfo]:
    info = filesystem.get_file_info(path)
    if info.type == fs.FileType.File:
        yield info
    elif info.type == fs.FileType.Directory:
        yield from filesystem.get_file_info(fs.FileSelector(path, recursive=True))
    else:
        raise NoVideos(f"videos.input={path}: no such file or folder")


def list_videos(config: VideosConfig) -> list[dict[str, Any]]:
    """Every file with a video's extension below the input, in the order of their names. Raises NoVideos where there is none."""
    filesystem, path = resolve(config.input)
    prefix = config.input.split("://")[0] + "://" if "://" in config.input else ""
    known = tuple(extension.lower() for extension in config.extensions)
    rows = []
    others = 0
    for info in _files(filesystem, path):
        if info.type != fs.FileType.File:
            continue
        if not info.path.lower().endswith(known):
            others += 1
            continue
        uri = prefix + info.path
        rows.append({"video_id": video_id(uri), "uri": uri, "bytes": info.size})
    if not rows:
        held = f"{others} files of other kinds" if others else "nothing"
        raise NoVideos(f"videos.input={config.input}: no videos in it ({held}); extensions taken: {' '.join(known)}")
    rows.sort(key=lambda row: row["uri"])
    return rows[: config.limit]
