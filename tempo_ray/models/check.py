"""A model's path -> what is wrong with it, what identifies it, and its prompt set.

Reads configs and the headers of weight files; loads neither torch nor weights.
"""

import hashlib
import json
from pathlib import Path

from tempo_ray.models.families import InvalidModel, family_of

__all__ = ["InvalidModel", "check_model", "identity", "prompts_name", "weight_bytes"]

_NEEDED = {
    "tokenizer": ("tokenizer.json", "vocab.json"),
    "processor": (
        "processor_config.json",
        "preprocessor_config.json",
        "video_preprocessor_config.json",
    ),
    "chat template": ("chat_template.jinja", "chat_template.json", "tokenizer_config.json"),
}
"""What a model folder must contain, and the files of which one will do."""


def check_model(path: str) -> None:
    """Checks that a folder or hub name holds a complete model of a supported family.

    Raises:
        InvalidModel: it does not; the message says why.
    """
    config = _config_file(path)
    try:
        model_type = json.loads(config.read_text()).get("model_type")
    except (json.JSONDecodeError, UnicodeDecodeError, AttributeError) as error:
        raise InvalidModel(f"{config}: not a model config ({error})") from error
    try:
        family_of(model_type)
    except InvalidModel as error:
        raise InvalidModel(f"{path}: {error}") from None
    folder = Path(path)
    if folder.exists():
        _check_weights(folder)
        _check_files(folder)


def _config_file(path: str) -> Path:
    folder = Path(path)
    if not folder.exists():
        if path.count("/") != 1 or path.startswith((".", "/", "~")):
            raise InvalidModel(
                f"{path}: no such folder; name a model folder in the Hugging Face layout"
            )
        return _hub_config(path)
    config = folder / "config.json"
    if not config.is_file():
        raise InvalidModel(
            f"{path}: it has no config.json; name a model folder in the Hugging Face layout"
        )
    return config


def _hub_config(name: str) -> Path:
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import EntryNotFoundError, HfHubHTTPError, LocalEntryNotFoundError

    try:
        return Path(hf_hub_download(name, "config.json"))
    except LocalEntryNotFoundError:
        raise InvalidModel(
            f"{name}: no such folder, and the model hub cannot be reached; name a model folder"
        ) from None
    except (EntryNotFoundError, HfHubHTTPError) as error:
        reason = str(error).splitlines()[0]
        raise InvalidModel(f"{name}: no such folder, and not on the model hub ({reason})") from None


def _check_files(folder: Path) -> None:
    for purpose, names in _NEEDED.items():
        if not any((folder / name).is_file() for name in names):
            raise InvalidModel(
                f"{folder}: it has no {purpose} ({' or '.join(names)}); copy the whole model folder"
            )


def _check_weights(folder: Path) -> None:
    index = folder / "model.safetensors.index.json"
    if index.is_file():
        names = set(json.loads(index.read_text())["weight_map"].values())
    else:
        names = {file.name for file in folder.glob("*.safetensors")} - {"adapter_model.safetensors"}
    if not names:
        raise InvalidModel(
            f"{folder}: it has no *.safetensors with a whole model; only safetensors weights are "
            "loaded"
        )
    for name in sorted(names):
        if not (folder / name).is_file():
            raise InvalidModel(
                f"{folder}: {name}, which its index names, is missing; copy the whole model folder"
            )
        if not _is_complete(folder / name):
            raise InvalidModel(
                f"{folder / name}: not a safetensors file, or cut off; copy it again"
            )


def _header(file: Path) -> bytes:
    """The JSON header of a safetensors file: names, types and offsets of its tensors."""
    with file.open("rb") as stream:
        length = int.from_bytes(stream.read(8), "little")
        return stream.read(min(length, 1 << 30))


def _is_complete(file: Path) -> bool:
    header = _header(file)
    try:
        ends = [
            tensor["data_offsets"][1]
            for name, tensor in json.loads(header).items()
            if name != "__metadata__"
        ]
    except (ValueError, AttributeError, KeyError, TypeError):  # not JSON, or JSON of another kind
        return False
    return file.stat().st_size == 8 + len(header) + max(ends, default=0)


def identity(path: str) -> str:
    """A digest that distinguishes models without reading their weights.

    Covers the config, the tensors' names, types and sizes, and training.json, the record of the
    training if this project trained the model. The name itself for a model of the hub.
    """
    folder = Path(path)
    if not folder.is_dir():
        return path
    digest = hashlib.sha256()
    for name in ("config.json", "training.json"):
        digest.update((folder / name).read_bytes() if (folder / name).is_file() else b"")
    for file in sorted(folder.glob("*.safetensors")):
        digest.update(_header(file))
    return digest.hexdigest()


def weight_bytes(path: str) -> int:
    """Bytes of a model folder's weights; 0 for a hub name."""
    return sum(file.stat().st_size for file in Path(path).glob("*.safetensors"))


def prompts_name(path: str) -> str:
    """The prompt set to use with the model: named in its tempo_ray.json, else `default`."""
    file = Path(path) / "tempo_ray.json"
    if not file.is_file():
        return "default"
    name: str = json.loads(file.read_text()).get("prompts", "default")
    return name
