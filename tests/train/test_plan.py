import json
import re
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tempo_ray.arguments import load_config
from tempo_ray.config import TrainConfig
from tempo_ray.job import BadInput
from tempo_ray.schema import PAIR
from tempo_ray.train.curriculum import Pair, make_stage
from tempo_ray.train.plan import digest, idle, make_plan, resolved


def config_of(folder: Path, model: Path, *words: str) -> TrainConfig:
    """A run with two pairs of strength 8, one of 4, and one conversation."""
    (folder / "pairs").mkdir(exist_ok=True)
    rows = [
        {"uri": "v", "prompt": "p", "chosen": "c", "rejected": text, "strength": r} for text, r in (("a", 8), ("b", 8), ("c", 4))
    ]
    pq.write_table(pa.Table.from_pylist(rows, schema=PAIR), folder / "pairs" / "0.parquet")
    turns = [{"from": "human", "value": "<video>?"}, {"from": "gpt", "value": "!"}]
    (folder / "data.json").write_text(json.dumps([{"video": "v", "conversations": turns}]))
    given = [f"run={folder / 'run'}", f"model={model}", f"pairs={folder / 'pairs'}", f"sft.data={folder / 'data.json'}"]
    return resolved(load_config(TrainConfig, None, [*given, "align.curriculum.strengths=[8,4]", *words]))


@pytest.mark.parametrize(
    ("recipe", "names"),
    [("pre_sft", ["align-8", "sft"]), ("post_sft", ["sft", "align-8"]), ("align", ["align-8"]), ("sft", ["sft"])],
)
def test_recipes(recipe: str, names: list[str], models: dict[str, Path], tmp_path: Path) -> None:
    plan = make_plan(config_of(tmp_path, models["qwen2_5_vl"], f"recipe={recipe}"))
    assert [stage.name for stage in plan.stages] == names, "a stage without usable pairs is left out"
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
def test_mistakes_are_named(word: str, message: str, models: dict[str, Path], tmp_path: Path) -> None:
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
    stage = make_plan(config).stages[0]
    same = config_of(tmp_path, models["qwen2_5_vl"], "sft.batch=32", "save_every_steps=7", "workers.count=4")
    other = config_of(tmp_path, models["qwen2_5_vl"], "align.loss.beta=0.2")
    assert digest(config, stage, "m") == digest(same, stage, "m")
    assert len({digest(config, stage, "m"), digest(config, stage, "n"), digest(other, stage, "m")}) == 3


def test_a_batch_that_leaves_workers_without_a_group_is_named(models: dict[str, Path], tmp_path: Path) -> None:
    stage = make_stage("align-16", [Pair(f"{one // 3}", "?", "a", f"{one}", 16, None) for one in range(360)])
    config = config_of(tmp_path, models["qwen2_5_vl"], "workers.count=8", "workers.cpus=1", "align.batch=16", "sft.batch=16")
    line = idle(config, stage)
    assert line is not None
    assert re.search(r"^align-16: 3[0-9]% .*align.batch=24 would keep all 8", line)
    assert idle(config.model_copy(update={"align": config.align.model_copy(update={"batch": 24})}), stage) is None
