"""Jobs on three nodes of which one is lost, and a job that loses its cluster's head: the same pairs
and the same weights come out. All nodes are on this machine."""

import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pyarrow.dataset as ds
import pytest
import torch
from safetensors.torch import load_file

from cluster.local.local_cluster import LocalCluster, LocalClusterConfig, NodeGroup
from tests.integration.jobs import started_job, wait_until
from tests.integration.watched import Watched, generate_pairs, pairs_command
from tests.train.stages import make_inputs

THREE_NODES = LocalClusterConfig(groups={"cpu": NodeGroup(cpus=4, max_nodes=3)}, autoscale=False)


@pytest.fixture(scope="module")
def fixed() -> Iterator[Watched]:
    """Three nodes, all there from the start."""
    with LocalCluster(THREE_NODES) as cluster:
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


class Loss:
    """Loses the node of an actor once, when it is called after `ready` has come true; with
    `warning_s`, the cluster is told so many seconds before."""

    def __init__(
        self,
        watched: Watched,
        actor_class: str,
        ready: Callable[[], bool] = lambda: True,
        warning_s: int = 0,
    ) -> None:
        self.watched, self.actor_class, self.ready = watched, actor_class, ready
        self.warning_s = warning_s
        self.node: str | None = None
        self.dead = False
        self._deadline = 0.0

    def __call__(self) -> None:
        if self.node is None and self.ready():
            self.node = self.watched.node_of(self.actor_class)
            if self.node is not None and self.warning_s:
                self.watched.cluster.warn_node(self.node, self.warning_s)
            self._deadline = time.monotonic() + self.warning_s
        if self.node is not None and not self.dead and time.monotonic() >= self._deadline:
            self.watched.cluster.kill_node(self.node)
            self.dead = True


@pytest.mark.parametrize(
    ("actor_class", "warning_s"), [("SelectClips", 0), ("WriteAnswers", 0), ("WriteAnswers", 5)]
)
def test_a_lost_node_changes_no_pair(
    fixed: Watched,
    undisturbed: list[tuple[str, ...]],
    drawn_videos: list[Path],
    tmp_path: Path,
    actor_class: str,
    warning_s: int,
) -> None:
    """An engine's node is killed when its first answers are there, or warned as it starts."""

    def ready() -> bool:
        return actor_class == "SelectClips" or warning_s > 0 or bool(answers_in(tmp_path))

    loss = Loss(fixed, actor_class, ready, warning_s)
    status, log = generate_pairs(fixed, drawn_videos, tmp_path, *SPREAD, meanwhile=loss)
    assert status == 0, log[-3000:]
    assert loss.dead
    assert len(undisturbed) > len(drawn_videos)
    assert texts_of_pairs(tmp_path) == undisturbed
    fixed.cluster.add_node("cpu")


def answers_in(folder: Path) -> list[Path]:
    return list((folder / "run" / "answers").glob("*.parquet"))


@pytest.mark.ranks
def test_a_lost_node_changes_no_weight(fixed: Watched, tmp_path: Path) -> None:
    """Two workers on a node each; the third node takes over, from the last checkpoint."""
    words = (
        *make_inputs(tmp_path),
        "recipe=align",
        "align.curriculum.strengths=[8]",
        "workers={count: 2, cpus: 3, gpus: 0, max_failures: 1}",
    )

    def train(name: str, meanwhile: Callable[[], None]) -> dict[str, torch.Tensor]:
        run, log = tmp_path / name, tmp_path / f"{name}.log"
        environment = fixed.cluster.environment
        with started_job("train", *words, f"run={run}", log=log, environment=environment) as job:
            deadline = time.monotonic() + 400
            while job.poll() is None:
                assert time.monotonic() < deadline, log.read_text()[-3000:]
                meanwhile()
                time.sleep(0.2)
        assert job.returncode == 0, log.read_text()[-3000:]
        return load_file(run / "stages" / "align-8" / "merged" / "model.safetensors")

    def has_checkpoint() -> bool:
        folder = tmp_path / "disturbed" / "train" / "checkpoints"
        return any(folder.glob("align-8-*/*/checkpoint.json"))

    loss = Loss(fixed, "RayTrainWorker", has_checkpoint)
    disturbed = train("disturbed", loss)
    assert loss.dead
    fixed.cluster.add_node("cpu")
    weights = train("undisturbed", lambda: None)
    assert disturbed.keys() == weights.keys()
    for name, weight in weights.items():
        assert torch.equal(weight, disturbed[name]), name


def test_without_its_head_a_job_ends_and_another_cluster_resumes_it(
    undisturbed: list[tuple[str, ...]], drawn_videos: list[Path], tmp_path: Path
) -> None:
    """Ray keeps the state of a cluster in its head alone."""
    log = tmp_path / "headless.log"
    command = pairs_command(drawn_videos, tmp_path, *SPREAD)
    with LocalCluster(THREE_NODES) as cluster:
        environment = cluster.environment
        with started_job("generate_pairs", *command, log=log, environment=environment) as job:
            wait_until(lambda: answers_in(tmp_path), job, log)
            cluster.kill_head()
            assert job.wait(120) != 0
    written = {file: file.stat().st_mtime_ns for file in answers_in(tmp_path)}
    with LocalCluster(THREE_NODES) as cluster:
        status, log = generate_pairs(Watched(cluster), drawn_videos, tmp_path, *SPREAD)
        assert status == 0, log[-3000:]
    assert {file: file.stat().st_mtime_ns for file in written} == written
    assert texts_of_pairs(tmp_path) == undisturbed
