"""A tiny model of each family and a few drawn videos, made once for all tests."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from tempo_ray.shapeworld.build import FAMILIES, make_random
from tempo_ray.shapeworld.render import write_video
from tempo_ray.shapeworld.story import draw_story


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Threads that wait for each other make tiny models slow on a busy machine."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("models")
    for family in FAMILIES:
        make_random(family, root / family, hidden=128)
    return {family: root / family for family in FAMILIES}


@pytest.fixture(scope="session")
def videos(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    root = tmp_path_factory.mktemp("videos")
    rng = np.random.default_rng(0)
    paths = [root / f"{number}.mp4" for number in range(3)]
    for path, shots in zip(paths, (2, 3, 4), strict=True):
        write_video(draw_story(rng, shots), path, 24, 64, 64)
    return [str(path) for path in paths]
