"""A Ray config -> a driver connected to the job's cluster, a running one, or one started here; and
what a job asks of nodes and of memory -> refused where it cannot be had."""

import logging
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
import ray
from ray._raylet import GcsClient  # type: ignore[attr-defined]
from ray.core.generated import autoscaler_pb2
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from tempo_ray.config import EngineConfig, Placement, RayConfig
from tempo_ray.errors import UserError
from tempo_ray.models.check import weight_bytes

PROCESS_BYTES = 1_000_000_000
"""Private memory of a process that has imported torch, transformers and vLLM."""
START_ATTEMPTS = 3
JOIN_SECONDS = 40


def connect(config: RayConfig) -> None:
    """Connects this process to Ray; inside `ray job submit`, to the job's cluster.

    The workers' output stays in Ray's logs. Raises UserError where `config.address` names a cluster
    that does not answer.
    """
    if ray.is_initialized():
        return
    address = _address(config)
    if address:
        try:
            ray.init(address=address, logging_level=logging.WARNING, log_to_driver=False)
        except (ConnectionError, ValueError) as error:
            reason = str(error).splitlines()[0]
            raise UserError(f"no Ray cluster answers at {address}: {reason}") from None
        return
    for attempt in range(1, START_ATTEMPTS + 1):
        try:
            _start(config)
        except Exception as error:  # Ray raises nothing narrower when its node takes over 30 s
            ray.shutdown()
            if "timed out during startup" not in str(error) or attempt == START_ATTEMPTS:
                raise
            print("Ray did not start within 30 s: the machine is busy; retrying", flush=True)
        else:
            return


def on_this_node() -> NodeAffinitySchedulingStrategy:
    """Where the driver is: no other node's death takes along an actor that is put there."""
    return NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)


def is_shared(config: RayConfig) -> bool:
    """Whether Ray is a cluster that others may use, not one that this process starts."""
    return _address(config) is not None


def _address(config: RayConfig) -> str | None:
    return config.address or os.environ.get("RAY_ADDRESS")


def _start(config: RayConfig) -> None:
    # Ray Data reads Parquet footers with 32 actors, and each takes a second of CPU to start: on one
    # machine, half of the CPU time of a small job.
    os.environ.setdefault("RAY_DATA_PARQUET_FOOTER_NUM_ACTORS", "1")
    # Logical CPUs: with only the two real ones of a small machine, an actor pool, its writer and a
    # driver task cannot all be placed, and a plan waits forever.
    ray.init(
        address="local",
        num_cpus=config.num_cpus or max(8, os.cpu_count() or 1),
        object_store_memory=config.object_store_bytes,
        include_dashboard=config.dashboard,
        logging_level=logging.WARNING,
        log_to_driver=False,
    )


@dataclass(frozen=True)
class NodeRequest:
    """What one actor or worker takes of the node that it runs on."""

    name: str
    """The config's field that asks for it."""
    resources: Mapping[str, float]
    """By Ray's names: CPU, GPU, memory in bytes, and custom ones."""
    labels: Mapping[str, str] = field(default_factory=dict)
    """Ray's label selector."""

    @classmethod
    def of(cls, name: str, cpus: float, gpus: float, placement: Placement) -> "NodeRequest":
        """What is 0 is not asked for."""
        resources = {"CPU": cpus, "GPU": gpus, "memory": float(placement.memory)}
        resources |= placement.resources or {}
        asked = {kind: amount for kind, amount in resources.items() if amount}
        return cls(name, asked, placement.label_selector or {})

    def fits(self, node: Mapping[str, Any]) -> bool:
        """Whether the node, one of ray.nodes(), could hold it if it were empty."""
        total, labels = node["Resources"], node["Labels"]
        return (
            bool(node["Alive"])
            and all(total.get(kind, 0) >= amount for kind, amount in self.resources.items())
            and all(_selects(value, labels.get(key)) for key, value in self.labels.items())
        )

    def __str__(self) -> str:
        units = [f"{amount:g} {kind}" for kind, amount in self.resources.items()]
        units += [f"{key}={value}" for key, value in self.labels.items()]
        return f"{self.name} ({', '.join(units)})"


def _selects(selector: str, label: str | None) -> bool:
    """Ray's label selectors: `a`, `!a`, `in(a, b)`, `!in(a, b)`."""
    wanted = selector.removeprefix("!")
    if wanted.startswith("in("):
        among = {value.strip() for value in wanted[3:].removesuffix(")").split(",")}
    else:
        among = {wanted}
    return (label in among) != selector.startswith("!")


