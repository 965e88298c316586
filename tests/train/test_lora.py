import re
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel

from tempo_ray.config import FramesConfig, LoraConfig
from tempo_ray.models.vlm import load_model, load_model_config, load_processor
from tempo_ray.shapeworld.build import FAMILIES
from tempo_ray.train.attention import use_packed_attention
from tempo_ray.train.batch import pack, read_group
from tempo_ray.train.curriculum import Group
from tempo_ray.train.lora import LANGUAGE, VISION, add_adapter, open_weights, save_merged
from tempo_ray.train.score import Scorer


@pytest.mark.parametrize("family", FAMILIES)
def test_the_targets_are_all_linear_layers_and_nothing_else(
    family: str, models: dict[str, Path]
) -> None:
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
    trained = {
        name: one for name, one in adapted.get_base_model().named_parameters() if one.requires_grad
    }
    assert any("visual" in name for name in trained) == train_vision
    for one in trained.values():
        one.data.normal_(std=0.05)
    save_merged(source, trained, lora, torch.float32, tmp_path, load_processor(source))
    merged = load_model(str(tmp_path / "merged"), torch.float32)
    ids = torch.arange(10, 30)[None]
    with torch.no_grad():
        want, got, before = (
            one(input_ids=ids).logits
            for one in (adapted, merged, load_model(source, torch.float32))
        )
    assert torch.allclose(want, got, atol=1e-5)
    assert not torch.allclose(before, got, atol=1e-2)
    assert merged.config.dtype == torch.float32
    assert load_processor(str(tmp_path / "merged")).tokenizer.eos_token == "<|im_end|>"
    assert (tmp_path / "merged" / "tempo_ray.json").is_file()
    assert (tmp_path / "merged" / "generation_config.json").is_file()
    assert (tmp_path / "adapter" / "adapter_config.json").is_file()


@pytest.mark.parametrize("family", FAMILIES)
def test_merged_and_adapter_answer_alike_on_videos_in_bfloat16(
    family: str, models: dict[str, Path], videos: list[str], tmp_path: Path
) -> None:
    """The merged weights, the adapter that lies beside them loaded by stock PEFT, and what was trained: one model."""
    source, processor = str(models[family]), load_processor(str(models[family]))
    config = load_model_config(source)
    adapted = add_adapter(load_model(source, torch.bfloat16), LoraConfig(rank=4, alpha=8), 3)
    torch.manual_seed(0)
    trained = {
        name: one for name, one in adapted.get_base_model().named_parameters() if one.requires_grad
    }
    for one in trained.values():
        one.data.normal_(std=0.02)
    save_merged(source, trained, LoraConfig(rank=4, alpha=8), torch.bfloat16, tmp_path, processor)
    groups = [
        Group(video, (None, "What happens?"), "A red circle moves left.", ("No.",))
        for video in videos
    ]
    batch = pack(
        [
            one
            for group in groups
            for one in read_group(processor, config, group, FramesConfig(), 4096)
        ]
    )

    @torch.no_grad()
    def logps(model: Any) -> torch.Tensor:
        use_packed_attention(model, "sdpa")
        return Scorer(model)(batch.inputs, batch.source, batch.target)[0]

    stock = PeftModel.from_pretrained(
        load_model(source, torch.bfloat16), str(tmp_path / "adapter"), autocast_adapter_dtype=False
    ).get_base_model()
    want = logps(adapted.get_base_model())
    assert torch.equal(logps(stock), want)
    got, before = (
        logps(load_model(str(tmp_path / "merged"), torch.bfloat16)),
        logps(load_model(source, torch.bfloat16)),
    )
    assert (got - want).abs().max() < 0.1, "a bfloat16 log-prob near -7 is rounded to 1/32"
    assert (before - want).abs().mean() > 3 * (got - want).abs().mean()


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
        save_merged(
            str(models["qwen2_5_vl"]),
            {"other.weight": torch.ones(1)},
            None,
            torch.float32,
            tmp_path,
            None,
        )
