"""The mistakes that the generate_pairs job refuses before it starts Ray. What it does with the real
engines is in tests/integration/test_generate_pairs.py."""

from pathlib import Path
from typing import Any

import pytest

from tempo_ray.config import GeneratePairsConfig
from tempo_ray.config.load import load_config
from tempo_ray.data.run.job import generate_pairs
from tempo_ray.errors import UserError
from tempo_ray.job import Job


def config_of(tmp_path: Path, **words: Any) -> GeneratePairsConfig:
    given = {
        "run": tmp_path / "run",
        "videos.input": tmp_path / "in",
        "respond.model": "builtin:qwen2_5_vl",
    }
    return load_config(
        GeneratePairsConfig, None, [f"{key}={value}" for key, value in (given | words).items()]
    )


def test_mistakes_are_refused_before_anything_is_counted(tmp_path: Path) -> None:
    job = Job()
    for words, message in (
        ({}, "no such file or folder"),
        ({"respond.model": tmp_path / "none"}, "no such folder"),
    ):
        with pytest.raises(UserError, match=message):
            generate_pairs(config_of(tmp_path, **words), job, print)
    assert job.summary is None


def test_an_old_run_is_refused_before_it_is_touched(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "v.mp4").write_bytes(b"x")
    (tmp_path / "run" / "ledger").mkdir(parents=True)
    with pytest.raises(UserError, match="schema version 2"):
        generate_pairs(config_of(tmp_path), Job(), print)
    assert [file.name for file in (tmp_path / "run").iterdir()] == ["ledger"]


def test_too_little_memory_is_refused_and_the_videos_are_counted(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "v.mp4").write_bytes(b"x")
    config = config_of(
        tmp_path, **{"respond.pool.gpus": 0, "respond.engine.kv_cache_bytes": 10**15}
    )
    job = Job()
    with pytest.raises(UserError, match=r"lower respond\.pool\.min_size or"):
        generate_pairs(config, job, print)
    assert job.summary.videos_in == 1
