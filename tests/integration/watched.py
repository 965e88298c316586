"""A local cluster whose nodes and actors are watched while a job runs on it."""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import ray.util.state as state

from cluster.local.local_cluster import GROUP_LABEL, LocalCluster
from tests.integration.jobs import started_job


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
        return next(iter(self.nodes_of(actor_class)), None)

    def nodes_of(self, actor_class: str) -> list[str]:
        """The node of each actor of that class."""
        return [one.node_id for one in self._actors() if actor_class in one.class_name]

    def _actors(self) -> list[Any]:
        """Those that live."""
        return state.list_actors(
            self.cluster.dashboard,
            filters=[("state", "=", "ALIVE")],
            raise_on_missing_output=False,
        )


def pairs_command(videos: list[Path], folder: Path, *words: str) -> tuple[str, ...]:
    """The words of generate_pairs; its run is `run` in the folder."""
    embedded = ("--config", "embedded")
    return (*embedded, f"run={folder}/run", f"videos.input={videos[0].parent}", *words)


def generate_pairs(
    watched: Watched,
    videos: list[Path],
    folder: Path,
    *words: str,
    meanwhile: Callable[[], None] = lambda: None,
) -> tuple[int, str]:
    """The job's exit status and lines. `meanwhile` is called every second."""
    log = folder / "log.txt"
    command = pairs_command(videos, folder, *words)
    environment = watched.cluster.environment
    with started_job("generate_pairs", *command, log=log, environment=environment) as job:

        def ended() -> bool:
            watched.look()
            return job.poll() is not None

        deadline = time.monotonic() + 400
        while not ended():
            assert time.monotonic() < deadline, log.read_text()[-3000:]
            meanwhile()
            time.sleep(1)
    return job.returncode, log.read_text()