def check_nodes(config: RayConfig, requests: Sequence[NodeRequest]) -> None:
    """Raises UserError where neither a node nor, as far as its autoscaler (version 2) says, a node
    type of the cluster can hold a request, which Ray would let wait without a word.

    Nodes that the autoscaler can add are asked for and not waited for. Where it says nothing, a
    node has JOIN_SECONDS to join a cluster, and none can join a Ray started here.
    """
    deadline = time.monotonic() + (JOIN_SECONDS if is_shared(config) else 0)
    unmet = _unmet(requests)
    with _asked_for(unmet):
        while unmet:
            status = autoscaler_pb2.GetClusterStatusReply()  # type: ignore[attr-defined]
            status.ParseFromString(
                GcsClient(address=ray.get_runtime_context().gcs_address).get_cluster_status()
            )
            impossible = [
                request
                for request in unmet
                if _lists(status.autoscaling_state.infeasible_resource_requests, request)
            ]
            if not impossible and time.monotonic() > deadline:
                impossible = unmet
            if impossible:
                nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
                sizes = sorted({f"{n.get('CPU', 0):g} CPU, {n.get('GPU', 0):g} GPU" for n in nodes})
                raise UserError(
                    f"no node of the cluster can hold {'; '.join(map(str, impossible))}, and none "
                    f"that it can add; its nodes now: {'; '.join(sizes)}. Ask for less, or give "
                    "the cluster larger nodes"
                )
            if all(_has_been_seen(status, request) for request in unmet):
                return
            time.sleep(0.5)
            unmet = _unmet(unmet)


def _unmet(requests: Sequence[NodeRequest]) -> list[NodeRequest]:
    nodes = ray.nodes()
    return [request for request in requests if not any(map(request.fits, nodes))]


@contextmanager
def _asked_for(requests: Sequence[NodeRequest]) -> Iterator[None]:
    """Within it, a task asks for each request's resources, so that the autoscaler sees them."""

    def nothing() -> None:
        pass

    tasks = []
    for request in requests:
        custom = dict(request.resources)
        options = {
            "num_cpus": custom.pop("CPU", 0),
            "num_gpus": custom.pop("GPU", 0),
            "memory": custom.pop("memory", None),
            "resources": custom or None,
            "label_selector": dict(request.labels) or None,
        }
        tasks.append(ray.remote(nothing).options(**options).remote())
    try:
        yield
    finally:
        for task in tasks:
            ray.cancel(task)


def _lists(asked: Sequence[Any], request: NodeRequest) -> bool:
    """Whether the request is among the ResourceRequest messages."""
    keys = sorted(request.labels)
    return any(
        dict(one.resources_bundle) == dict(request.resources)
        and keys
        == sorted(
            constraint.label_key
            for selector in one.label_selectors
            for constraint in selector.label_constraints
        )
        for one in asked
    )


def _has_been_seen(status: Any, request: NodeRequest) -> bool:
    """Whether the autoscaler has decided on the request, which is pending."""
    state = status.cluster_resource_state
    pending = [one.request for one in state.pending_resource_requests]
    decided = status.autoscaling_state.last_seen_cluster_resource_state_version
    return _lists(pending, request) and decided >= state.cluster_resource_state_version


def engine_bytes(model: str, engine: EngineConfig) -> int:
    """Minimum RAM of one CPU engine: a process, the weights in their dtype, the KV cache."""
    widening = 2 if engine.dtype == "float32" else 1  # weights on disk have two bytes per element
    return PROCESS_BYTES + widening * weight_bytes(model) + (engine.kv_cache_bytes or 0)


def check_memory(config: RayConfig, needed: int, advice: str) -> None:
    """Raises UserError where this machine lacks `needed` bytes for a Ray started here. Of a cluster
    nothing is known yet, and nothing is checked."""
    free = free_bytes()
    if not is_shared(config) and needed > free:
        raise UserError(
            f"{needed / 1e9:.1f} GB of memory are needed, {free / 1e9:.1f} GB are free: {advice}"
        )


def free_bytes() -> int:
    """Bytes that this process and its children may still allocate: the machine's free memory,
    limited by the control group (version 2) if there is one."""
    free = psutil.virtual_memory().available
    group = Path("/sys/fs/cgroup")
    try:
        limit = int((group / "memory.max").read_text())  # ValueError for `max`: no limit
        used = int((group / "memory.current").read_text())
        stats = dict(line.split() for line in (group / "memory.stat").read_text().splitlines())
    except (OSError, ValueError):
        return free
    return min(free, limit - used + int(stats.get("inactive_file", 0)))
