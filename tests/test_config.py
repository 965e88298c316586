"""Configs: what they refuse, and that they say what to change."""

import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml

from tempo_ray.arguments import ConfigError, load_config
from tempo_ray.config import (
    EvaluateConfig,
    GeneratePairsConfig,
    MakeShapeworldConfig,
    ServeConfig,
    TrainConfig,
)

ROOT = Path(__file__).parent.parent
PAIRS = ["run=r", "videos.input=v", "respond.model=m"]


def test_overrides_come_after_the_file(tmp_path: Path) -> None:
    file = tmp_path / "c.yaml"
    file.write_text(
        yaml.safe_dump({"seed": 3, "respond": {"model": "file", "pool": {"max_size": 4}}})
    )
    config = load_config(
        GeneratePairsConfig, str(file), ["run=r", "videos.input=v", "respond.pool.max_size=2"]
    )
    assert (config.seed, config.respond.model, config.respond.pool.max_size) == (3, "file", 2)


@pytest.mark.parametrize(
    ("model", "words", "message"),
    [
        (
            GeneratePairsConfig,
            [*PAIRS, "respond.pool.maxsize=2"],
            "respond.pool.maxsize: no such key; keys here: min_size",
        ),
        (GeneratePairsConfig, PAIRS[1:], "run: missing"),
        (GeneratePairsConfig, ["run=s3://b/a run", *PAIRS[1:]], "has no spaces"),
        (GeneratePairsConfig, [*PAIRS, "respond.pool.min_size=3"], "raise max_size"),
        (GeneratePairsConfig, [*PAIRS, "seed"], "written key=value"),
        (
            GeneratePairsConfig,
            [*PAIRS, "respond.engine.tensor_parallel_size=2"],
            "pool.gpus is 1: raise it",
        ),
        (GeneratePairsConfig, [*PAIRS, "run.x=1"], "holds a value"),
        (GeneratePairsConfig, [*PAIRS, "respond.frames.min_frames=3"], "even"),
        (TrainConfig, ["run=r", "model=m"], "needs sft.data"),
        (
            TrainConfig,
            ["run=r", "model=m", "recipe=align", "align.batch=3", "workers.count=2"],
            "multiple of workers.count",
        ),
        (
            TrainConfig,
            ["run=r", "model=m", "recipe=align", "workers.gpus=0", "attention=flex"],
            "needs workers.gpus",
        ),
        (ServeConfig, ["models=[]"], "at least one entry"),
        (ServeConfig, ["models=[{name: a, path: p}]", "device=cpu"], "kv_cache_bytes"),
        (EvaluateConfig, ["run=r", "questions=q"], "models: missing"),
        (MakeShapeworldConfig, ["output=o", "world.shots=[5,4]"], "[least, most]"),
    ],
)
def test_a_mistake_is_refused_with_its_fix(model: type, words: list[str], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load_config(model, None, words)
    assert message in str(caught.value)


def test_a_missing_file_is_named() -> None:
    with pytest.raises(ConfigError, match=r"nowhere\.yaml: No such file"):
        load_config(TrainConfig, "nowhere.yaml", [])


def test_the_hash_follows_the_values() -> None:
    one, same, other = (
        load_config(GeneratePairsConfig, None, [*PAIRS, f"seed={seed}"]) for seed in (1, 1, 2)
    )
    assert one.hash() == same.hash() != other.hash()


def test_the_saved_config_is_read_back(tmp_path: Path) -> None:
    config = load_config(GeneratePairsConfig, None, PAIRS)
    file = tmp_path / "saved.yaml"
    file.write_text(config.to_yaml())
    assert load_config(GeneratePairsConfig, str(file), []) == config


JOBS = {
    "generate_pairs": GeneratePairsConfig,
    "train": TrainConfig,
    "serve": ServeConfig,
    "evaluate": EvaluateConfig,
}


@pytest.mark.parametrize(
    "file", sorted((ROOT / "jobs" / "configs").glob("*.yaml")), ids=lambda file: file.stem
)
def test_every_config_that_ships_is_valid(file: Path) -> None:
    """One file serves every job it has a section for: `JOB: {...}`."""
    sections = yaml.safe_load(file.read_text())
    assert sections
    assert set(sections) <= set(JOBS)
    for job in sections:
        needed = {
            "generate_pairs": PAIRS[:2],
            "train": ["run=r", "sft.data=s"],
            "serve": [],
            "evaluate": ["run=r", "questions=q"],
        }
        load_config(JOBS[job], str(file), needed[job], section=job)


@pytest.mark.parametrize("job", ["generate_pairs", "train", "serve", "evaluate", "make_shapeworld"])
def test_help_is_instant(job: str) -> None:
    def helped() -> float:
        began = time.monotonic()
        done = subprocess.run(
            [sys.executable, f"jobs/{job}.py", "--help"],
            cwd=ROOT,
            capture_output=True,
            text=True,
            check=True,
        )
        assert "Keys:" in done.stdout
        return time.monotonic() - began

    assert min(helped() for _ in range(3)) < 1.0


@pytest.mark.parametrize("job", list(JOBS))
def test_each_job_reads_its_own_section(job: str) -> None:
    words = [
        sys.executable,
        f"jobs/{job}.py",
        "--config",
        "jobs/configs/embedded.yaml",
        "nonsense=1",
    ]
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    told = done.stderr.splitlines()
    assert any(line.startswith("nonsense: no such key") for line in told)
    assert all(line.startswith("nonsense: ") or ": missing" in line for line in told), told


def test_local_paths_are_absolute_and_hub_names_stay() -> None:
    words = [
        "run=runs/x",
        "videos.input=s3://films/in",
        "respond.model=Qwen/Qwen2.5-VL-7B-Instruct",
    ]
    config = load_config(GeneratePairsConfig, None, words)
    assert config.run == str(Path("runs/x").absolute())
    assert (
        load_config(GeneratePairsConfig, None, [*words, "run=runs/../runs/./x/"]).run == config.run
    )
    assert (config.videos.input, config.respond.model) == (
        "s3://films/in",
        "Qwen/Qwen2.5-VL-7B-Instruct",
    )
    here = load_config(
        GeneratePairsConfig, None, [*words, "respond.model=tempo_ray/shapeworld/models/qwen2_5_vl"]
    )
    assert Path(here.respond.model).is_absolute()
