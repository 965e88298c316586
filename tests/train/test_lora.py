import re
from pathlib import Path

import pytest
import torch

from tempo_ray.config import LoraConfig
from tempo_ray.models.vlm import load_model, load_processor
from tempo_ray.shapeworld.build import FAMILIES
from tempo_ray.train.lora import LANGUAGE, VISION, add_adapter, open_weights, save_merged


@pytest.mark.parametrize("family", FAMILIES)
def test_the_targets_are_all_linear_layers_and_nothing_else(family: str, models: dict[str, Path]) -> None:
    model = load_model(str(models[family]), torch.float32)
    for name, module in model.named_modules():
        linear = isinstance(module, torch.nn.Linear) and name != "lm_head"
        assert bool(re.fullmatch(LANGUAGE, name)) == (linear and "language_model" in name), name
        assert bool(re.fullmatch(VISION, name)) == (linear and "visual" in name), name


@pytest.mark.parametrize("train_vision", [False, True])
def test_merged_equals_adapted(train_vision: bool, models: dict[str, Path], tmp_path: Path) -> None:
    source, lora = str(models["qwen2_5_vl"]), LoraConfig(rank=4, alpha=8)
    adapted = add_adapter(load_model(source, torch.float32), lora, 3, train_vision)
    torch.manual_seed(0)
    trained = {name: one for name, one in adapted.get_base_model().named_parameters() if one.requires_grad}
    assert any("visual" in name for name in trained) == train_vision
    for one in trained.values():
        one.data.normal_(std=0.05)
    save_merged(source, trained, lora, torch.float32, tmp_path, load_processor(source))
    merged = load_model(str(tmp_path / "merged"), torch.float32)
    ids = torch.arange(10, 30)[None]
    with torch.no_grad():
        want, got, before = (one(input_ids=ids).logits for one in (adapted, merged, load_model(source, torch.float32)))
    assert torch.allclose(want, got, atol=1e-5)
    assert not torch.allclose(before, got, atol=1e-2)
    assert merged.config.dtype == torch.float32
    assert load_processor(str(tmp_path / "merged")).tokenizer.eos_token == "<|im_end|>"
    assert (tmp_path / "merged" / "tempo_ray.json").is_file()
    assert (tmp_path / "merged" / "generation_config.json").is_file()
    assert (tmp_path / "adapter" / "adapter_config.json").is_file()


def test_full_training_leaves_the_vision_tower(models: dict[str, Path], tmp_path: Path) -> None:
    source = str(models["qwen2_5_vl"])
    model = load_model(source, torch.float32)
    open_weights(model)
    trained = {name: one for name, one in model.named_parameters() if one.requires_grad}
    assert trained
    assert not any("visual" in name for name in trained)
    for one in trained.values():
        one.data += 1.0
    save_merged(source, trained, None, torch.bfloat16, tmp_path, load_processor(source))
    merged = load_model(str(tmp_path / "merged"), torch.bfloat16)
    for name, one in model.named_parameters():
        assert torch.equal(dict(merged.named_parameters())[name], one.to(torch.bfloat16)), name
    assert not (tmp_path / "adapter").exists()


def test_weights_without_a_place_are_refused(models: dict[str, Path], tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="have no place"):
        save_merged(str(models["qwen2_5_vl"]), {"other.weight": torch.ones(1)}, None, torch.float32, tmp_path, None)
