"""cluster/kuberay and cluster/vm: what KubeRay, Kubernetes and `ray up` would refuse, and what must
not be written in a manifest. Nothing is deployed."""

import copy
import json
import re
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jsonschema
import kubernetes_validate
import pytest
from jsonschema.protocols import Validator
from ray._private.label_utils import parse_node_labels_string, validate_node_label_syntax
from ray.autoscaler._private.kuberay.utils import parse_quantity
from ray.autoscaler._private.util import prepare_config, validate_config

from tests.cluster.manifests import (
    CLUSTER,
    GROUP_LABEL,
    KUBERAY,
    VMS,
    Manifest,
    cluster_spec,
    containers,
    kuberay_groups,
    load,
    pinned,
    pod_templates,
    project_version,
    vm_groups,
)

SCHEMAS = Path(__file__).parents[3] / "shared" / "data" / "kuberay"
KUBERNETES = "1.34"
MACHINES = {
    "m7i.xlarge": (4, 0),
    "r7i.4xlarge": (16, 0),
    "p4de.24xlarge": (96, 8),
    "n2-standard-4": (4, 0),
    "n2-highmem-16": (16, 0),
    "a2-ultragpu-8g": (96, 8),
}
"""CPUs and GPUs of the machine types in cluster/vm."""

needs_schemas = pytest.mark.skipif(not SCHEMAS.is_dir(), reason=f"no KubeRay schemas in {SCHEMAS}")
each_kuberay = pytest.mark.parametrize("name", KUBERAY)
each_job = pytest.mark.parametrize("name", [name for name in KUBERAY if "ray-job" in name])
each_vm = pytest.mark.parametrize("name", VMS)


def kuberay_schema(kind: str) -> Validator:
    schema = json.loads((SCHEMAS / f"{kind.lower()}.v1.schema.json").read_text())
    return jsonschema.Draft7Validator(schema)


