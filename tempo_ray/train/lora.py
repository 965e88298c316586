"""A model -> the same with adapters, or with its own weights set to train; trained weights -> a
merged model folder."""

import shutil
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig as PeftLoraConfig
from peft import PeftModel, get_peft_model
from transformers import PreTrainedModel

from tempo_ray.config import LoraConfig
from tempo_ray.models.vlm import load_model

# anchored at the language model: the vision tower has gate_proj, up_proj and down_proj too
LANGUAGE = r".*language_model\.layers\.\d+\.(self_attn|mlp)\.(q|k|v|o|gate|up|down)_proj"
VISION = (
    r".*visual\.(blocks|merger|deepstack_merger_list)\..*(qkv|proj|linear_fc1|linear_fc2|mlp\.[02])"
)


def add_adapter(
    model: PreTrainedModel, lora: LoraConfig, seed: int, train_vision: bool = False
) -> PeftModel:
    """LoRA (arXiv 2106.09685) on all linear layers of the language model, and of the vision tower
    if `train_vision`; all other weights are frozen.

    Every rank draws the same adapter: ZeRO partitions each rank's own draw.
    """
    torch.manual_seed(seed)
    peft_config = PeftLoraConfig(
        r=lora.rank,
        lora_alpha=lora.alpha,  # type: ignore[arg-type]  # peft says int and accepts a float
        lora_dropout=lora.dropout,
        target_modules=f"{LANGUAGE}|{VISION}" if train_vision else LANGUAGE,
        task_type="CAUSAL_LM",
    )
    adapted: PeftModel = get_peft_model(model, peft_config, autocast_adapter_dtype=False)
    return adapted


def train_all_weights(model: PreTrainedModel, train_vision: bool = False) -> None:
    """For full training: every weight of the language model and its head, and of the vision tower
    if `train_vision`; the rest is frozen."""
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
    """Trained weights -> `folder/merged`, and for LoRA `folder/adapter`.

    `source` is the model that training started from, `weights` are named as in
    `zero.trained_weights`. Merged in float32 and saved in `dtype`: bfloat16 would lose a float32
    run's small updates. `merged` is a complete model folder, with processor, generation config and
    prompt set.

    Raises:
        ValueError: a weight has no place in the source.
    """
    model = load_model(source, torch.float32)
    train_vision = any("visual" in name for name in weights)
    adapted = None if lora is None else add_adapter(model, lora, 0, train_vision)
    unknown = model.load_state_dict(weights, strict=False).unexpected_keys
    if unknown:
        raise ValueError(
            f"{len(unknown)} trained weights have no place in {source}, for example {unknown[0]}"
        )
    if adapted is not None:
        adapted.save_pretrained(str(folder / "adapter"))
        model = adapted.merge_and_unload(safe_merge=True)
    merged = folder / "merged"
    # transformers' wrapper of `to` hides its self argument
    model.to(dtype).save_pretrained(merged)  # type: ignore[arg-type]
    processor.save_pretrained(merged)
    prompts = Path(source) / "tempo_ray.json"
    if prompts.is_file():
        shutil.copy(prompts, merged)
