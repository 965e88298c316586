"""A run directory -> where each hand-off lives in it; and files on any of Arrow's file systems."""

import posixpath
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import lru_cache

import pyarrow as pa
from pyarrow import fs


@dataclass(frozen=True)
class RunPaths:
    """Every path of a run. `root` is a local path or any URI that Arrow's file systems know (s3://, gs://)."""

    root: str

    def _join(self, *parts: str) -> str:
        return posixpath.join(self.root.rstrip("/") or "/", *parts)

    def config(self, job: str, config_hash: str | None = None) -> str:
        """The resolved config that a job ran with: the last one, or the one of that hash."""
        return self._join(
            "config", f"{job}.yaml" if config_hash is None else f"{job}-{config_hash}.yaml"
        )

    @property
    def settings(self) -> str:
        """What every answer of the run depends on, as it was when the run was begun."""
        return self._join("config", "settings.json")

    def summary(self, job: str) -> str:
        """What a job did, in counts; written when it ends, well or not."""
        return self._join("summary", f"{job}.json")

    @property
    def videos(self) -> str:
        """The manifest: one row per input file."""
        return self._join("videos")

    @property
    def answers(self) -> str:
        """One row per video: cuts, clips, captions, clean and perturbed answers, or why there are none."""
        return self._join("answers")

    @property
    def ledger(self) -> str:
        """Ray Data's row-id checkpoint of the answers."""
        return self._join("ledger")

    @property
    def failures(self) -> str:
        """Videos that could not be read in passing; the next run tries them again."""
        return self._join("failures")

    @property
    def pairs(self) -> str:
        return self._join("pairs")

    @property
    def export(self) -> str:
        """Pairs in the formats of other trainers."""
        return self._join("export")

    @property
    def train(self) -> str:
        """What training keeps until a stage is done: Ray Train's storage and the saves; and the curves, which stay."""
        return self._join("train")

    def saves(self, stage: str) -> str:
        """The states from which an unfinished stage goes on."""
        return self._join("train", "saves", stage)

    def stage(self, name: str) -> str:
        """What a finished stage leaves: adapter/, merged/ and stage.json."""
        return self._join("stages", name)

    @property
    def model(self) -> str:
        """The merged model at the end of training, in the Hugging Face layout."""
        return self._join("model")

    def scores(self, model: str) -> str:
        """One row per question that a model was asked."""
        return self._join("scores", f"{model}.parquet")


@lru_cache
def _filesystem(scheme: str, authority: str) -> tuple[fs.FileSystem, str]:
    return fs.FileSystem.from_uri(f"{scheme}://{authority}")


def resolve(uri: str) -> tuple[fs.FileSystem, str]:
    """URI or local path -> Arrow file system and the path in it.

    Behind the bucket every character stands for itself, as in the tools of the stores: a name may hold spaces and % signs.
    """
    scheme, found, rest = uri.partition("://")
    if not found:
        return fs.LocalFileSystem(), uri
    authority, slash, path = rest.partition("/")
    if not authority:  # file:///a/b
        return fs.FileSystem.from_uri(f"{scheme}:///")[0], slash + path
    filesystem, base = _filesystem(scheme, authority)
    return filesystem, posixpath.join(base, path) if path else base


def exists(uri: str) -> bool:
    filesystem, path = resolve(uri)
    return filesystem.get_file_info(path).type != fs.FileType.NotFound


def delete_folder(uri: str) -> None:
    """The folder and all in it, where there is one."""
    filesystem, path = resolve(uri)
    if filesystem.get_file_info(path).type != fs.FileType.NotFound:
        filesystem.delete_dir(path)


def read_bytes(uri: str) -> bytes:
    """The whole file. Raises FileNotFoundError or another OSError."""
    filesystem, path = resolve(uri)
    with filesystem.open_input_stream(path) as stream:
        return stream.read()


@contextmanager
def writing(uri: str) -> Iterator[pa.NativeFile]:
    """A file that is there whole or not at all: written beside, then renamed. Makes the folders on the way."""
    filesystem, path = resolve(uri)
    filesystem.create_dir(posixpath.dirname(path), recursive=True)
    folder, name = posixpath.split(path)
    part = posixpath.join(
        folder, f".{name}.{uuid.uuid4().hex[:8]}.part"
    )  # readers of the folder pass over a dot
    try:
        with filesystem.open_output_stream(part) as stream:
            yield stream
        filesystem.move(part, path)
    except (
        BaseException
    ):  # whatever ends the writing, an interrupt too, leaves no half file behind, and passes on
        with suppress(OSError):
            filesystem.delete_file(part)
        raise


def write_bytes(uri: str, data: bytes) -> None:
    with writing(uri) as stream:
        stream.write(data)
