"""Configs: what they refuse, and that they say what to change."""

from pathlib import Path

import pytest
import yaml

from tempo_ray.config import (
    EvaluateConfig,
    GeneratePairsConfig,
    MakeShapeworldConfig,
    PretrainConfig,
    ServeConfig,
    TrainConfig,
)
from tempo_ray.config.load import load_config
from tempo_ray.errors import UserError

PAIRS = ["run=r", "videos.input=v", "respond.model=m"]
ALIGN = ["run=r", "model=m", "recipe=align"]


def test_overrides_come_after_the_file(tmp_path: Path) -> None:
    file = tmp_path / "c.yaml"
    content = {"seed": 3, "respond": {"model": "file", "pool": {"max_size": 4}}}
    file.write_text(yaml.safe_dump(content))
    words = ["run=r", "videos.input=v", "respond.pool.max_size=2"]
    config = load_config(GeneratePairsConfig, str(file), words)
    assert (config.seed, config.respond.model, config.respond.pool.max_size) == (3, "file", 2)


@pytest.mark.parametrize(
    ("model", "words", "message"),
    [
        (GeneratePairsConfig, [*PAIRS, "respond.pool.maxsize=2"], "respond.pool.maxsize: no such"),
        (GeneratePairsConfig, [*PAIRS, "respond.pool.maxsize=2"], "min_size, max_size"),
        (GeneratePairsConfig, PAIRS[1:], "run: missing"),
        (GeneratePairsConfig, ["run=s3://b/a run", *PAIRS[1:]], "cannot contain spaces"),
        (GeneratePairsConfig, [*PAIRS, "respond.pool.min_size=3"], "raise max_size"),
        (GeneratePairsConfig, [*PAIRS, "seed"], "written key=value"),
        (GeneratePairsConfig, [*PAIRS, "respond.engine.tensor_parallel_size=2"], "is 1: raise it"),
        (GeneratePairsConfig, [*PAIRS, "run.x=1"], "run is a value"),
        (GeneratePairsConfig, [*PAIRS, "respond.frames.min_frames=3"], "even"),
        (GeneratePairsConfig, [*PAIRS, "respond.model=builtin:gpt"], "there are builtin:qwen2_5"),
        (TrainConfig, ["run=r", "model=m"], "needs sft.data"),
        (TrainConfig, [*ALIGN, "align.pairs_per_step=3", "workers.count=2"], "multiple of workers"),
        (TrainConfig, [*ALIGN, "workers.gpus=0", "attention=flex"], "needs workers.gpus"),
        (TrainConfig, [*ALIGN, "align.curriculum={schedule: mixed, replay: 0.1}"], "no effect"),
        (ServeConfig, ["models=[]"], "at least one entry"),
        (ServeConfig, ["models=[{name: a, path: p}]", "device=cpu"], "kv_cache_bytes"),
        (EvaluateConfig, ["run=r", "questions=q"], "models: missing"),
        (MakeShapeworldConfig, ["output=o", "world.shots=[5,4]"], "[minimum, maximum]"),
        (PretrainConfig, ["output=s3://bucket/model"], "a local path is needed here, not a URI"),
    ],
)
def test_a_mistake_is_refused_with_its_fix(model: type, words: list[str], message: str) -> None:
    with pytest.raises(UserError) as caught:
        load_config(model, None, words)
    assert message in str(caught.value)


def test_a_missing_file_is_named() -> None:
    with pytest.raises(UserError, match=r"nowhere\.yaml: No such file"):
        load_config(TrainConfig, "nowhere.yaml", [])


@pytest.mark.parametrize("content", ["[1, 2]", "a: [", "train: 3"])
def test_a_file_that_is_no_config_is_refused(content: str, tmp_path: Path) -> None:
    file = tmp_path / "c.yaml"
    file.write_text(content)
    with pytest.raises(UserError, match=r"mapping of keys to values|not a YAML file"):
        load_config(TrainConfig, str(file), [], section="train")


def test_the_hash_follows_the_values() -> None:
    first, same, different = (
        load_config(GeneratePairsConfig, None, [*PAIRS, f"seed={seed}"]) for seed in (1, 1, 2)
    )
    assert first.hash() == same.hash() != different.hash()


def test_the_saved_config_is_read_back(tmp_path: Path) -> None:
    config = load_config(GeneratePairsConfig, None, PAIRS)
    file = tmp_path / "saved.yaml"
    file.write_text(config.to_yaml())
    assert load_config(GeneratePairsConfig, str(file), []) == config


def test_local_paths_are_absolute_and_names_of_models_stay() -> None:
    hub_name = "Qwen/Qwen2.5-VL-7B-Instruct"
    words = ["run=runs/x", "videos.input=s3://films/in", f"respond.model={hub_name}"]
    config = load_config(GeneratePairsConfig, None, words)
    assert config.run == str(Path("runs/x").absolute())
    normalised = load_config(GeneratePairsConfig, None, [*words, "run=runs/../runs/./x/"])
    assert normalised.run == config.run
    assert (config.videos.input, config.respond.model) == ("s3://films/in", hub_name)
    builtin = load_config(GeneratePairsConfig, None, [*words, "respond.model=builtin:qwen3_vl"])
    assert (Path(builtin.respond.model) / "config.json").is_file()


@pytest.mark.parametrize(
    ("model", "words", "key"),
    [
        (EvaluateConfig, ["run=r", "models=[m]", "questions=s3://b/q.jsonl"], "questions"),
        (MakeShapeworldConfig, ["output=s3://b/world"], "output"),
        (TrainConfig, [*ALIGN, "pairs=s3://b/pairs"], "pairs"),
    ],
)
def test_a_uri_stays_a_uri(model: type, words: list[str], key: str) -> None:
    assert getattr(load_config(model, None, words), key).startswith("s3://b/")
