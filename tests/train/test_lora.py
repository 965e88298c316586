"""Adapters, merged models, and full training."""

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
from tempo_ray.train.batch import pack
from tempo_ray.train.examples import PromptPairs, VideoPairs
from tempo_ray.train.lora import LANGUAGE, VISION, add_adapter, save_merged, train_all_weights
from tempo_ray.train.policy import LogProbs
from tempo_ray.train.sequences import read_example


def trainable(model: Any) -> dict[str, torch.Tensor]:
    return {
        name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad
    }


@pytest.mark.parametrize("family", FAMILIES)
def test_adapters_target_all_linear_layers_and_nothing_else(
    family: str, models: dict[str, Path]
) -> None:
    model = load_model(str(models[family]), torch.float32)
    for name, module in model.named_modules():
        linear = isinstance(module, torch.nn.Linear) and name != "lm_head"
        assert bool(re.fullmatch(LANGUAGE, name)) == (linear and "language_model" in name), name
        assert bool(re.fullmatch(VISION, name)) == (linear and "visual" in name), name


@pytest.mark.parametrize("train_vision", [False, True])
def test_the_merged_model_equals_the_adapted_one(
    train_vision: bool, models: dict[str, Path], tmp_path: Path
) -> None:
    source, lora = str(models["qwen2_5_vl"]), LoraConfig(rank=4, alpha=8)
    adapted = add_adapter(load_model(source, torch.float32), lora, 3, train_vision)
    torch.manual_seed(0)
    trained = trainable(adapted.get_base_model())
    assert any("visual" in name for name in trained) == train_vision
    for parameter in trained.values():
        parameter.data.normal_(std=0.05)
    save_merged(source, trained, lora, torch.float32, tmp_path, load_processor(source))
    merged = load_model(str(tmp_path / "merged"), torch.float32)
    ids = torch.arange(10, 30)[None]
    with torch.no_grad():
        adapted_logits, merged_logits, start_logits = (
            model(input_ids=ids).logits
            for model in (adapted, merged, load_model(source, torch.float32))
        )
    assert torch.allclose(adapted_logits, merged_logits, atol=1e-5)
    assert not torch.allclose(start_logits, merged_logits, atol=1e-2)
    assert merged.config.dtype == torch.float32
    assert load_processor(str(tmp_path / "merged")).tokenizer.eos_token == "<|im_end|>"
    assert (tmp_path / "merged" / "tempo_ray.json").is_file()
    assert (tmp_path / "merged" / "generation_config.json").is_file()
    assert (tmp_path / "adapter" / "adapter_config.json").is_file()


@pytest.mark.parametrize("family", FAMILIES)
def test_merged_model_and_adapter_agree_on_videos_in_bfloat16(
    family: str, models: dict[str, Path], videos: list[str], tmp_path: Path
) -> None:
    """The merged weights, the adapter beside them loaded by stock PEFT, and the trained model."""
    source, processor = str(models[family]), load_processor(str(models[family]))
    config = load_model_config(source)
    adapted = add_adapter(load_model(source, torch.bfloat16), LoraConfig(rank=4, alpha=8), 3)
    torch.manual_seed(0)
    trained = trainable(adapted.get_base_model())
    for parameter in trained.values():
        parameter.data.normal_(std=0.02)
    save_merged(source, trained, LoraConfig(rank=4, alpha=8), torch.bfloat16, tmp_path, processor)
    prompt = PromptPairs("What happens?", "A red circle moves left.", ("No.",))
    examples = [VideoPairs(video, (prompt,)) for video in videos]
    row = pack(
        [
            tokens
            for example in examples
            for tokens in read_example(processor, config, example, FramesConfig(), 4096)
        ]
    )

    @torch.no_grad()
    def logps_of(model: Any) -> torch.Tensor:
        use_packed_attention(model, "sdpa")
        logps: torch.Tensor = LogProbs(model)(row.inputs, row.source, row.target)[0]
        return logps

    stock = PeftModel.from_pretrained(
        load_model(source, torch.bfloat16), str(tmp_path / "adapter"), autocast_adapter_dtype=False
    ).get_base_model()
    trained_logps = logps_of(adapted.get_base_model())
    assert torch.equal(logps_of(stock), trained_logps)
    merged_logps = logps_of(load_model(str(tmp_path / "merged"), torch.bfloat16))
    start_logps = logps_of(load_model(source, torch.bfloat16))
    # a bfloat16 log-prob near -7 is rounded to 1/32
    assert (merged_logps - trained_logps).abs().max() < 0.1
    merging, training = (merged_logps - trained_logps), (start_logps - trained_logps)
    assert training.abs().mean() > 3 * merging.abs().mean()


def test_full_training_freezes_the_vision_tower(models: dict[str, Path], tmp_path: Path) -> None:
    source = str(models["qwen2_5_vl"])
    model = load_model(source, torch.float32)
    train_all_weights(model)
    trained = trainable(model)
    assert trained
    assert not any("visual" in name for name in trained)
    for parameter in trained.values():
        parameter.data += 1.0
    save_merged(source, trained, None, torch.bfloat16, tmp_path, load_processor(source))
    merged = dict(load_model(str(tmp_path / "merged"), torch.bfloat16).named_parameters())
    for name, parameter in model.named_parameters():
        assert torch.equal(merged[name], parameter.to(torch.bfloat16)), name
    assert not (tmp_path / "adapter").exists()


def test_unknown_weights_are_refused(models: dict[str, Path], tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="have no place"):
        save_merged(
            str(models["qwen2_5_vl"]),
            {"other.weight": torch.ones(1)},
            None,
            torch.float32,
            tmp_path,
            None,
        )
