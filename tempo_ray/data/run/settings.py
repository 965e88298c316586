"""A config and a run -> whether the run can be resumed with that config, and by this release."""

import json

from tempo_ray.config import GeneratePairsConfig
from tempo_ray.errors import UserError
from tempo_ray.paths import RunPaths
from tempo_ray.schema import SCHEMA_VERSION
from tempo_ray.storage import exists, join, read_bytes, write_bytes
from tempo_ray.tables import open_dataset

_VERSION_2_CHECKPOINT = "ledger"
"""The folder in which schema version 2 had the answers' checkpoint."""


def check_run_version(paths: RunPaths) -> None:
    """Raises UserError where a release with another schema version began the run.

    The manifest tells: it is written first, and its files are whole or absent, while answers/ may
    end in a torn file until it is reconciled.
    """
    open_dataset(paths.videos)
    if exists(join(paths.root, _VERSION_2_CHECKPOINT)):
        raise UserError(
            f"{paths.root} has a folder {_VERSION_2_CHECKPOINT}, which is of schema version 2, and "
            f"this release of tempo_ray reads version {SCHEMA_VERSION}: use the release that wrote "
            "it, or make a new run"
        )


def check_settings(config: GeneratePairsConfig) -> None:
    """All answers of a run depend on the same settings, which are written before the first of them.

    Raises UserError where the run has answers with other settings.
    """
    paths = RunPaths(config.run)
    if not (exists(paths.answer_settings) and exists(paths.answers)):
        return
    before = json.loads(read_bytes(paths.answer_settings))
    for name, value in config.answer_settings().items():
        if before.get(name) != value:
            raise UserError(
                f"run={config.run} was begun with {name}={before.get(name)}, not {value}: "
                "choose another run=, or use the settings it was begun with"
            )


def write_settings(config: GeneratePairsConfig) -> None:
    settings = json.dumps(config.answer_settings(), indent=1)
    write_bytes(RunPaths(config.run).answer_settings, settings.encode())
