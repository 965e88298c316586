"""A config and a run -> whether its answers were made alike."""

import json

from tempo_ray.config import GeneratePairsConfig
from tempo_ray.paths import RunPaths, exists, read_bytes


class OtherSettings(ValueError):
    """The run was begun with other settings; the message names one."""


def check_settings(config: GeneratePairsConfig) -> None:
    """All answers of a run are made alike: what they depend on is written down before the first of them.

    Raises OtherSettings where the run has answers that were made otherwise.
    """
    paths = RunPaths(config.run)
    if not (exists(paths.settings) and exists(paths.answers)):
        return
    before = json.loads(read_bytes(paths.settings))
    for name, value in config.settings().items():
        if before.get(name) != value:
            begun = f"run={config.run} was begun with {name}={before.get(name)}, not {value}"
            raise OtherSettings(f"{begun}: give another run=, or the settings it was begun with")
