"""Metrics without Ray, which exports them only from a cluster: what was recorded, in order."""

from typing import NamedTuple

from tempo_ray.metrics import Metric


class Recorded(NamedTuple):
    name: str
    value: float
    tags: dict[str, str]


class Recorder:
    """Takes the place of a metric of Ray; tags must be those that the metric declares."""

    def __init__(self, metric: Metric, recorded: list[Recorded]) -> None:
        self._metric = metric
        self._recorded = recorded

    def record(self, value: float, tags: dict[str, str]) -> None:
        assert set(tags) == set(self._metric.tags), self._metric.name
        self._recorded.append(Recorded(self._metric.name, value, tags))

    inc = set = observe = record
