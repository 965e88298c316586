"""A YAML file and `key=value` words -> a frozen config, or a message that says what to change. Imports neither ray nor torch."""

import json
import sys
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import BaseModel, ValidationError

from tempo_ray.config import Config


class ConfigError(ValueError):
    """A config that cannot run; the message says what to change."""


T = TypeVar("T", bound=Config)


def _set(tree: dict[str, Any], dotted: str, value: Any) -> None:
    *parents, leaf = dotted.split(".")
    for name in parents:
        tree = tree.setdefault(name, {})
        if not isinstance(tree, dict):
            raise ConfigError(f"{dotted}: {name} holds a value, not a group of keys")
    tree[leaf] = value


def _merge(base: dict[str, Any], over: dict[str, Any]) -> dict[str, Any]:
    merged = dict(base)
    for key, value in over.items():
        both = isinstance(value, dict) and isinstance(merged.get(key), dict)
        merged[key] = _merge(merged[key], value) if both else value
    return merged


def _known(model: type[BaseModel], path: tuple[str | int, ...]) -> list[str]:
    """The field names valid where `path` went wrong."""
    fields: Any = model
    for name in path[:-1]:
        if isinstance(name, int):
            continue
        annotation = (
            fields.model_fields[name].annotation
            if name in getattr(fields, "model_fields", {})
            else None
        )
        inner = [
            a
            for a in (annotation, *getattr(annotation, "__args__", ()))
            if hasattr(a, "model_fields")
        ]
        if not inner:
            return []
        fields = inner[0]
    return list(getattr(fields, "model_fields", {}))


def _explain(model: type[BaseModel], error: ValidationError) -> str:
    lines = []
    for problem in error.errors():
        where = ".".join(str(part) for part in problem["loc"])
        if problem["type"] == "extra_forbidden":
            lines.append(
                f"{where}: no such key; keys here: {', '.join(_known(model, problem['loc']))}"
            )
        elif problem["type"] == "missing":
            lines.append(f"{where}: missing; give it in the config file or as {where}=VALUE")
        else:
            message = problem["msg"].removeprefix("Value error, ")
            lines.append(f"{where}: {message}" if where else message)
    return "\n".join(lines)


def load_config(
    model: type[T], file: str | None, overrides: list[str], section: str | None = None
) -> T:
    """The config of a job from a YAML file and then `dotted.key=value` words; values are read as YAML.

    A file may hold the configs of several jobs, each under the job's name: then `section` is the one that is read.
    Raises ConfigError with one line per problem, each naming the key and the fix.
    """
    tree: dict[str, Any] = {}
    if file is not None:
        try:
            tree = yaml.safe_load(Path(file).read_text()) or {}
        except OSError as error:
            raise ConfigError(f"--config {file}: {error.strerror}") from error
        except yaml.YAMLError as error:
            raise ConfigError(f"--config {file}: not YAML: {error}") from error
        if not isinstance(tree, dict):
            raise ConfigError(f"--config {file}: holds no keys; expected a YAML mapping")
        if section in tree:
            tree = tree[section] or {}
    extra: dict[str, Any] = {}
    for word in overrides:
        key, equals, value = word.partition("=")
        if not equals or not key or key.startswith("-"):
            raise ConfigError(
                f"{word}: not understood; overrides are written key=value, for example seed=1"
            )
        try:
            _set(extra, key, yaml.safe_load(value))
        except yaml.YAMLError as error:
            raise ConfigError(f"{word}: the value is not YAML") from error
    try:
        return model.model_validate(_merge(tree, extra))
    except ValidationError as error:
        raise ConfigError(_explain(model, error)) from error


def describe(model: type[BaseModel], prefix: str = "") -> list[str]:
    """One line per key: dotted name, default, and what it means."""
    lines = []
    for name, field in model.model_fields.items():
        annotation = field.annotation
        inner = [
            a
            for a in (annotation, *getattr(annotation, "__args__", ()))
            if hasattr(a, "model_fields")
        ]
        if inner and not str(annotation).startswith("tuple"):
            lines += describe(inner[0], f"{prefix}{name}.")
            continue
        value = field.get_default(call_default_factory=True)
        default = "required" if field.is_required() else json.dumps(value, default=str)
        meaning = " ".join((field.description or "").split())
        lines.append(f"  {prefix}{name}  [{default}]" + (f"\n      {meaning}" if meaning else ""))
    return lines


def parse_args(
    model: type[T], doc: str | None, argv: list[str] | None = None, section: str | None = None
) -> T:
    """`[--config FILE] [key=value ...]` -> config. Prints help or the mistake, and exits, where there is no config."""
    words = sys.argv[1:] if argv is None else argv
    if "-h" in words or "--help" in words:
        print((doc or "").strip(), "", "Keys:", *describe(model), sep="\n")
        raise SystemExit(0)
    file = None
    overrides = []
    rest = iter(words)
    try:
        for word in rest:
            if word == "--config":
                file = next(rest, None)
                if file is None:
                    raise ConfigError("--config needs a file")
            elif word.startswith("--config="):
                file = word.removeprefix("--config=")
            else:
                overrides.append(word)
        return load_config(model, file, overrides, section)
    except ConfigError as error:
        print(f"{error}", file=sys.stderr)
        raise SystemExit(2) from None
