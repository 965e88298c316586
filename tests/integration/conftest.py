"""One set of drawn videos for all tests of a process."""

from pathlib import Path

import numpy as np
import pytest

from tempo_ray.shapeworld.render import write_video
from tempo_ray.shapeworld.story import draw_story


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.engine)


@pytest.fixture(scope="session")
def drawn_videos(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Twelve videos of four or five shots."""
    folder = tmp_path_factory.mktemp("drawn")
    files = [folder / f"{seed}.mp4" for seed in range(12)]
    for seed, file in enumerate(files):
        write_video(draw_story(np.random.default_rng(seed), 4 + seed % 2), file, 24, 64, 64)
    return files
