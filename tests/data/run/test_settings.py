"""Which runs can be resumed: those of the same settings, of this schema version."""

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tempo_ray import schema
from tempo_ray.config import GeneratePairsConfig, PairsConfig, RespondConfig, VideosConfig
from tempo_ray.data.run.settings import check_run_version, check_settings, write_settings
from tempo_ray.data.videos import write_manifest
from tempo_ray.errors import UserError
from tempo_ray.paths import RunPaths

BOTH_VERSIONS = rf"version 2.* reads version {schema.SCHEMA_VERSION}"


def config_of(run: Path, **changed: object) -> GeneratePairsConfig:
    config = GeneratePairsConfig(
        run=str(run), videos=VideosConfig(input="in"), respond=RespondConfig(model="m")
    )
    return config.model_copy(update=changed)


def write_version_2(folder: Path) -> None:
    folder.mkdir(parents=True)
    metadata = {"tempo_ray.schema_version": "2", "tempo_ray.config_hash": "h"}
    old = pa.schema([("video_id", pa.string()), ("uri", pa.string())], metadata=metadata)
    row = {"video_id": "v", "uri": "v.mp4"}
    pq.write_table(pa.Table.from_pylist([row], schema=old), folder / "0.parquet")


def test_a_run_is_resumed_with_its_own_settings_alone(tmp_path: Path) -> None:
    config = config_of(tmp_path)
    check_settings(config)
    write_settings(config)
    other_form = config_of(tmp_path, respond=RespondConfig(model="m", form="video"))
    check_settings(other_form)  # nothing was answered yet
    (tmp_path / "answers").mkdir()
    with pytest.raises(UserError, match=r"begun with respond\.form=caption, not video"):
        check_settings(other_form)
    check_settings(config_of(tmp_path, pairs=PairsConfig(max_length_ratio=9.0)))


def test_a_manifest_of_schema_version_2_is_refused(tmp_path: Path) -> None:
    paths = RunPaths(str(tmp_path))
    check_run_version(paths)
    write_version_2(tmp_path / "videos")
    with pytest.raises(UserError, match=BOTH_VERSIONS):
        check_run_version(paths)
    (tmp_path / "in.txt").write_text("/v.mp4\n")
    with pytest.raises(UserError, match=BOTH_VERSIONS):
        write_manifest(VideosConfig(input=str(tmp_path / "in.txt")), paths.videos, "h")


def test_the_checkpoint_folder_of_version_2_is_refused(tmp_path: Path) -> None:
    """Its videos would be answered again from nothing otherwise."""
    (tmp_path / "ledger").mkdir()
    with pytest.raises(UserError, match=BOTH_VERSIONS):
        check_run_version(RunPaths(str(tmp_path)))


def test_a_run_of_this_version_passes(tmp_path: Path) -> None:
    paths = RunPaths(str(tmp_path))
    (tmp_path / "in.txt").write_text("/v.mp4\n")
    write_manifest(VideosConfig(input=str(tmp_path / "in.txt")), paths.videos, "h")
    check_run_version(paths)
