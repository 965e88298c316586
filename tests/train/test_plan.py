import json
import re
from pathlib import Path
from shutil import copytree
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tempo_ray.arguments import load_config
from tempo_ray.config import TrainConfig
from tempo_ray.job import BadInput
from tempo_ray.models.check import identity
from tempo_ray.paths import RunPaths
from tempo_ray.schema import PAIR
from tempo_ray.train.curriculum import Pair, make_stage
from tempo_ray.train.plan import digests, finished, idle, make_plan, resolved


def config_of(folder: Path, model: Path, *words: str) -> TrainConfig:
    """A run with two pairs of strength 8, one of 4, and one conversation."""
    (folder / "pairs").mkdir(exist_ok=True)
    rows = [
        {"uri": "v", "prompt": "p", "chosen": "c", "rejected": text, "strength": r}
        for text, r in (("a", 8), ("b", 8), ("c", 4))
    ]
    pq.write_table(pa.Table.from_pylist(rows, schema=PAIR), folder / "pairs" / "0.parquet")
    turns = [{"from": "human", "value": "<video>?"}, {"from": "gpt", "value": "!"}]
    (folder / "data.json").write_text(json.dumps([{"video": "v", "conversations": turns}]))
    given = [
        f"run={folder / 'run'}",
        f"model={model}",
        f"pairs={folder / 'pairs'}",
        f"sft.data={folder / 'data.json'}",
    ]
    return resolved(
        load_config(TrainConfig, None, [*given, "align.curriculum.strengths=[8,4]", *words])
    )


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
    plan = make_plan(config_of(tmp_path, models["qwen2_5_vl"], f"recipe={recipe}"))
    assert [stage.name for stage in plan.stages] == names, (
        "a stage without usable pairs is left out"
    )
    if recipe != "sft":
        assert plan.left_out == {"no_stage": 0, "identical": 1, "duplicated": 0}


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("pairs=/nowhere", "no such folder of pairs"),
        ("model=/nowhere", "no such folder"),
        ("sft.data=/nowhere.json", "no such file"),
        ("deepspeed.zero_stage=0", "no float32 copy"),
        ("align.curriculum.adaptive={}", "too few to hold 1 of them out"),
        ("trackers=[mlflow]", "pip install mlflow"),
        ("align.curriculum.strengths=[2]", "has one of align.curriculum.strengths"),
    ],
)
def test_mistakes_are_named(
    word: str, message: str, models: dict[str, Path], tmp_path: Path
) -> None:
    with pytest.raises(BadInput, match=message):
        make_plan(config_of(tmp_path, models["qwen2_5_vl"], word))


def test_files_that_are_no_pairs(models: dict[str, Path], tmp_path: Path) -> None:
    config = config_of(tmp_path, models["qwen2_5_vl"])
    (tmp_path / "pairs" / "0.parquet").write_text("no parquet")
    with pytest.raises(BadInput, match="not Parquet files of pairs"):
        make_plan(config)
    pq.write_table(PAIR.empty_table(), tmp_path / "pairs" / "0.parquet")
    with pytest.raises(BadInput, match="no pairs in it"):
        make_plan(config)


def test_another_stage_has_another_digest(models: dict[str, Path], tmp_path: Path) -> None:
    config = config_of(tmp_path, models["qwen2_5_vl"])
    stages = make_plan(config).stages
    same = config_of(
        tmp_path,
        models["qwen2_5_vl"],
        "deepspeed.zero_stage=2",
        "save_every_steps=7",
        "workers.count=4",
    )
    other = config_of(tmp_path, models["qwen2_5_vl"], "align.loss.beta=0.2")
    elsewhere = config_of(tmp_path, copytree(models["qwen2_5_vl"], tmp_path / "copy"))
    assert digests(config, stages) == digests(same, stages) == digests(elsewhere, stages)
    assert not set(digests(config, stages)) & set(digests(other, stages)), (
        "a stage is what those before it were, too"
    )


