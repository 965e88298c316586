"""A model's path -> what is wrong with it, and which prompts it is asked with. Loads neither torch nor weights."""

import json
from pathlib import Path

SUPPORTED = ("qwen2_5_vl", "qwen3_vl")


class NotAModel(ValueError):
    """The path holds no model that this project can use; the message says what is wrong."""


def check_model(path: str) -> None:
    """Raises NotAModel where a local path is no folder of a supported model. Reads the config only."""
    folder = Path(path)
    if not folder.exists() and (path.count("/") != 1 or path.startswith((".", "/", "~"))):
        raise NotAModel(f"{path}: no such folder; name a model folder in the Hugging Face layout")
    if not folder.exists():
        return  # a hub name
    config = folder / "config.json"
    if not config.is_file():
        raise NotAModel(f"{path}: no config.json in it; name a model folder in the Hugging Face layout")
    try:
        model_type = json.loads(config.read_text()).get("model_type")
    except (json.JSONDecodeError, UnicodeDecodeError, AttributeError) as error:
        raise NotAModel(f"{config}: not a model config ({error})") from error
    if model_type not in SUPPORTED:
        raise NotAModel(f"{path}: model_type {model_type} is not supported; use one of {', '.join(SUPPORTED)}")
    if not any(folder.glob("*.safetensors")):
        raise NotAModel(f"{path}: no *.safetensors in it; only safetensors weights are loaded")


def prompts_name(path: str) -> str:
    """Which prompt set the model is asked with: from tempo_ray.json in its folder, `default` otherwise."""
    file = Path(path) / "tempo_ray.json"
    return json.loads(file.read_text()).get("prompts", "default") if file.is_file() else "default"
