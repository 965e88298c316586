"""Pre-training weighs answers as it should, is recorded, and resumes as if never interrupted."""

import json
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from tempo_ray import shapeworld
from tempo_ray.records import read_row
from tempo_ray.shapeworld import batches, pretrain
from tempo_ray.shapeworld.build import FAMILIES, ModelType
from tempo_ray.shapeworld.record import RECORD_FILE, PretrainRecord, PretrainSettings
from tempo_ray.shapeworld.tasks import MIX

SHIPPED = Path(shapeworld.__file__).parent / "models"


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    """On a busy machine, two threads take ten times as long for tensors as small as these."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def test_a_token_of_a_long_answer_weighs_less() -> None:
    labels = torch.full((2, 6), batches.IGNORE)
    labels[0, 2:6] = 1
    labels[1, 5] = 1
    weights = batches.answer_weights(labels)
    assert weights.tolist() == [[0, 0.5, 0.5, 0.5, 0.5], [0, 0, 0, 0, 1]]


@pytest.mark.parametrize("family", FAMILIES)
def test_the_shipped_record_is_of_todays_settings_and_mix(family: ModelType) -> None:
    row = json.loads((SHIPPED / family / RECORD_FILE).read_text())
    record = read_row(PretrainRecord, row)
    assert record.settings == PretrainSettings(family)
    assert record.mix == MIX
    assert record.examination is not None
    assert list(row) == [field.name for field in fields(PretrainRecord)]


@pytest.mark.slow
@pytest.mark.parametrize("family", FAMILIES)
def test_an_interrupted_run_ends_with_the_same_weights(family: ModelType, tmp_path: Path) -> None:
    settings = PretrainSettings(
        family,
        vision_steps=1,
        vision_batch=4,
        steps=4,
        single_shot_steps=1,
        batch=4,
        micro_batches=2,
        save_every=2,
    )
    whole, halves = tmp_path / "whole", tmp_path / "halves"
    pretrain.pretrain(settings, whole, lambda line: None)

    class Killed(Exception): ...

    def save_then_die(state: dict[str, object], file: Path) -> None:
        torch_save(state, file)
        file.rename(file.with_suffix(".pt"))
        raise Killed

    torch_save = torch.save
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch, "save", save_then_die)
        with pytest.raises(Killed):
            pretrain.pretrain(settings, halves, lambda line: None)
    lines: list[str] = []
    pretrain.pretrain(settings, halves, lines.append)
    assert lines == ["resumes after step 2"]
    weights, resumed = (load_file(folder / "model.safetensors") for folder in (whole, halves))
    assert weights.keys() == resumed.keys()
    assert all(torch.equal(weights[name], resumed[name]) for name in weights)
