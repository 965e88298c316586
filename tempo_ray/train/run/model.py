"""The results of a recipe's stages -> the run's model: merged weights, card, curves and record.

Tested in tests/integration/test_train.py.
"""

import json
import shutil
from collections.abc import Sequence

from tempo_ray.config import TrainConfig
from tempo_ray.paths import RunPaths
from tempo_ray.records import StageResult, StepMetrics
from tempo_ray.storage import (
    delete_local_copy,
    join,
    list_files,
    local_copy,
    publish,
    read_bytes,
    staging_folder,
)
from tempo_ray.train.run.model_card import draw_curves, model_card


def write_model(config: TrainConfig, stages: Sequence[StageResult]) -> None:
    """The merged model of the last stage, with its card and record, as the run's model."""
    paths = RunPaths(config.run)
    merged = join(paths.stage(stages[-1].name), "merged")
    digests = {stage.name: stage.digest for stage in stages}
    record = {"base": config.model, "recipe": config.recipe, "stages": digests}
    record_json = json.dumps(record, indent=1) + "\n"
    if _is_written(paths.model, merged, record_json):
        return
    staging = staging_folder(paths.model)
    shutil.copytree(local_copy(merged), staging, dirs_exist_ok=True)
    delete_local_copy(merged)
    (staging / "training.json").write_text(record_json)
    (staging / "README.md").write_text(model_card(config, stages))
    histories = {stage.name: _read_history(paths.stage(stage.name)) for stage in stages}
    draw_curves(histories, staging / "curves.png")
    publish(staging, paths.model)


def _is_written(model: str, merged: str, record_json: str) -> bool:
    """Whether the run's model has this record and the weights of the merged model."""
    files = list_files(model)
    if "training.json" not in files:
        return False
    if read_bytes(join(model, "training.json")).decode() != record_json:
        return False
    weights = {
        name: size for name, size in list_files(merged).items() if name.endswith(".safetensors")
    }
    return weights.items() <= files.items()


def _read_history(stage_folder: str) -> list[StepMetrics]:
    lines = read_bytes(join(stage_folder, "history.jsonl")).decode().splitlines()
    return [json.loads(line) for line in lines]
