"""A model -> the same with adapters, or with its own weights opened for training; trained weights -> a merged model folder."""

import shutil
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig as PeftLoraConfig
from peft import PeftModel, get_peft_model
from transformers import PreTrainedModel

from tempo_ray.config import LoraConfig
from tempo_ray.models.vlm import load_model

# anchored at the language model: gate_proj, up_proj and down_proj are names of the vision tower too
LANGUAGE = r".*language_model\.layers\.\d+\.(self_attn|mlp)\.(q|k|v|o|gate|up|down)_proj"
VISION = (
    r".*visual\.(blocks|merger|deepstack_merger_list)\..*(qkv|proj|linear_fc1|linear_fc2|mlp\.[02])"
)


def add_adapter(
    model: PreTrainedModel, lora: LoraConfig, seed: int, train_vision: bool = False
) -> PeftModel:
    """LoRA on all linear layers of the language model, and of the vision tower if asked; the rest is frozen.

    Every worker draws the same weights: ZeRO takes each worker's share of its own draw.
    """
    torch.manual_seed(seed)
    peft_config = PeftLoraConfig(
        r=lora.rank,
        lora_alpha=lora.alpha,  # type: ignore[arg-type]  # peft divides it by the rank: a float will do
        lora_dropout=lora.dropout,
        target_modules=f"{LANGUAGE}|{VISION}" if train_vision else LANGUAGE,
        task_type="CAUSAL_LM",
    )
    return get_peft_model(model, peft_config, autocast_adapter_dtype=False)


def open_weights(model: PreTrainedModel, train_vision: bool = False) -> None:
    """For full training: every weight of the language model, its head included, and of the vision tower if asked."""
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(train_vision or "visual" not in name)


def save_merged(
    source: str,
    weights: dict[str, torch.Tensor],
    lora: LoraConfig | None,
    dtype: torch.dtype,
    folder: Path,
    processor: Any,
) -> None:
    """Weights as `deepspeed.trained_weights` names them -> `folder/merged`, and `folder/adapter` for LoRA.

    `source` is the model that training started from. Merged in float32; kept in `dtype`, because a float32 run's small
    updates would be lost in bfloat16. The folder is a whole model: processor, generation config, prompts and all.
    """
    model = load_model(source, torch.float32)
    train_vision = any("visual" in name for name in weights)
    adapted = None if lora is None else add_adapter(model, lora, 0, train_vision)
    unknown = model.load_state_dict(weights, strict=False).unexpected_keys
    if unknown:
        raise ValueError(
            f"{len(unknown)} trained weights have no place in {source}, {unknown[0]} for one"
        )
    if adapted is not None:
        adapted.save_pretrained(str(folder / "adapter"))
        model = adapted.merge_and_unload(safe_merge=True)
    merged = folder / "merged"
    model.to(dtype).save_pretrained(merged)  # type: ignore[arg-type]  # transformers' wrapper of `to` hides self
    processor.save_pretrained(merged)
    prompts = Path(source) / "tempo_ray.json"
    if prompts.is_file():
        shutil.copy(prompts, merged)
