"""What must be set before any test imports anything.

Array shapes are checked at run time: each annotation of the modules below, on each call in a test.
"""

import os
from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest
from hypothesis import settings
from jaxtyping import install_import_hook

if TYPE_CHECKING:
    from tests.recorded import Recorded

install_import_hook(
    [
        f"tempo_ray.train.{module}"
        for module in ("attention", "batch", "loss", "objective", "policy", "sequences")
    ],
    "beartype.beartype",
)

if "PYTEST_XDIST_WORKER" in os.environ:
    # Test processes side by side, each with a thread per core, would wait for each other.
    os.environ.setdefault("OMP_NUM_THREADS", "1")


# a machine that is busy for a second must not fail a test
settings.register_profile("any_machine", deadline=None)
settings.load_profile("any_machine")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Files with real engines first: handed out last, one would keep a process busy alone."""
    items.sort(key=lambda item: "integration" not in item.path.parts)


@pytest.fixture(scope="session")
def ray_cluster() -> Iterator[None]:
    """The one Ray of this process: the jobs that run in it use it."""
    import ray

    from tempo_ray.cluster import connect
    from tempo_ray.config import RayConfig

    connect(RayConfig(num_cpus=8))
    yield
    ray.shutdown()


@pytest.fixture
def recorded(monkeypatch: pytest.MonkeyPatch) -> "list[Recorded]":
    """What is recorded as metrics, without Ray."""
    from tests.recorded import Recorder

    samples: list[Recorded] = []
    monkeypatch.setattr("tempo_ray.metrics._recorder", lambda metric: Recorder(metric, samples))
    return samples
