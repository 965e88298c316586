"""Recipes, the mistakes that a plan names, and which stages are finished."""

import json
import re
from pathlib import Path
from shutil import copytree
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tempo_ray.config import TrainConfig
from tempo_ray.errors import UserError
from tempo_ray.models.check import identity
from tempo_ray.paths import RunPaths
from tempo_ray.records import StageResult, StageSpec, write_row
from tempo_ray.schema import PAIR, SCHEMA_VERSION, with_metadata
from tempo_ray.train.curriculum import make_stage
from tempo_ray.train.pairs import TrainingPair, read_pairs
from tempo_ray.train.run.plan import advise_step_size, finished_stages, make_plan
from tests.train.stages import config_of


def make_config(folder: Path, model: Path, *words: str) -> TrainConfig:
    """A run with two pairs of strength 8, one of 4, and one conversation."""
    (folder / "pairs").mkdir(exist_ok=True)
    rows = [
        {"uri": "v", "prompt": "p", "chosen": "c", "rejected": text, "strength": strength}
        for text, strength in (("a", 8), ("b", 8), ("c", 4))
    ]
    pq.write_table(pa.Table.from_pylist(rows, schema=PAIR), folder / "pairs" / "0.parquet")
    turns = [{"from": "human", "value": "<video>?"}, {"from": "gpt", "value": "!"}]
    (folder / "data.json").write_text(json.dumps([{"video": "v", "conversations": turns}]))
    inputs = [
        f"run={folder / 'run'}",
        f"model={model}",
        f"pairs={folder / 'pairs'}",
        f"sft.data={folder / 'data.json'}",
    ]
    return config_of([*inputs, "align.curriculum.strengths=[8,4]", *words])


def digests(config: TrainConfig) -> list[str]:
    return [stage.digest for stage in make_plan(config).stages]


@pytest.mark.parametrize(
    ("recipe", "names"),
    [
        ("pre_sft", ["align-8", "sft"]),
        ("post_sft", ["sft", "align-8"]),
        ("align", ["align-8"]),
        ("sft", ["sft"]),
    ],
)
def test_recipes(recipe: str, names: list[str], models: dict[str, Path], tmp_path: Path) -> None:
    plan = make_plan(make_config(tmp_path, models["qwen2_5_vl"], f"recipe={recipe}"))
    assert [stage.name for stage in plan.stages] == names, (
        "a stage without usable pairs is left out"
    )
    assert [stage.number for stage in plan.stages] == list(range(len(names)))
    if recipe != "sft":
        assert plan.left_out == {"no_stage": 0, "identical": 1, "duplicated": 0}


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("pairs=/nowhere", "no such folder of pairs"),
        ("model=/nowhere", "no such folder"),
        ("sft.data=/nowhere.json", "no such file"),
        ("deepspeed.zero_stage=0", "no float32 copy"),
        ("align.curriculum.adaptive={}", "too few to hold out 1"),
        ("trackers=[mlflow]", "pip install mlflow"),
        ("align.curriculum.strengths=[2]", "has one of align.curriculum.strengths"),
    ],
)
def test_mistakes_are_named(
    word: str, message: str, models: dict[str, Path], tmp_path: Path
) -> None:
    with pytest.raises(UserError, match=message):
        make_plan(make_config(tmp_path, models["qwen2_5_vl"], word))


def test_files_that_are_not_pairs_are_refused(models: dict[str, Path], tmp_path: Path) -> None:
    config = make_config(tmp_path, models["qwen2_5_vl"])
    (tmp_path / "pairs" / "0.parquet").write_text("no parquet")
    with pytest.raises(UserError, match="not Parquet files of pairs"):
        make_plan(config)
    pq.write_table(PAIR.empty_table(), tmp_path / "pairs" / "0.parquet")
    with pytest.raises(UserError, match="no pairs in it"):
        make_plan(config)


