"""A cluster -> what it did over time: nodes, what its jobs hold and use, what they have counted."""

import json
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

import httpx
from prometheus_client.parser import text_string_to_metric_families
from ray.autoscaler.v2.sdk import get_cluster_status

from cluster.local.local_cluster import GROUP_LABEL, LocalCluster
from tempo_ray.metrics import ENGINE_BUSY, VIDEOS

INTERVAL_S = 1.0
COUNTED = {"videos": VIDEOS, "engine_seconds": ENGINE_BUSY}
"""Counters of the jobs that are followed."""


@dataclass(frozen=True)
class Sample:
    seconds: float
    """Since the start."""
    nodes: dict[str, int]
    """By group."""
    actors: dict[str, int]
    """Actors of the jobs, by class."""
    held: dict[str, float]
    """CPU and GPU of the nodes that are there."""
    used: dict[str, float]
    """Of them, what actors and tasks have taken."""
    counted: dict[str, float]
    """`COUNTED`, so far."""


class Watch:
    """Takes samples in a thread while its block runs. What went wrong in it is raised at the end of
    the block."""

    def __init__(self, cluster: LocalCluster) -> None:
        self.samples: list[Sample] = []
        self._cluster = cluster
        self._counted: dict[str, dict[tuple[str, ...], float]] = defaultdict(dict)
        self._ended = threading.Event()
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="watch")
        self._running: Future[None] | None = None
        self._began = time.monotonic()

    def __enter__(self) -> Self:
        self._running = self._thread.submit(self._run)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._ended.set()
        self._thread.shutdown()
        if kind is None and self._running is not None:
            self._running.result()

    @property
    def seconds(self) -> float:
        """Since the start."""
        return time.monotonic() - self._began

    def write(self, file: Path) -> None:
        """A line of JSON per sample."""
        file.write_text("".join(json.dumps(asdict(sample)) + "\n" for sample in self.samples))

    def _run(self) -> None:
        while not self._ended.wait(INTERVAL_S):
            self.samples.append(self._sample())

    def _sample(self) -> Sample:
        status = get_cluster_status(self._cluster.address)
        groups: Counter[str] = Counter()
        held: defaultdict[str, float] = defaultdict(float)
        used: defaultdict[str, float] = defaultdict(float)
        for node in (*status.active_nodes, *status.idle_nodes):
            group = (node.labels or {}).get(GROUP_LABEL)
            if group is None:
                continue  # the head
            groups[group] += 1
            for name in ("CPU", "GPU"):
                held[name] += node.total_resources().get(name, 0)
                used[name] += node.used_resources().get(name, 0)
        actors = self._scrape()
        counted = {name: sum(series.values()) for name, series in self._counted.items()}
        return Sample(round(self.seconds, 1), dict(groups), actors, dict(held), dict(used), counted)

    def _scrape(self) -> dict[str, int]:
        """Reads what the nodes export, as Prometheus does. A counter of a process that has ended
        stays counted. Returns the living actors by class."""
        actors: Counter[str] = Counter()
        for target in self._targets():
            try:
                text = httpx.get(f"http://{target}/metrics", timeout=5).text
            except httpx.HTTPError:
                continue  # a node that has just gone
            for family in text_string_to_metric_families(text):
                for sample in family.samples:
                    for name, metric in COUNTED.items():
                        if sample.name == metric.exported:
                            self._counted[name][_key(sample.labels, target)] = sample.value
                    if sample.name == "ray_actors" and sample.labels.get("State") == "ALIVE":
                        actors[sample.labels.get("Name", "")] += int(sample.value)
        return dict(actors)

    def _targets(self) -> list[str]:
        try:
            listed = json.loads(self._cluster.metrics_targets.read_text())
        except (OSError, ValueError):
            return []
        return [target for group in listed for target in group["targets"]]


def _key(labels: Mapping[str, str], target: str) -> tuple[str, ...]:
    return (target, *(f"{name}={value}" for name, value in sorted(labels.items())))
