"""Incomplete model folders are refused, and models are told apart without reading weights."""

from pathlib import Path
from shutil import copytree

import pytest
from safetensors.torch import load_file, save_file

from tempo_ray import shapeworld
from tempo_ray.errors import UserError
from tempo_ray.models.check import (
    InvalidModel,
    check_model,
    identity,
    prompts_name,
    weight_bytes,
)

MODEL = Path(shapeworld.__file__).parent / "models" / "qwen2_5_vl"


@pytest.mark.parametrize(
    ("file", "keep", "message"),
    [
        ("model.safetensors", 1000, "cut off"),
        ("model.safetensors", 0, "cut off"),
        ("model.safetensors", 4, "cut off"),
        ("model.safetensors", None, "no \\*.safetensors"),
        ("processor_config.json", None, "no processor"),
        ("tokenizer.json", None, "no tokenizer"),
        ("config.json", None, "no config.json"),
        ("config.json", 20, "not a model config"),
    ],
)
def test_an_incomplete_folder_is_refused(
    file: str, keep: int | None, message: str, tmp_path: Path
) -> None:
    folder = copytree(MODEL, tmp_path / "model")
    check_model(str(folder))
    if keep is None:
        (folder / file).unlink()
    else:
        (folder / file).write_bytes((folder / file).read_bytes()[:keep])
    with pytest.raises(InvalidModel, match=message):
        check_model(str(folder))


def test_an_unsupported_model_type_is_refused_with_its_path(tmp_path: Path) -> None:
    folder = copytree(MODEL, tmp_path / "model")
    (folder / "config.json").write_text('{"model_type": "llava"}')
    with pytest.raises(InvalidModel, match=f"{folder}: model_type llava is not supported; use"):
        check_model(str(folder))


def test_a_folder_that_does_not_exist_is_a_mistake_of_the_user(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no such folder; name a model folder"):
        check_model(str(tmp_path / "nowhere"))


def test_a_header_that_is_other_json_is_not_a_safetensors_file(tmp_path: Path) -> None:
    folder = copytree(MODEL, tmp_path / "model")
    header = b'{"a": 1}'
    file = folder / "model.safetensors"
    file.write_bytes(len(header).to_bytes(8, "little") + header)
    with pytest.raises(InvalidModel, match="not a safetensors file"):
        check_model(str(folder))


def test_the_identity_changes_with_config_and_training_but_not_with_the_folder(
    tmp_path: Path,
) -> None:
    folder = copytree(MODEL, tmp_path / "model")
    first = identity(str(folder))
    assert first == identity(str(MODEL))
    (folder / "training.json").write_text("{}")
    second = identity(str(folder))
    assert second != first
    weights = load_file(folder / "model.safetensors")
    del weights[sorted(weights)[0]]
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    assert identity(str(folder)) not in (first, second)
    assert identity("owner/name") == "owner/name"


def test_bytes_and_prompts_are_read_from_the_folder(tmp_path: Path) -> None:
    assert weight_bytes(str(MODEL)) == (MODEL / "model.safetensors").stat().st_size
    assert weight_bytes("owner/name") == 0
    assert prompts_name(str(MODEL)) == "shapeworld"
    assert prompts_name(str(tmp_path)) == "default"
