"""The files of cluster/ as Python values, and the nodes that they ask for."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from ray.autoscaler._private.kuberay.autoscaling_config import (
    _derive_autoscaling_config_from_ray_cr,
)
from ray.autoscaler._private.util import prepare_config

ROOT = Path(__file__).parents[2]
CLUSTER = ROOT / "cluster"
GROUP_LABEL = "tempo-ray/group"
PROJECT = (ROOT / "pyproject.toml").read_text()

Manifest = dict[str, Any]


def pinned(package: str, device: str = "gpu") -> str:
    """The version of a package in requirements/DEVICE.txt."""
    text = (ROOT / "requirements" / f"{device}.txt").read_text()
    found = re.search(rf"^{re.escape(package)}==([\w.]+)$", text, re.MULTILINE)
    assert found, f"requirements/{device}.txt does not pin {package}"
    return found[1]


def project_version() -> str:
    found = re.search(r'^version = "(.+)"$', PROJECT, re.MULTILINE)
    assert found
    return found[1]


def load(file: Path) -> Manifest:
    """The one document of a YAML file."""
    [manifest] = yaml.safe_load_all(file.read_text())
    assert isinstance(manifest, dict)
    return manifest


KUBERAY = {file.name: load(file) for file in sorted((CLUSTER / "kuberay").glob("ray-*.yaml"))}
VMS = {file.name: load(file) for file in sorted((CLUSTER / "vm").glob("*.yaml"))}


def cluster_spec(manifest: Manifest) -> Manifest:
    """The RayClusterSpec of a RayCluster, RayJob or RayService."""
    spec = manifest["spec"]
    key = {"RayJob": "rayClusterSpec", "RayService": "rayClusterConfig"}.get(manifest["kind"])
    found = spec if key is None else spec[key]
    assert isinstance(found, dict)
    return found


def pod_templates(manifest: Manifest) -> dict[str, Manifest]:
    """Name of a group -> its pod template, the submitter's included."""
    spec = cluster_spec(manifest)
    templates = {"head": spec["headGroupSpec"]["template"]}
    templates |= {group["groupName"]: group["template"] for group in spec["workerGroupSpecs"]}
    if manifest["kind"] == "RayJob":
        templates["submitter"] = manifest["spec"]["submitterPodTemplate"]
    return templates


def containers(manifest: Manifest) -> Iterator[tuple[str, Manifest]]:
    """Every container that a manifest describes, but the autoscaler's, with a name for it."""
    for name, template in pod_templates(manifest).items():
        spec = template["spec"]
        for container in [*spec.get("initContainers", []), *spec["containers"]]:
            yield f"{name}/{container['name']}", container


@dataclass(frozen=True)
class Group:
    """Nodes of one kind, as the autoscaler knows them."""

    cpus: float
    gpus: float
    memory: int | None
    """Bytes; None where the file does not say, and the autoscaler takes a node to have none."""
    min_nodes: int
    max_nodes: int
    labels: dict[str, str]

    def nodes_for(self, cpus: float, gpus: float) -> int:
        """How many of these fit a node."""
        fits = self.cpus // cpus
        return int(min(fits, self.gpus // gpus) if gpus else fits)


def _group(node_type: Manifest) -> Group:
    resources = node_type["resources"]
    return Group(
        cpus=resources.get("CPU", 0),
        gpus=resources.get("GPU", 0),
        memory=resources.get("memory"),
        min_nodes=node_type["min_workers"],
        max_nodes=node_type["max_workers"],
        labels=node_type.get("labels") or {},
    )


def kuberay_groups(manifest: Manifest) -> dict[str, Group]:
    """Group name -> group, the head's included, as Ray's autoscaler reads a RayCluster. Raises
    ValueError for what it refuses."""
    cluster = {
        "metadata": {"name": "test", "namespace": "default"},
        "spec": cluster_spec(manifest),
    }
    node_types = _derive_autoscaling_config_from_ray_cr(cluster)["available_node_types"]
    return {name: _group(node_type) for name, node_type in node_types.items()}


def vm_groups(config: Manifest) -> dict[str, Group]:
    """The same of a file for `ray up`."""
    node_types = prepare_config(config)["available_node_types"]
    return {name: _group(node_type) for name, node_type in node_types.items()}
