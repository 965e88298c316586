"""A tiny model of each family with random weights."""

import pytest

from tempo_ray.shapeworld.build import FAMILIES, make_random


@pytest.fixture(scope="session")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    folders: dict[str, str] = {}
    for family in FAMILIES:
        folder = tmp_path_factory.mktemp(family)
        make_random(family, folder)
        folders[family] = str(folder)
    return folders
