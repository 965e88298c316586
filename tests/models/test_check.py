"""Folders that are not whole."""

from pathlib import Path
from shutil import copytree

import pytest
import torch
from safetensors.torch import load_file, save_file

from tempo_ray import shapeworld
from tempo_ray.models.check import NotAModel, check_model
from tempo_ray.models.vlm import load_model

MODEL = Path(shapeworld.__file__).parent / "models" / "qwen2_5_vl"


def test_weights_that_are_missing_are_not_drawn(tmp_path: Path) -> None:
    folder = copytree(MODEL, tmp_path / "model")
    weights = load_file(folder / "model.safetensors")
    some = {name: one for name, one in weights.items() if "layers.0.mlp" not in name}
    save_file(some, folder / "model.safetensors", {"format": "pt"})
    with pytest.raises(NotAModel, match="weights are missing or of another shape"):
        load_model(str(folder), torch.float32)


@pytest.mark.parametrize(
    ("file", "keep", "message"),
    [
        ("model.safetensors", 1000, "cut off"),
        ("model.safetensors", 0, "cut off"),
        ("model.safetensors", 4, "cut off"),
        ("model.safetensors", None, "no \\*.safetensors"),
        ("processor_config.json", None, "no processor"),
        ("tokenizer.json", None, "no tokenizer"),
    ],
)
def test_a_folder_that_is_not_whole_is_no_model(
    file: str, keep: int | None, message: str, tmp_path: Path
) -> None:
    folder = copytree(MODEL, tmp_path / "model")
    check_model(str(folder))
    if keep is None:
        (folder / file).unlink()
    else:
        (folder / file).write_bytes((folder / file).read_bytes()[:keep])
    with pytest.raises(NotAModel, match=message):
        check_model(str(folder))
