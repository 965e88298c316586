"""Groups of nodes -> a Ray cluster on this machine, every node a raylet of its own.

With the autoscaler, nodes start and stop as the load asks for them: Ray's own autoscaler (version
2) with its provider of local nodes. Without it, every group has `max_nodes` nodes from the start.
What is started is stopped, by process id, and nothing else.
"""

import contextlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Self

import psutil
import yaml
from pydantic import (
    BaseModel,
    ConfigDict,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
)

from tempo_ray.processes import free_port

HEAD_ID = "f" * 51 + "00000"
"""Of the head node, as Ray's provider of local nodes expects it."""
HEAD_TYPE = "ray.head.default"
GROUP_LABEL = "tempo-ray/group"
MONITORING = Path(__file__).parents[1] / "monitoring"


class NodeGroup(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    cpus: PositiveInt
    """Logical CPUs of a node."""
    gpus: NonNegativeInt = 0
    """Logical GPUs of a node."""
    memory_bytes: PositiveInt = 4_000_000_000
    """Logical memory of a node."""
    min_nodes: NonNegativeInt = 0
    max_nodes: PositiveInt = 1

    def resources(self) -> dict[str, int]:
        return {"CPU": self.cpus, "GPU": self.gpus, "memory": self.memory_bytes}


class LocalClusterConfig(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    groups: Mapping[str, NodeGroup]
    """Each node carries its group's name as the label `tempo-ray/group`."""
    autoscale: bool = True
    idle_timeout_s: PositiveFloat = 20
    """A node that has been idle for so long is stopped."""
    object_store_bytes: PositiveInt = 100_000_000
    """Of each node."""


class LocalCluster:
    """A head node without CPUs, and the nodes of the groups. A context manager: it ends with it."""

    def __init__(self, config: LocalClusterConfig) -> None:
        self._config = config
        self._folder = Path(tempfile.mkdtemp(prefix="tempo-ray-"))  # short: sockets lie in it
        self._port = free_port()
        self._dashboard_port = free_port()

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self._port}"

    @property
    def dashboard(self) -> str:
        return f"http://127.0.0.1:{self._dashboard_port}"

    @property
    def metrics_targets(self) -> Path:
        """File in which the head lists what Prometheus is to scrape."""
        return self._folder / "prom_metrics_service_discovery.json"

    def prometheus_config(self, interval_s: int = 10) -> Path:
        """cluster/monitoring/prometheus.yml for this cluster's nodes, with this interval between
        scrapes."""
        config = yaml.safe_load((MONITORING / "prometheus.yml").read_text())
        every = f"{interval_s}s"
        config["global"] = {"scrape_interval": every, "evaluation_interval": every}
        [discovery] = config["scrape_configs"][0]["file_sd_configs"]
        discovery["files"] = [str(self.metrics_targets)]
        discovery["refresh_interval"] = every
        config["rule_files"] = [str(MONITORING / file) for file in config["rule_files"]]
        file = self._folder / "prometheus.yml"
        file.write_text(yaml.safe_dump(config))
        return file

    @property
    def environment(self) -> dict[str, str]:
        """What a driver's environment needs to reach the cluster."""
        return {
            "RAY_ADDRESS": self.address,
            "RAY_API_SERVER_ADDRESS": self.dashboard,
            "RAY_AUTH_MODE": "disabled",
        }

    def __enter__(self) -> Self:
        with contextlib.ExitStack() as unfinished:
            unfinished.callback(self.stop)
            self._start_head()
            if not self._config.autoscale:
                for name, group in self._config.groups.items():
                    for _ in range(group.max_nodes):
                        self.add_node(name)
            unfinished.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def _start_head(self) -> None:
        arguments = [
            "--head",
            f"--port={self._port}",
            "--num-cpus=0",
            "--num-gpus=0",
            f"--dashboard-port={self._dashboard_port}",
            f"--temp-dir={self._folder}",
        ]
        environment = {}
        if self._config.autoscale:
            file = self._folder / "autoscaler.json"
            file.write_text(json.dumps(autoscaler_config(self._config, self.address), indent=2))
            arguments.append(f"--autoscaling-config={file}")
            environment = {
                "PYTHONPATH": str(Path(__file__).parents[2]),  # of the provider
                "RAY_FAKE_CLUSTER": "1",
                "AUTOSCALER_UPDATE_INTERVAL_S": "1",
                "RAY_enable_autoscaler_v2": "1",
                "RAY_CLOUD_INSTANCE_ID": HEAD_ID,
                "RAY_OVERRIDE_NODE_ID_FOR_TESTING": HEAD_ID,
            }
        self._ray_start(arguments, environment)

    def add_node(self, group: str) -> None:
        """Starts one more node of a group, in a cluster without the autoscaler."""
        node = self._config.groups[group]
        self._ray_start(
            [
                f"--address={self.address}",
                f"--num-cpus={node.cpus}",
                f"--num-gpus={node.gpus}",
                f"--memory={node.memory_bytes}",
                f"--labels={GROUP_LABEL}={group}",
            ],
            {},
        )

    def _ray_start(self, arguments: Sequence[str], environment: Mapping[str, str]) -> None:
        run_ray(
            "start",
            *arguments,
            "--node-ip-address=127.0.0.1",
            f"--object-store-memory={self._config.object_store_bytes}",
            # ports of its own for every node: all are on this machine
            "--min-worker-port=0",
            "--max-worker-port=0",
            "--dashboard-agent-listen-port=0",
            "--disable-usage-stats",
            environment=environment,
        )

    def kill_node(self, node_id: str) -> None:
        """Kills the node's raylet and all its processes at one stroke, as a lost machine would."""
        [raylet] = [
            process
            for process in self.processes()
            if f"--node_id={node_id}" in process.cmdline() and process.name() == "raylet"
        ]
        _kill([raylet, *raylet.children(recursive=True)])

    def kill_head(self) -> None:
        """Kills the head's control store and raylet, with what they have started."""
        heads = [
            process
            for process in self.processes()
            if process.name() == "gcs_server" or "--head" in process.cmdline()
        ]
        _kill([one for head in heads for one in (head, *head.children(recursive=True))])

    def warn_node(self, node_id: str, seconds: int) -> None:
        """Tells the cluster that the node will be taken away in so many seconds, as clouds warn of
        a spot node's end. Nothing new is placed on it. It is the caller who then kills it."""
        run_ray(
            "drain-node",
            f"--address={self.address}",
            f"--node-id={node_id}",
            "--reason=DRAIN_NODE_REASON_PREEMPTION",
            "--reason-message=a spot node is taken away",
            f"--deadline-remaining-seconds={seconds}",
            environment=self.environment,
        )

    def processes(self) -> list[psutil.Process]:
        """All processes of the cluster: those that name its folder, which is theirs alone, and what
        they have started. Workers change their command lines, and are found as children."""
        found: dict[int, psutil.Process] = {}
        for process in psutil.process_iter(["cmdline"]):
            if any(str(self._folder) in word for word in process.info["cmdline"] or ()):
                with contextlib.suppress(psutil.NoSuchProcess):
                    for one in (process, *process.children(recursive=True)):
                        found[one.pid] = one
        found.pop(os.getpid(), None)
        return list(found.values())

    def stop(self) -> None:
        """Kills every process of the cluster and deletes its folder."""
        for _ in range(10):  # what dies may just have started something
            processes = self.processes()
            if not processes:
                break
            _kill(processes)
            psutil.wait_procs(processes, timeout=5)
        shutil.rmtree(self._folder, ignore_errors=True)


def run_ray(*words: str, environment: Mapping[str, str], timeout_s: float | None = 120) -> str:
    """What a command of Ray prints. `environment` is added to this process's, of which nothing that
    is meant for another cluster is kept.

    Raises RuntimeError with its output, if it fails.
    """
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    finished = subprocess.run(
        [str(Path(sys.executable).with_name("ray")), *words],
        env=inherited | {"RAY_AUTH_MODE": "disabled"} | dict(environment),
        capture_output=True,
        text=True,
        timeout=timeout_s,
    )
    if finished.returncode:
        output = f"{finished.stdout}\n{finished.stderr}".strip()
        raise RuntimeError(f"ray {' '.join(words)}\nfailed:\n{output[-4000:]}")
    return finished.stdout


def _kill(processes: Sequence[psutil.Process]) -> None:
    for process in processes:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()


def autoscaler_config(config: LocalClusterConfig, address: str) -> dict[str, Any]:
    """What `ray start --autoscaling-config` takes, for nodes on this machine."""
    types: dict[str, Any] = {
        HEAD_TYPE: {"resources": {"CPU": 0}, "node_config": {}, "max_workers": 0},
    }
    for name, group in config.groups.items():
        store = {"object_store_memory": config.object_store_bytes}
        types[name] = {
            "resources": group.resources() | store,
            "labels": {GROUP_LABEL: name},
            "node_config": {},
            "min_workers": group.min_nodes,
            "max_workers": group.max_nodes,
        }
    empty_lists = (
        "cluster_synced_files",
        "rsync_exclude",
        "rsync_filter",
        "initialization_commands",
        "setup_commands",
        "head_setup_commands",
        "worker_setup_commands",
        "head_start_ray_commands",
        "worker_start_ray_commands",
    )
    return {
        "cluster_name": "local",
        "max_workers": sum(group.max_nodes for group in config.groups.values()),
        "idle_timeout_minutes": config.idle_timeout_s / 60,
        "upscaling_speed": 1.0,
        "provider": {
            "type": "external",
            "module": "cluster.local.provider.LocalNodeProvider",
            "use_node_id_as_ip": True,
            "disable_node_updaters": True,
            "disable_launch_config_check": True,
            "gcs_address": address,
            "launch_multiple": True,
            "head_node_id": HEAD_ID,
        },
        "available_node_types": types,
        "head_node_type": HEAD_TYPE,
        "auth": {},
        "docker": {},
        "file_mounts": {},
        "file_mounts_sync_continuously": False,
        **{name: [] for name in empty_lists},
    }