def as_pod(name: str, template: Manifest) -> Manifest:
    metadata = {"name": name} | template.get("metadata", {})
    return {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": template["spec"]}


def validate_pod(pod: Manifest) -> None:
    kubernetes_validate.validate(pod, KUBERNETES, strict=True)


def test_there_is_a_manifest_for_each_act() -> None:
    assert list(KUBERAY) == [
        "ray-cluster.yaml",
        "ray-job.evaluate.yaml",
        "ray-job.generate-pairs.yaml",
        "ray-job.train.yaml",
        "ray-service.serve.yaml",
    ]
    assert list(VMS) == ["aws.yaml", "gcp.yaml", "on-premises.yaml"]


# Schemas


@needs_schemas
@each_kuberay
def test_kuberay_knows_every_field(name: str) -> None:
    manifest = KUBERAY[name]
    assert manifest["apiVersion"] == "ray.io/v1"
    kuberay_schema(manifest["kind"]).validate(manifest)


def misspell_a_group_field(manifest: Manifest) -> None:
    group = cluster_spec(manifest)["workerGroupSpecs"][0]
    group["minReplica"] = group.pop("minReplicas")


def misspell_a_spec_field(manifest: Manifest) -> None:
    cluster_spec(manifest)["enableInTreeAutoscalling"] = True


def misspell_a_container_field(manifest: Manifest) -> None:
    first_container(manifest)["imagePullPolcy"] = "Always"


def mistype_a_number(manifest: Manifest) -> None:
    cluster_spec(manifest)["workerGroupSpecs"][0]["maxReplicas"] = "many"


def mistype_a_text(manifest: Manifest) -> None:
    cluster_spec(manifest)["headGroupSpec"]["rayStartParams"]["num-cpus"] = 0


def mistype_a_list(manifest: Manifest) -> None:
    first_container(manifest)["volumeMounts"] = "tmp"


def first_container(manifest: Manifest) -> Manifest:
    container = pod_templates(manifest)["cpu"]["spec"]["containers"][0]
    assert isinstance(container, dict)
    return container


@needs_schemas
@each_kuberay
@pytest.mark.parametrize(
    "spoil",
    [
        misspell_a_group_field,
        misspell_a_spec_field,
        misspell_a_container_field,
        mistype_a_number,
        mistype_a_text,
        mistype_a_list,
    ],
)
def test_a_mistake_in_a_manifest_is_caught(name: str, spoil: Callable[[Manifest], None]) -> None:
    manifest = copy.deepcopy(KUBERAY[name])
    spoil(manifest)
    with pytest.raises(jsonschema.ValidationError):
        kuberay_schema(manifest["kind"]).validate(manifest)


@each_kuberay
def test_kubernetes_knows_every_field_of_a_pod(name: str) -> None:
    for group, template in pod_templates(KUBERAY[name]).items():
        validate_pod(as_pod(group, template))


@pytest.mark.parametrize("spoil", [misspell_a_container_field, mistype_a_list])
def test_a_mistake_in_a_pod_is_caught(spoil: Callable[[Manifest], None]) -> None:
    manifest = copy.deepcopy(KUBERAY["ray-cluster.yaml"])
    spoil(manifest)
    with pytest.raises(jsonschema.ValidationError):
        validate_pod(as_pod("cpu", pod_templates(manifest)["cpu"]))


def test_kubernetes_knows_every_field_of_the_service_account() -> None:
    account = load(CLUSTER / "kuberay" / "service-account.yaml")
    assert account["kind"] == "ServiceAccount"
    kubernetes_validate.validate(account, KUBERNETES, strict=True)


# What KubeRay checks beyond its schemas


@each_kuberay
def test_a_name_is_one_that_kuberay_accepts(name: str) -> None:
    assert re.fullmatch(r"[a-z]([-a-z0-9]{0,45}[a-z0-9])?", KUBERAY[name]["metadata"]["name"])


@each_kuberay
def test_autoscaler_v2_starts_from_no_workers(name: str) -> None:
    spec = cluster_spec(KUBERAY[name])
    assert spec["enableInTreeAutoscaling"] is True
    assert spec["autoscalerOptions"]["version"] == "v2"
    assert spec["headGroupSpec"]["rayStartParams"]["num-cpus"] == "0"
    for group in spec["workerGroupSpecs"]:
        assert (group["minReplicas"], group["replicas"]) == (0, 0)
        assert group["maxReplicas"] > 0
        # it replaces pods itself
        assert group["template"]["spec"].get("restartPolicy", "Never") == "Never"


@each_kuberay
def test_groups_have_the_labels_that_pools_choose_by(name: str) -> None:
    manifest = KUBERAY[name]
    groups = kuberay_groups(manifest)
    assert groups["headgroup"].cpus == 0
    expected = {"cpu"} if "evaluate" in name else {"cpu", "gpu"}
    assert groups.keys() - {"headgroup"} == expected
    for group in expected:
        assert groups[group].labels == {GROUP_LABEL: group}
        assert (groups[group].gpus > 0) == (group == "gpu")
        validate_node_label_syntax(groups[group].labels)
    for spec in cluster_spec(manifest)["workerGroupSpecs"]:
        assert "labels" not in spec["rayStartParams"], "KubeRay refuses labels there"


@each_job
def test_no_cluster_outlives_its_job(name: str) -> None:
    spec = KUBERAY[name]["spec"]
    assert spec["activeDeadlineSeconds"] > 0
    assert spec["backoffLimit"] >= 1
    # KubeRay refuses them beside rules
    assert not spec.keys() & {"shutdownAfterJobFinishes", "ttlSecondsAfterFinished"}
    ends = []
    for rule in spec["deletionStrategy"]["deletionRules"]:
        condition = dict(rule["condition"])
        assert rule["policy"] == "DeleteCluster"
        assert 0 <= condition.pop("ttlSeconds") <= 3600
        ends.append(condition)
    assert ends == [
        {"jobStatus": "SUCCEEDED"},
        {"jobStatus": "FAILED"},
        {"jobDeploymentStatus": "Failed"},
    ]


@each_job
def test_the_submitter_ends(name: str) -> None:
    template = KUBERAY[name]["spec"]["submitterPodTemplate"]["spec"]
    assert template["restartPolicy"] == "Never"
    assert "command" not in template["containers"][0], "KubeRay's own command submits once"


# Versions, secrets, rights


@each_kuberay
def test_images_are_pinned(name: str) -> None:
    manifest = KUBERAY[name]
    ray = pinned("ray")
    assert cluster_spec(manifest)["rayVersion"] == ray
    for where, container in containers(manifest):
        ours = where != "submitter/ray-job-submitter"
        expected = f"REGISTRY/tempo-ray:{project_version()}-gpu"
        assert container["image"] == (expected if ours else f"rayproject/ray:{ray}-py311-cpu")


@each_kuberay
def test_ray_wants_a_token(name: str) -> None:
    assert cluster_spec(KUBERAY[name])["authOptions"] == {"mode": "token"}


@each_kuberay
def test_tokens_come_from_the_secret(name: str) -> None:
    """The endpoint's must exist where it is needed; the model hub's may."""
    needs_endpoint = "serve" in name or "evaluate" in name
    for where, container in containers(KUBERAY[name]):
        variables = {variable["name"]: variable for variable in container.get("env", [])}
        for variable in variables.values():
            if "TOKEN" in variable["name"]:
                assert "value" not in variable
                assert variable["valueFrom"]["secretKeyRef"]["name"] == "tempo-ray-tokens"
        if where.endswith(("/ray-head", "/ray-worker")):
            assert variables["HF_TOKEN"]["valueFrom"]["secretKeyRef"]["optional"] is True
            assert ("TEMPO_RAY_TOKEN" in variables) == needs_endpoint


@pytest.mark.parametrize(
    "file", [file for file in sorted(CLUSTER.rglob("*")) if file.is_file()], ids=lambda f: f.name
)
def test_nothing_looks_like_a_secret(file: Path) -> None:
    text = file.read_text()
    for pattern in (r"\bhf_\w{8}", r"\bAKIA\w{8}", r"BEGIN \w+ ?PRIVATE KEY", r"\b[0-9a-f]{40,}\b"):
        assert not re.search(pattern, text), f"{file.name} has {pattern}"


@each_kuberay
def test_pods_use_the_bucket_by_their_service_account(name: str) -> None:
    account = load(CLUSTER / "kuberay" / "service-account.yaml")["metadata"]["name"]
    for group, template in pod_templates(KUBERAY[name]).items():
        spec = template["spec"]
        assert spec.get("serviceAccountName") == (None if group == "submitter" else account)
        # only the autoscaler, on the head, talks to Kubernetes
        assert spec.get("automountServiceAccountToken", True) == (group == "head")


@each_kuberay
def test_pods_have_no_more_rights_than_they_need(name: str) -> None:
    manifest = KUBERAY[name]
    for template in pod_templates(manifest).values():
        security = template["spec"]["securityContext"]
        assert security["runAsNonRoot"] is True
        assert security["runAsUser"] == 1000
        assert security["seccompProfile"] == {"type": "RuntimeDefault"}
    autoscaler = cluster_spec(manifest)["autoscalerOptions"]
    for _, container in [*containers(manifest), ("autoscaler", autoscaler)]:
        assert container["securityContext"] == {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        }


@each_kuberay
def test_what_is_written_to_is_a_volume(name: str) -> None:
    manifest = KUBERAY[name]
    for template in pod_templates(manifest).values():
        spec = template["spec"]
        volumes = {volume["name"]: volume["emptyDir"] for volume in spec["volumes"]}
        for container in [*spec.get("initContainers", []), *spec["containers"]]:
            mounts = {mount["mountPath"]: mount["name"] for mount in container["volumeMounts"]}
            home = {variable["name"]: variable.get("value") for variable in container["env"]}[
                "HOME"
            ]
            assert {"/tmp", home} <= mounts.keys()
            assert set(mounts.values()) <= volumes.keys()
    autoscaler = cluster_spec(manifest)["autoscalerOptions"]
    head = pod_templates(manifest)["head"]["spec"]
    mounted = {mount["name"] for mount in autoscaler["volumeMounts"]}
    assert mounted <= {volume["name"] for volume in head["volumes"]}


@each_kuberay
def test_object_stores_fit_their_shared_memory(name: str) -> None:
    spec = cluster_spec(KUBERAY[name])
    for group in [spec["headGroupSpec"], *spec["workerGroupSpecs"]]:
        pod = group["template"]["spec"]
        [shared] = [v["emptyDir"] for v in pod["volumes"] if v["name"] == "shm"]
        [ray] = pod["containers"]
        assert shared["medium"] == "Memory"
        assert ray["resources"]["requests"] == ray["resources"]["limits"]
        memory = parse_quantity(ray["resources"]["limits"]["memory"])
        store = int(group["rayStartParams"]["object-store-memory"])
        assert store < parse_quantity(shared["sizeLimit"]) < memory / 2


@each_kuberay
def test_only_the_data_job_is_on_spot_nodes(name: str) -> None:
    for group, template in pod_templates(KUBERAY[name]).items():
        if group == "submitter":
            continue
        spot = "generate-pairs" in name and group != "head"
        [rules] = template["spec"]["affinity"]["nodeAffinity"].values()
        expressions = [e for term in rules["nodeSelectorTerms"] for e in term["matchExpressions"]]
        assert {expression["operator"] for expression in expressions} == {"In" if spot else "NotIn"}
        # any label is enough to be spot; none of them may be there to be on demand
        assert len(rules["nodeSelectorTerms"]) == (len(expressions) if spot else 1)
        assert len(expressions) == 4
        tolerated = {t["key"] for t in template["spec"].get("tolerations", [])}
        assert ("cloud.google.com/gke-spot" in tolerated) == spot
        assert ("nvidia.com/gpu" in tolerated) == (group == "gpu")


def test_the_served_model_is_copied_where_it_is_served_from(tmp_path: Path) -> None:
    manifest = KUBERAY["ray-service.serve.yaml"]
    source, target = tmp_path / "model", tmp_path / "copy"
    source.mkdir()
    (source / "config.json").write_text("{}")
    for group, template in pod_templates(manifest).items():
        [copying] = template["spec"]["initContainers"]
        assert copying["command"] == ["python", "-c"]
        [script] = copying["args"]
        assert "/models/tempo" in script, group
    script = script.replace("s3://BUCKET/runs/one/model", str(source))
    exec(script.replace("/models/tempo", str(target)))
    assert (target / "config.json").read_text() == "{}"


# `ray up`


@each_vm
def test_ray_up_accepts_the_file(name: str) -> None:
    validate_config(prepare_config(VMS[name]))


def test_ray_up_refuses_a_mistake() -> None:
    config = copy.deepcopy(VMS["aws.yaml"])
    config["available_node_types"]["cpu"]["max_wrokers"] = 1
    with pytest.raises(jsonschema.ValidationError):
        validate_config(prepare_config(config))


@each_vm
def test_the_image_of_the_machines_is_pinned(name: str) -> None:
    docker = VMS[name]["docker"]
    assert docker["image"] == f"REGISTRY/tempo-ray:{project_version()}-gpu"
    assert "--env=RAY_AUTH_MODE=token" in docker["run_options"]
    assert VMS[name]["file_mounts"]["/home/ray/.ray/auth_token"] == "~/.ray/auth_token"


@pytest.mark.parametrize("name", ["aws.yaml", "gcp.yaml"])
def test_machines_have_what_is_asked_of_them(name: str) -> None:
    groups = vm_groups(VMS[name])
    assert VMS[name]["max_workers"] == sum(group.max_nodes for group in groups.values())
    assert VMS[name]["provider"]["cache_stopped_nodes"] is False
    for group, node_type in VMS[name]["available_node_types"].items():
        machine: Any = node_type["node_config"]
        cpus, gpus = MACHINES[machine.get("InstanceType") or machine["machineType"]]
        found = groups[group]
        assert found.cpus <= cpus
        assert found.gpus == gpus
        assert found.min_nodes == 0
        assert found.labels == ({} if group == "head" else {GROUP_LABEL: group})
        assert (found.cpus == 0) == (group == "head")


@pytest.mark.parametrize("group", ["cpu", "gpu"])
def test_a_machine_on_premises_finds_its_group(group: str) -> None:
    """Runs the command that starts a worker, with everything that it starts replaced."""
    [start] = [
        line for line in VMS["on-premises.yaml"]["worker_start_ray_commands"] if "--" in line
    ]
    finds_gpu = "true" if group == "gpu" else "false"
    script = f"""
        ulimit() {{ :; }}
        nvidia-smi() {{ {finds_gpu}; }}
        ray() {{ echo "$@"; }}
        {start}"""
    environment = {"PATH": "/nonexistent", "RAY_HEAD_IP": "192.0.2.10"}
    done = subprocess.run(
        ["/bin/bash", "-c", script], env=environment, capture_output=True, text=True, check=True
    )
    [label] = re.findall(r"--labels=(\S+)", done.stdout)
    assert parse_node_labels_string(label) == {GROUP_LABEL: group}
