"""A YAML file and `key=value` words -> a frozen config. Imports neither ray nor torch."""

import json
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import BaseModel, ValidationError

from tempo_ray.config.base import Config
from tempo_ray.errors import UserError

SHIPPED = Path(__file__).parents[1] / "configs"

ConfigType = TypeVar("ConfigType", bound=Config)


def shipped_configs() -> list[str]:
    """Names that `--config` finds without a path."""
    return sorted(file.stem for file in SHIPPED.glob("*.yaml"))


def config_file(name: str) -> Path:
    """A shipped config by its name, or a file by its path."""
    return SHIPPED / f"{name}.yaml" if name in shipped_configs() else Path(name)


def _set(tree: dict[str, Any], dotted: str, value: Any) -> None:
    *parents, leaf = dotted.split(".")
    for name in parents:
        tree = tree.setdefault(name, {})
        if not isinstance(tree, dict):
            raise UserError(f"{dotted}: {name} is a value, not a section with keys")
    tree[leaf] = value


def _merge(base: dict[str, Any], overrides: dict[str, Any]) -> dict[str, Any]:
    merged = dict(base)
    for key, value in overrides.items():
        if isinstance(value, dict) and isinstance(merged.get(key), dict):
            merged[key] = _merge(merged[key], value)
        else:
            merged[key] = value
    return merged


def _nested_model(annotation: Any) -> type[BaseModel] | None:
    """The config model that a field holds, directly or as one side of `X | None`."""
    for candidate in (annotation, *getattr(annotation, "__args__", ())):
        if isinstance(candidate, type) and issubclass(candidate, BaseModel):
            return candidate
    return None


def _valid_keys(model: type[BaseModel], path: tuple[str | int, ...]) -> list[str]:
    """The keys that were possible where `path` went wrong."""
    current: type[BaseModel] | None = model
    for name in path[:-1]:
        if isinstance(name, int):
            continue
        field = None if current is None else current.model_fields.get(name)
        current = None if field is None else _nested_model(field.annotation)
    return [] if current is None else list(current.model_fields)


def _explain(model: type[BaseModel], error: ValidationError) -> str:
    """One line per problem."""
    lines = []
    for problem in error.errors():
        where = ".".join(str(part) for part in problem["loc"])
        if problem["type"] == "extra_forbidden":
            keys = ", ".join(_valid_keys(model, problem["loc"]))
            lines.append(f"{where}: no such key; keys here: {keys}")
        elif problem["type"] == "missing":
            lines.append(f"{where}: missing; set it in the config file or as {where}=VALUE")
        else:
            message = problem["msg"].removeprefix("Value error, ")
            lines.append(f"{where}: {message}" if where else message)
    return "\n".join(lines)


def _read_file(name: str) -> dict[str, Any]:
    file = config_file(name)
    try:
        tree = yaml.safe_load(file.read_text()) or {}
    except OSError as error:
        known = ", ".join(shipped_configs())
        raise UserError(
            f"{name}: {error.strerror}; name a file, or a shipped config: {known}"
        ) from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UserError(f"{name}: not a YAML file: {str(error).splitlines()[0]}") from error
    if not isinstance(tree, dict):
        raise UserError(f"{name}: a config is a mapping of keys to values")
    return tree


def _section(tree: dict[str, Any], file: str, section: str | None) -> dict[str, Any]:
    if section is None or section not in tree:
        return tree
    chosen = tree[section] or {}
    if not isinstance(chosen, dict):
        raise UserError(f"{file}: section {section} is not a mapping of keys to values")
    return chosen


def load_config(
    model: type[ConfigType], file: str | None, overrides: list[str], section: str | None = None
) -> ConfigType:
    """The config of a job from a YAML file, then `dotted.key=value` words; values are YAML.

    `file` is a path or the name of a shipped config. A file may have a section for each of several
    jobs; `section` is the one to read.

    Raises:
        UserError: one line per problem, each naming the key and the fix.
    """
    tree = {} if file is None else _section(_read_file(file), file, section)
    extra: dict[str, Any] = {}
    for word in overrides:
        key, equals, value = word.partition("=")
        if not equals or not key or key.startswith("-"):
            raise UserError(
                f"{word}: not understood; settings are written key=value, for example seed=1"
            )
        try:
            _set(extra, key, yaml.safe_load(value))
        except yaml.YAMLError as error:
            raise UserError(f"{word}: the value is not YAML") from error
    try:
        return model.model_validate(_merge(tree, extra))
    except ValidationError as error:
        raise UserError(_explain(model, error)) from error


def describe(model: type[BaseModel], prefix: str = "") -> list[str]:
    """Human-readable lines per key: dotted name, default, meaning."""
    lines = []
    for name, field in model.model_fields.items():
        nested = _nested_model(field.annotation)
        if nested is not None and not str(field.annotation).startswith("tuple"):
            lines += describe(nested, f"{prefix}{name}.")
            continue
        value = field.get_default(call_default_factory=True)
        default = "required" if field.is_required() else json.dumps(value, default=str)
        meaning = " ".join((field.description or "").split())
        lines.append(f"  {prefix}{name}  [{default}]" + (f"\n      {meaning}" if meaning else ""))
    return lines


def parse_args(
    model: type[ConfigType], doc: str | None, argv: list[str], section: str | None = None
) -> ConfigType:
    """`[--config NAME_OR_FILE] [key=value ...]` -> config.

    `--help` prints `doc` and every key, and exits. Raises UserError.
    """
    if "-h" in argv or "--help" in argv:
        configs = f"Shipped configs (--config NAME): {', '.join(shipped_configs())}"
        print((doc or "").strip(), "", configs, "", "Keys:", *describe(model), sep="\n")
        raise SystemExit(0)
    file = None
    overrides = []
    words = iter(argv)
    for word in words:
        if word == "--config":
            file = next(words, None)
            if file is None:
                raise UserError("--config needs a shipped config's name or a file")
        elif word.startswith("--config="):
            file = word.removeprefix("--config=")
        else:
            overrides.append(word)
    return load_config(model, file, overrides, section)