def test_other_data_of_the_same_size_is_another_stage(
    models: dict[str, Path], tmp_path: Path
) -> None:
    config = config_of(tmp_path, models["qwen2_5_vl"])
    before = digests(config, make_plan(config).stages)
    file = tmp_path / "pairs" / "0.parquet"
    rows = pq.read_table(file).to_pylist()
    pq.write_table(
        pa.Table.from_pylist(
            [row | {"rejected": f"{row['rejected']}!"} for row in rows], schema=PAIR
        ),
        file,
    )
    assert not set(before) & set(digests(config, make_plan(config).stages))


def test_a_model_that_was_trained_anew_is_another(models: dict[str, Path], tmp_path: Path) -> None:
    model = copytree(models["qwen2_5_vl"], tmp_path / "copy")
    before = identity(str(model))
    (model / "training.json").write_text('{"stages": {"align-8": "0"}}')
    assert identity(str(model)) != before


def test_all_stages_that_others_trained_are_named(models: dict[str, Path], tmp_path: Path) -> None:
    config = config_of(tmp_path, models["qwen2_5_vl"])
    stages = make_plan(config).stages
    folders = [Path(RunPaths(config.run).stage(stage.name)) for stage in stages]
    assert finished(config, stages) == [None, None]
    for folder, digest in zip(folders, digests(config, stages), strict=True):
        folder.mkdir(parents=True)
        (folder / "stage.json").write_text(json.dumps({"digest": digest}))
    assert all(finished(config, stages))
    with pytest.raises(
        BadInput, match=f"{folders[0]} and {folders[1]} were trained with other settings"
    ):
        finished(config_of(tmp_path, models["qwen2_5_vl"], "align.loss.beta=0.2"), stages)


@pytest.mark.parametrize(
    ("column", "values", "message"),
    [
        ("rejected", ["a", None, "c"], "1 of 3 pairs have no rejected, row 1 for one"),
        ("chosen", ["", "b", ""], "2 of 3 pairs have no chosen, row 0 for one"),
        ("chosen", [[{"role": "assistant", "content": "c"}]] * 3, "column chosen is list"),
        ("order_distance", ["far", "near", "near"], "column order_distance is string, not double"),
        ("strength", None, "no column strength"),
    ],
)
def test_bad_columns_of_pairs(
    column: str, values: list[Any] | None, message: str, models: dict[str, Path], tmp_path: Path
) -> None:
    config = config_of(tmp_path, models["qwen2_5_vl"])
    table = pq.read_table(tmp_path / "pairs" / "0.parquet").drop_columns([column])
    pq.write_table(
        table if values is None else table.append_column(column, pa.array(values)),
        tmp_path / "pairs" / "0.parquet",
    )
    with pytest.raises(BadInput, match=message):
        make_plan(config)


def test_places_that_cannot_be_read(models: dict[str, Path], tmp_path: Path) -> None:
    for word in (f"sft.data={tmp_path}", "sft.data=nowhere://x", "pairs=nowhere://x"):
        with pytest.raises(BadInput, match=r"cannot be read|not Parquet"):
            make_plan(config_of(tmp_path, models["qwen2_5_vl"], word))
    (tmp_path / "empty").mkdir()
    with pytest.raises(BadInput, match="no Parquet files in it"):
        make_plan(config_of(tmp_path, models["qwen2_5_vl"], f"pairs={tmp_path / 'empty'}"))


def test_a_batch_that_leaves_workers_without_a_group_is_named(
    models: dict[str, Path], tmp_path: Path
) -> None:
    stage = make_stage(
        "align-16", [Pair(f"{one // 3}", "?", "a", f"{one}", 16, None) for one in range(360)]
    )
    config = config_of(
        tmp_path,
        models["qwen2_5_vl"],
        "workers.count=8",
        "workers.cpus=1",
        "align.batch=16",
        "sft.batch=16",
    )
    line = idle(config, stage)
    assert line is not None
    assert re.search(r"^align-16: 3[0-9]% .*align.batch=24 would keep all 8", line)
    assert (
        idle(
            config.model_copy(update={"align": config.align.model_copy(update={"batch": 24})}),
            stage,
        )
        is None
    )
