"""generate_pairs on clusters of several nodes, all on this machine: from zero nodes with Ray's own
autoscaler, and on three nodes of which one is killed."""

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyarrow.dataset as ds
import pytest
import ray.util.state as state

from cluster.local.local_cluster import GROUP_LABEL, LocalCluster, LocalClusterConfig, NodeGroup
from tests.integration.jobs import started_job

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


class Watched:
    """A cluster, and what has run on which group of its nodes so far."""

    def __init__(self, cluster: LocalCluster) -> None:
        self.cluster = cluster
        self.actors: set[tuple[str, str]] = set()
        """(actor class, group)."""
        self.most_nodes: dict[str, int] = {}

    def groups(self) -> dict[str, str]:
        """Living nodes by id -> their group; `head` for the head."""
        nodes = state.list_nodes(
            self.cluster.dashboard,
            filters=[("state", "=", "ALIVE")],
            raise_on_missing_output=False,  # Ray counts filtered nodes as missing
        )
        return {node.node_id: (node.labels or {}).get(GROUP_LABEL, "head") for node in nodes}

    def look(self) -> None:
        groups = self.groups()
        for group in set(groups.values()):
            count = list(groups.values()).count(group)
            self.most_nodes[group] = max(count, self.most_nodes.get(group, 0))
        for actor in self._actors():
            if actor.node_id in groups:
                self.actors.add((actor.class_name, groups[actor.node_id]))

    def node_of(self, actor_class: str) -> str | None:
        """The node of an actor of that class; None where there is none yet."""
        nodes = [one.node_id for one in self._actors() if actor_class in one.class_name]
        return nodes[0] if nodes else None

    def _actors(self) -> list[Any]:
        """Those that live."""
        return state.list_actors(
            self.cluster.dashboard,
            filters=[("state", "=", "ALIVE")],
            raise_on_missing_output=False,
        )


@pytest.fixture
def watched(request: pytest.FixtureRequest) -> Iterator[Watched]:
    """A cluster of the parameter's groups, none of whose nodes has started yet."""
    config = LocalClusterConfig(groups=request.param, idle_timeout_s=10)
    with LocalCluster(config) as cluster:
        yield Watched(cluster)


def generate_pairs(
    watched: Watched,
    videos: list[Path],
    folder: Path,
    *words: str,
    meanwhile: Callable[[], None] = lambda: None,
) -> tuple[int, str]:
    """The job's exit status and lines. `meanwhile` is called every second."""
    log = folder / "log.txt"
    command = ("--config", "embedded", f"run={folder}/run", f"videos.input={videos[0].parent}")
    environment = watched.cluster.environment
    with started_job("generate_pairs", *command, *words, log=log, environment=environment) as job:

        def ended() -> bool:
            watched.look()
            return job.poll() is not None

        deadline = time.monotonic() + 400
        while not ended():
            assert time.monotonic() < deadline, log.read_text()[-3000:]
            meanwhile()
            time.sleep(1)
    return job.returncode, log.read_text()


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


@pytest.fixture(scope="module")
def fixed() -> Iterator[Watched]:
    """Three nodes, all there from the start."""
    config = LocalClusterConfig(groups={"cpu": NodeGroup(cpus=4, max_nodes=3)}, autoscale=False)
    with LocalCluster(config) as cluster:
        yield Watched(cluster)


def texts_of_pairs(folder: Path) -> list[tuple[str, ...]]:
    rows = ds.dataset(folder / "run" / "pairs", format="parquet").to_table().to_pylist()
    return sorted((row["pair_id"], row["prompt"], row["chosen"], row["rejected"]) for row in rows)


SPREAD = ("select.pool.batch_rows=2", "respond.pool.batch_rows=2", "respond.pool.cpus=3")
"""An engine takes a node of its own; twelve videos are six blocks."""


@pytest.fixture(scope="module")
def undisturbed(
    fixed: Watched, drawn_videos: list[Path], tmp_path_factory: pytest.TempPathFactory
) -> list[tuple[str, ...]]:
    folder = tmp_path_factory.mktemp("undisturbed")
    status, log = generate_pairs(fixed, drawn_videos, folder, *SPREAD)
    assert status == 0, log[-3000:]
    return texts_of_pairs(folder)


@pytest.mark.parametrize("actor_class", ["SelectClips", "WriteAnswers"])
def test_a_killed_node_changes_no_pair(
    fixed: Watched,
    undisturbed: list[tuple[str, ...]],
    drawn_videos: list[Path],
    tmp_path: Path,
    actor_class: str,
) -> None:
    killed: list[str] = []

    def kill() -> None:
        """Once: the node of the actor; an engine's when its first answers are there."""
        answered = any((tmp_path / "run" / "answers").glob("*.parquet"))
        if not killed and (answered or actor_class == "SelectClips"):
            node = fixed.node_of(actor_class)
            if node is not None:
                killed.append(node)
                fixed.cluster.kill_node(node)

    status, log = generate_pairs(fixed, drawn_videos, tmp_path, *SPREAD, meanwhile=kill)
    assert status == 0, log[-3000:]
    assert killed
    assert len(undisturbed) > len(drawn_videos)
    assert texts_of_pairs(tmp_path) == undisturbed
    fixed.cluster.add_node("cpu")
