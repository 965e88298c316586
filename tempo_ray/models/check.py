"""A model's path -> what is wrong with it, what tells it from others, and its prompt set. Loads neither torch nor weights."""

import hashlib
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
        raise NotAModel(
            f"{name}: no such folder, and the model hub cannot be reached; name a model folder"
        ) from None
    except (EntryNotFoundError, HfHubHTTPError) as error:
        raise NotAModel(
            f"{name}: no such folder, and not on the model hub ({str(error).splitlines()[0]})"
        ) from None


def check_model(path: str) -> None:
    """Raises NotAModel where a folder or hub name holds no supported model. Reads the config, and what the weights' files say
    of themselves."""
    folder = Path(path)
    if not folder.exists() and (path.count("/") != 1 or path.startswith((".", "/", "~"))):
        raise NotAModel(f"{path}: no such folder; name a model folder in the Hugging Face layout")
    config = folder / "config.json" if folder.exists() else _hub_config(path)
    if not config.is_file():
        raise NotAModel(
            f"{path}: no config.json in it; name a model folder in the Hugging Face layout"
        )
    try:
        model_type = json.loads(config.read_text()).get("model_type")
    except (json.JSONDecodeError, UnicodeDecodeError, AttributeError) as error:
        raise NotAModel(f"{config}: not a model config ({error})") from error
    if model_type not in SUPPORTED:
        raise NotAModel(
            f"{path}: model_type {model_type} is not supported; use one of {', '.join(SUPPORTED)}"
        )
    if folder.exists():
        _check_weights(folder)
        for what, names in _NEEDED.items():
            if not any((folder / name).is_file() for name in names):
                raise NotAModel(
                    f"{path}: no {what} in it ({' or '.join(names)}); copy the whole model folder"
                )


_NEEDED = {
    "tokenizer": ("tokenizer.json", "vocab.json"),
    "processor": (
        "processor_config.json",
        "preprocessor_config.json",
        "video_preprocessor_config.json",
    ),
    "chat template": ("chat_template.jinja", "chat_template.json", "tokenizer_config.json"),
}


def _check_weights(folder: Path) -> None:
    index = folder / "model.safetensors.index.json"
    if index.is_file():
        names = set(json.loads(index.read_text())["weight_map"].values())
    else:
        names = {file.name for file in folder.glob("*.safetensors")} - {"adapter_model.safetensors"}
    if not names:
        raise NotAModel(
            f"{folder}: no *.safetensors of a whole model in it; only safetensors weights are loaded"
        )
    for name in sorted(names):
        if not (folder / name).is_file():
            raise NotAModel(
                f"{folder}: {name} is missing, which its index names; copy the whole model folder"
            )
        if not _is_whole(folder / name):
            raise NotAModel(f"{folder / name}: no safetensors file, or cut off; copy it again")


def _header(file: Path) -> bytes:
    """The names, types and places of a safetensors file's weights."""
    with file.open("rb") as stream:
        length = int.from_bytes(stream.read(8), "little")
        return stream.read(min(length, 1 << 30))


def _is_whole(file: Path) -> bool:
    header = _header(file)
    try:
        ends = [
            one["data_offsets"][1]
            for name, one in json.loads(header).items()
            if name != "__metadata__"
        ]
    except (
        ValueError,
        AttributeError,
        KeyError,
        TypeError,
    ):  # other bytes, or JSON of something else
        return False
    return file.stat().st_size == 8 + len(header) + max(ends, default=0)


def identity(path: str) -> str:
    """Tells models apart without reading their weights: config, the weights' names, types and sizes, and the record of the
    training that made it, where this project did; of a hub model, its name."""
    folder = Path(path)
    if not folder.is_dir():
        return path
    found = hashlib.sha256()
    for name in ("config.json", "training.json"):
        found.update((folder / name).read_bytes() if (folder / name).is_file() else b"")
    for file in sorted(folder.glob("*.safetensors")):
        found.update(_header(file))
    return found.hexdigest()


def weight_bytes(path: str) -> int:
    """Bytes of the weights of a model folder; 0 for a hub name."""
    return sum(file.stat().st_size for file in Path(path).glob("*.safetensors"))


def prompts_name(path: str) -> str:
    """Which prompt set the model is asked with: from tempo_ray.json in its folder, `default` otherwise."""
    file = Path(path) / "tempo_ray.json"
    return json.loads(file.read_text()).get("prompts", "default") if file.is_file() else "default"
