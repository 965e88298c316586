"""What all configs share: frozen pydantic models, hashing, and the types of paths and URIs."""

import hashlib
import json
from pathlib import Path
from typing import Annotated, Any, Self

import yaml
from pydantic import (
    AfterValidator,
    BaseModel,
    ByteSize,
    ConfigDict,
    Field,
    NonNegativeFloat,
    PositiveFloat,
    PositiveInt,
    model_validator,
)

from tempo_ray.storage import absolute, is_uri

BUILTIN = "builtin:"
BUILTIN_MODELS = Path(__file__).parents[1] / "shapeworld" / "models"


class Config(BaseModel):
    """Frozen and strict: an unknown key is an error."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", use_attribute_docstrings=True, protected_namespaces=()
    )

    def to_yaml(self) -> str:
        return yaml.safe_dump(self.model_dump(mode="json"), sort_keys=False, allow_unicode=True)

    def hash(self) -> str:
        """First 12 hex digits of the SHA-256 of the canonical JSON."""
        text = json.dumps(self.model_dump(mode="json"), sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:12]


def _ray_safe(uri: str) -> str:
    """Ray Data parses URIs its own way: a space is an error and % starts an escape."""
    if is_uri(uri) and any(letter.isspace() or letter in "%?#" for letter in uri):
        raise ValueError(
            f"{uri}: the URI of a run directory cannot contain spaces, %, ? or #; choose another"
        )
    return uri


def _local(path: str) -> str:
    if is_uri(path):
        raise ValueError(f"{path}: a local path is needed here, not a URI")
    return path


def _model_name(name: str) -> str:
    if name.startswith(BUILTIN):
        folder = BUILTIN_MODELS / name.removeprefix(BUILTIN)
        if not folder.is_dir():
            known = ", ".join(f"{BUILTIN}{path.name}" for path in sorted(BUILTIN_MODELS.iterdir()))
            raise ValueError(f"{name}: no such built-in model; there are {known}")
        return str(folder)
    return absolute(name) if Path(name).expanduser().exists() else name


Location = Annotated[str, AfterValidator(absolute)]
"""A local path, made absolute because workers have other working directories; or an Arrow URI."""
RunLocation = Annotated[Location, AfterValidator(_ray_safe)]
"""A local path, made absolute, or a URI that Arrow and Ray Data parse alike."""
LocalPath = Annotated[str, AfterValidator(_local), AfterValidator(absolute)]
"""A local path, made absolute; a URI is refused."""
ModelName = Annotated[str, AfterValidator(_model_name)]
"""`builtin:NAME` of a model that ships with the package, a local folder, or a hub name."""
Share = Annotated[float, Field(ge=0.0, le=1.0)]


class RayConfig(Config):
    address: str | None = None
    """Address of a running cluster (`auto` finds one); null starts Ray in this process, or joins
    the cluster of the submitted job."""
    num_cpus: PositiveInt | None = None
    """Logical CPUs of a Ray started here; null counts the machine's, at least 8, so that small
    actors always fit."""
    object_store_bytes: int = Field(400_000_000, ge=80_000_000)
    """Object store of a Ray started here."""
    dashboard: bool = False
    """Start the dashboard with a Ray started here."""


class Placement(Config):
    """What an actor or worker asks of its node, beside CPUs and GPUs."""

    memory: ByteSize = ByteSize(0)
    """Memory of each that Ray sets aside, in bytes or as in `8GiB`; 0 sets none aside."""
    resources: dict[str, PositiveFloat] | None = None
    """Ray's custom resources of each."""
    label_selector: dict[str, str] | None = None
    """Labels of the nodes on which they may run, such as `tempo-ray/group: cpu`; null for any
    node."""


class PoolConfig(Placement):
    """An autoscaling pool of actors."""

    min_size: PositiveInt = 1
    max_size: PositiveInt = 1
    cpus: NonNegativeFloat = 1.0
    """CPUs per actor."""
    gpus: NonNegativeFloat = 0.0
    """GPUs per actor."""
    initial_size: PositiveInt | None = None
    """Actors at the start, so that a cluster from zero nodes asks for all of theirs at once; null
    starts with `min_size` and grows with the load."""
    batch_rows: PositiveInt = 4
    """Rows (videos) that an actor takes at a time."""

    @model_validator(mode="after")
    def _check_sizes(self) -> Self:
        if self.max_size < self.min_size:
            raise ValueError(
                f"max_size {self.max_size} is less than min_size {self.min_size}; raise max_size"
            )
        initial = self.initial_size
        if initial is not None and not self.min_size <= initial <= self.max_size:
            raise ValueError(
                f"initial_size {initial} is not between min_size {self.min_size} and max_size "
                f"{self.max_size}; change it"
            )
        return self


def flatten(values: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested dicts -> one dict with dotted keys; an empty dict is a value."""
    flat: dict[str, Any] = {}
    for name, value in values.items():
        if isinstance(value, dict) and value:
            flat |= flatten(value, f"{prefix}{name}.")
        else:
            flat[f"{prefix}{name}"] = value
    return flat