def test_pairs_of_another_schema_version_are_refused(
    models: dict[str, Path], tmp_path: Path
) -> None:
    config = make_config(tmp_path, models["qwen2_5_vl"])
    file = tmp_path / "pairs" / "0.parquet"
    metadata = with_metadata(PAIR, "").metadata
    table = pq.read_table(file)
    pq.write_table(table.replace_schema_metadata(metadata), file)
    make_plan(config)
    metadata[b"tempo_ray.schema_version"] = b"2"
    pq.write_table(table.replace_schema_metadata(metadata), file)
    with pytest.raises(UserError, match=f"schema version 2 .* version {SCHEMA_VERSION}"):
        make_plan(config)


def test_settings_that_change_the_model_change_the_digest(
    models: dict[str, Path], tmp_path: Path
) -> None:
    model = models["qwen2_5_vl"]
    base = digests(make_config(tmp_path, model))
    how_it_runs = ("deepspeed.zero_stage=2", "checkpoint_every_steps=7", "workers.count=4")
    assert digests(make_config(tmp_path, model, *how_it_runs)) == base
    assert digests(make_config(tmp_path, copytree(model, tmp_path / "copy"))) == base
    changed = digests(make_config(tmp_path, model, "align.loss.beta=0.2"))
    assert not set(base) & set(changed), "a stage depends on the stages before it"


def test_other_data_of_the_same_size_change_the_digest(
    models: dict[str, Path], tmp_path: Path
) -> None:
    config = make_config(tmp_path, models["qwen2_5_vl"])
    before = digests(config)
    file = tmp_path / "pairs" / "0.parquet"
    rows = [row | {"rejected": f"{row['rejected']}!"} for row in pq.read_table(file).to_pylist()]
    pq.write_table(pa.Table.from_pylist(rows, schema=PAIR), file)
    assert not set(before) & set(digests(config))


def test_a_model_that_was_trained_again_has_another_identity(
    models: dict[str, Path], tmp_path: Path
) -> None:
    model = copytree(models["qwen2_5_vl"], tmp_path / "copy")
    before = identity(str(model))
    (model / "training.json").write_text('{"stages": {"align-8": "0"}}')
    assert identity(str(model)) != before


def stage_result(stage: StageSpec) -> StageResult:
    return StageResult(
        schema_version=SCHEMA_VERSION,
        name=stage.name,
        objective=stage.objective,
        digest=stage.digest,
        start="model",
        examples=1,
        pairs=2,
        videos=1,
        steps=3,
        planned_steps=3,
        skipped={"missing": 1},
        first={"step": 1, "loss": 0.7},
        last={"step": 3, "loss": 0.6},
        training_seconds=1.0,
        start_seconds=1.0,
        seconds=2.0,
        workers=2,
        hardware="CPU",
        zero_stage=3,
        dtype="float32",
        versions={"torch": "2"},
    )


def write_stage_json(config: TrainConfig, stage: StageSpec, facts: dict[str, Any]) -> Path:
    folder = Path(RunPaths(config.run).stage(stage.name))
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "stage.json").write_text(json.dumps(facts))
    return folder


def test_finished_stages_are_read_and_other_settings_are_refused(
    models: dict[str, Path], tmp_path: Path
) -> None:
    config = make_config(tmp_path, models["qwen2_5_vl"])
    stages = make_plan(config).stages
    assert finished_stages(config, stages) == [None, None]
    results = [stage_result(stage) for stage in stages]
    folders = [
        write_stage_json(config, stage, write_row(result))
        for stage, result in zip(stages, results, strict=True)
    ]
    assert finished_stages(config, stages) == results
    changed = make_config(tmp_path, models["qwen2_5_vl"], "align.loss.beta=0.2")
    named = f"{folders[0]} and {folders[1]} were trained with other settings"
    with pytest.raises(UserError, match=named):
        finished_stages(changed, make_plan(changed).stages)


