"""A model's path -> what is wrong with it, and which prompts it is asked with. Loads neither torch nor weights."""

import json
from pathlib import Path

SUPPORTED = ("qwen2_5_vl", "qwen3_vl")


class NotAModel(ValueError):
    """The path holds no model that this project can use; the message says what is wrong."""


def _hub_config(name: str) -> Path:
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import EntryNotFoundError, HfHubHTTPError, LocalEntryNotFoundError

    try:
        return Path(hf_hub_download(name, "config.json"))
    except LocalEntryNotFoundError:
        raise NotAModel(f"{name}: no such folder, and the model hub cannot be reached; name a model folder") from None
    except (EntryNotFoundError, HfHubHTTPError) as error:
        raise NotAModel(f"{name}: no such folder, and not on the model hub ({str(error).splitlines()[0]})") from None


def check_model(path: str) -> None:
    """Raises NotAModel where a folder or hub name holds no supported model. Reads the config only."""
    folder = Path(path)
    if not folder.exists() and (path.count("/") != 1 or path.startswith((".", "/", "~"))):
        raise NotAModel(f"{path}: no such folder; name a model folder in the Hugging Face layout")
    config = folder / "config.json" if folder.exists() else _hub_config(path)
    if not config.is_file():
        raise NotAModel(f"{path}: no config.json in it; name a model folder in the Hugging Face layout")
    try:
        model_type = json.loads(config.read_text()).get("model_type")
    except (json.JSONDecodeError, UnicodeDecodeError, AttributeError) as error:
        raise NotAModel(f"{config}: not a model config ({error})") from error
    if model_type not in SUPPORTED:
        raise NotAModel(f"{path}: model_type {model_type} is not supported; use one of {', '.join(SUPPORTED)}")
    if folder.exists() and not any(folder.glob("*.safetensors")):
        raise NotAModel(f"{path}: no *.safetensors in it; only safetensors weights are loaded")


def weight_bytes(path: str) -> int:
    """Bytes of the weights of a model folder; 0 for a hub name."""
    return sum(file.stat().st_size for file in Path(path).glob("*.safetensors"))


def prompts_name(path: str) -> str:
    """Which prompt set the model is asked with: from tempo_ray.json in its folder, `default` otherwise."""
    file = Path(path) / "tempo_ray.json"
    return json.loads(file.read_text()).get("prompts", "default") if file.is_file() else "default"
