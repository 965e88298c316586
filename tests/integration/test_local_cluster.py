"""generate_pairs on clusters that start with no node: all nodes are on this machine, and Ray's own
autoscaler adds them."""

import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from cluster.local.local_cluster import GROUP_LABEL, LocalCluster, LocalClusterConfig, NodeGroup
from tests.integration.watched import Watched, generate_pairs

CPU = {"cpu": NodeGroup(cpus=4, max_nodes=2)}
GPU = {"gpu": NodeGroup(cpus=4, gpus=1, max_nodes=2)}
POOLS = (
    "select.pool.max_size=4",
    "select.pool.cpus=2",
    "respond.pool.max_size=2",
    "respond.pool.cpus=2",
    "respond.pool.gpus=1",
    "respond.pool.batch_rows=4",
)


@pytest.fixture
def watched(request: pytest.FixtureRequest) -> Iterator[Watched]:
    """A cluster of the parameter's groups, none of whose nodes has started yet."""
    config = LocalClusterConfig(groups=request.param, idle_timeout_s=10)
    with LocalCluster(config) as cluster:
        yield Watched(cluster)


@pytest.mark.parametrize("watched", [GPU], indirect=True)
def test_a_run_ends_on_a_node_that_its_actors_fill(
    watched: Watched, drawn_videos: list[Path], tmp_path: Path
) -> None:
    """One actor of each pool takes all CPUs of the first node: nothing else may need any."""
    status, log = generate_pairs(watched, drawn_videos, tmp_path, *POOLS)
    assert status == 0, log[-3000:]
    assert f"videos in {len(drawn_videos)} = kept {len(drawn_videos)}" in log


@pytest.mark.parametrize("watched", [CPU | GPU], indirect=True)
def test_from_zero_nodes_each_pool_gets_its_group_and_gives_it_back(
    watched: Watched, drawn_videos: list[Path], tmp_path: Path
) -> None:
    selectors = (
        f"select.pool.label_selector={{{GROUP_LABEL}: cpu}}",
        f"respond.pool.label_selector={{{GROUP_LABEL}: gpu}}",
    )
    assert set(watched.groups().values()) == {"head"}
    status, log = generate_pairs(watched, drawn_videos, tmp_path, *POOLS, *selectors)
    assert status == 0, log[-3000:]
    workers = {(name, group) for name, group in watched.actors if "MapWorker" in name}
    assert {group for name, group in workers if "SelectClips" in name} == {"cpu"}
    assert {group for name, group in workers if "WriteAnswers" in name} == {"gpu"}
    assert ("Progress", "head") in watched.actors
    assert watched.most_nodes["cpu"] >= 1
    assert watched.most_nodes["gpu"] >= 1
    deadline = time.monotonic() + 60
    while set(watched.groups().values()) != {"head"}:
        assert time.monotonic() < deadline, watched.groups()
        time.sleep(1)


@pytest.mark.parametrize("watched", [CPU], indirect=True)
def test_an_actor_that_no_node_can_hold_is_named_within_a_minute(
    watched: Watched, drawn_videos: list[Path], tmp_path: Path
) -> None:
    began = time.monotonic()
    status, log = generate_pairs(watched, drawn_videos, tmp_path, *POOLS, "select.pool.cpus=8")
    assert time.monotonic() - began < 60
    assert status == 2
    assert "no node of the cluster can hold select.pool (8 CPU); respond.pool (2 CPU, 1 GPU)" in log