@pytest.mark.parametrize("version", [None, "2"])
def test_a_stage_of_another_release_is_refused(
    version: str | None, models: dict[str, Path], tmp_path: Path
) -> None:
    config = make_config(tmp_path, models["qwen2_5_vl"])
    stages = make_plan(config).stages
    facts = {"digest": stages[0].digest} | ({"schema_version": version} if version else {})
    write_stage_json(config, stages[0], facts)
    with pytest.raises(UserError, match=r"stage\.json was written .* choose another run="):
        finished_stages(config, stages)


@pytest.mark.parametrize(
    ("column", "values", "message"),
    [
        ("rejected", ["a", None, "c"], "1 of 3 pairs have no rejected, for example row 1"),
        ("chosen", ["", "b", ""], "2 of 3 pairs have no chosen, for example row 0"),
        ("chosen", [[{"role": "assistant", "content": "c"}]] * 3, "column chosen is list"),
        ("order_distance", ["far", "near", "near"], "column order_distance is string, not double"),
        ("strength", None, "no column strength"),
    ],
)
def test_bad_columns_of_pairs_are_named(
    column: str, values: list[Any] | None, message: str, models: dict[str, Path], tmp_path: Path
) -> None:
    config = make_config(tmp_path, models["qwen2_5_vl"])
    file = tmp_path / "pairs" / "0.parquet"
    table = pq.read_table(file).drop_columns([column])
    if values is not None:
        table = table.append_column(column, pa.array(values))
    pq.write_table(table, file)
    with pytest.raises(UserError, match=message):
        make_plan(config)


def test_locations_that_cannot_be_read_are_named(models: dict[str, Path], tmp_path: Path) -> None:
    for word in (f"sft.data={tmp_path}", "sft.data=nowhere://x", "pairs=nowhere://x"):
        with pytest.raises(UserError, match=r"cannot be read|not Parquet"):
            make_plan(make_config(tmp_path, models["qwen2_5_vl"], word))
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="no Parquet files in it"):
        make_plan(make_config(tmp_path, models["qwen2_5_vl"], f"pairs={tmp_path / 'empty'}"))


def test_a_step_size_that_leaves_workers_idle_is_named(
    models: dict[str, Path], tmp_path: Path
) -> None:
    stage = make_stage(
        "align-16",
        [TrainingPair(f"{number // 3}", "?", "a", f"{number}", 16, None) for number in range(360)],
    )
    words = ("workers.count=8", "workers.cpus=1", "sft.conversations_per_step=16")
    model = models["qwen2_5_vl"]
    config = make_config(tmp_path, model, *words, "align.pairs_per_step=16")
    advice = advise_step_size(config, stage)
    assert advice is not None
    assert re.search(r"^align-16: .* 3[0-9]% .*align.pairs_per_step=24 would keep all 8", advice)
    config = make_config(tmp_path, model, *words, "align.pairs_per_step=24")
    assert advise_step_size(config, stage) is None


def test_pairs_of_several_folders_are_in_one_order_whatever_their_files(tmp_path: Path) -> None:
    rows = [
        {"uri": uri, "prompt": "p", "chosen": "c", "rejected": text, "strength": strength}
        for uri in ("v", "w")
        for text in "ab"
        for strength in (4, 8)
    ]
    for name, part in (("one", rows[:3]), ("two", rows[3:]), ("all", rows[::-1])):
        (tmp_path / name).mkdir()
        table = pa.Table.from_pylist(part, schema=PAIR)
        pq.write_table(table, tmp_path / name / "0.parquet")
    pairs = read_pairs(str(tmp_path / "two"), str(tmp_path / "one"))
    assert pairs == read_pairs(str(tmp_path / "all"))
    assert [(pair.uri, pair.strength, pair.rejected) for pair in pairs[:3]] == [
        ("v", 8, "a"),
        ("v", 8, "b"),
        ("v", 4, "a"),
    ]
