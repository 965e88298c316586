"""The commands in cluster/: that the parser of tempo-ray accepts them, and that what they ask of
Ray fits the nodes beside them."""

import ast
import re
import shlex
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import yaml
from ray.serve.schema import ServeDeploySchema

from tempo_ray.config import EvaluateConfig, GeneratePairsConfig, ServeConfig, TrainConfig
from tempo_ray.config.base import Config
from tempo_ray.config.load import load_config, parse_args
from tests.cluster.manifests import (
    CLUSTER,
    KUBERAY,
    ROOT,
    VMS,
    Group,
    Manifest,
    kuberay_groups,
    vm_groups,
)

JOBS: dict[str, type[Config]] = {
    "generate_pairs": GeneratePairsConfig,
    "train": TrainConfig,
    "serve": ServeConfig,
    "evaluate": EvaluateConfig,
}
ROOM_CPUS = 2
"""CPUs that every pool leaves, for the tasks that count answers and make pairs, and for others'."""


@dataclass(frozen=True)
class Demand:
    """`min_count` to `max_count` actors, each of which must fit a node of the group."""

    group: str
    cpus: float
    gpus: float
    min_count: int
    max_count: int
    memory: int = 0
    labels: Mapping[str, str] = field(default_factory=dict)


def demands(config: Config) -> list[Demand]:
    match config:
        case GeneratePairsConfig():
            pools = (config.select.pool, config.respond.pool)
            return [
                Demand(
                    group="gpu" if p.gpus else "cpu",
                    cpus=p.cpus,
                    gpus=p.gpus,
                    min_count=p.initial_size or p.min_size,
                    max_count=p.max_size,
                    memory=p.memory,
                    labels=p.label_selector or {},
                )
                for p in pools
            ]
        case TrainConfig(workers=w):
            group, labels = "gpu" if w.gpus else "cpu", w.label_selector or {}
            return [Demand(group, w.cpus, w.gpus, w.count, w.count, w.memory, labels)]
        case ServeConfig(autoscale=scale):
            size = config.engine.tensor_parallel_size
            gpus = config.gpus
            group = "gpu" if gpus else "cpu"
            models = len(config.models)
            return [
                Demand(
                    group,
                    config.cpus * size,
                    gpus * size,
                    models * scale.min_replicas,
                    models * scale.max_replicas,
                    config.placement.memory * size,
                    config.placement.label_selector or {},
                )
            ]
    return []


def parse(command: str) -> Config:
    """The config of `python jobs/JOB.py ...`, which may be behind other words."""
    words = shlex.split(command)
    [place] = [n for n, word in enumerate(words) if re.fullmatch(r"jobs/\w+\.py", word)]
    assert (ROOT / words[place]).is_file()
    job = words[place].removeprefix("jobs/").removesuffix(".py")
    return parse_args(JOBS[job], None, words[place + 1 :], section=job)


def served(manifest: Manifest) -> ServeConfig:
    """The arguments of a RayService's only application, which Ray Serve too accepts."""
    deploy = ServeDeploySchema.model_validate(yaml.safe_load(manifest["spec"]["serveConfigV2"]))
    [application] = deploy.applications
    module, builder = application.import_path.split(":")
    assert takes_serve_config(module, builder)
    return ServeConfig.model_validate(application.args)


def takes_serve_config(module: str, builder: str) -> bool:
    """Read, not imported: it imports vLLM, which takes half a minute."""
    tree = ast.parse((ROOT / f"{module.replace('.', '/')}.py").read_text())
    [function] = [
        node for node in tree.body if isinstance(node, ast.FunctionDef) and node.name == builder
    ]
    [argument] = function.args.args
    return argument.annotation is not None and ast.unparse(argument.annotation) == "ServeConfig"


def config_of(manifest: Manifest) -> Config:
    if manifest["kind"] == "RayService":
        return served(manifest)
    return parse(manifest["spec"]["entrypoint"])


def fit(demand: Demand, groups: dict[str, Group], count: int) -> None:
    group = groups[demand.group]
    each = group.nodes_for(demand.cpus, demand.gpus)
    assert each, f"{demand} fits no node of {group}"
    assert demand.labels.items() <= group.labels.items()
    assert not demand.memory or (group.memory or 0) >= each * demand.memory
    assert group.cpus >= demand.cpus + ROOM_CPUS
    assert each * group.max_nodes >= count, f"{count} of {demand} do not fit {group}"
    assert group.max_nodes * group.cpus >= count * demand.cpus + ROOM_CPUS


@pytest.mark.parametrize(
    "name", [name for name in KUBERAY if KUBERAY[name]["kind"] != "RayCluster"]
)
def test_what_a_manifest_runs_fits_its_nodes(name: str) -> None:
    manifest = KUBERAY[name]
    groups = kuberay_groups(manifest)
    for demand in demands(config_of(manifest)):
        fit(demand, groups, demand.max_count)
    driver = manifest["spec"].get("entrypointNumCpus", 0)
    assert groups["cpu"].cpus >= driver + 1


@pytest.mark.parametrize("job", ["generate_pairs", "train"])
@pytest.mark.parametrize("name", ["ray-cluster.yaml", "aws.yaml", "gcp.yaml"])
def test_the_jobs_of_a_cluster_fit_the_clusters_that_stay(name: str, job: str) -> None:
    """As many actors as the job starts with; its pools grow as far as there are nodes."""
    groups = vm_groups(VMS[name]) if name in VMS else kuberay_groups(KUBERAY[name])
    data = {"generate_pairs": "videos.input=v", "train": "sft.data=s"}[job]
    config = load_config(JOBS[job], "cluster", ["run=r", data], section=job)
    for demand in demands(config):
        fit(demand, groups, demand.min_count)


def test_the_pools_of_a_cluster_can_be_sent_to_any_node() -> None:
    """A mapping would be merged into the config's own: null replaces it."""
    anywhere = ["select.pool.label_selector=null", "respond.pool.label_selector=null"]
    words = ["run=r", "videos.input=v", *anywhere]
    config = load_config(GeneratePairsConfig, "cluster", words, section="generate_pairs")
    assert config.select.pool.label_selector is None
    assert config.respond.pool.label_selector is None


def test_a_pool_that_fits_no_node_is_noticed() -> None:
    groups = {"cpu": Group(cpus=4, gpus=0, memory=8 << 30, min_nodes=0, max_nodes=2, labels={})}
    fit(Demand("cpu", 2, 0, 1, 3), groups, 3)
    for demand in (
        Demand("cpu", 4, 0, 1, 1),
        Demand("cpu", 1, 1, 1, 1),
        Demand("cpu", 2, 0, 5, 5),
        Demand("cpu", 2, 0, 1, 1, labels={"zone": "b"}),
        Demand("cpu", 2, 0, 1, 1, memory=5 << 30),
    ):
        with pytest.raises(AssertionError):
            fit(demand, groups, demand.max_count)


def test_evaluation_asks_the_endpoint_that_is_served() -> None:
    evaluate = config_of(KUBERAY["ray-job.evaluate.yaml"])
    service = KUBERAY["ray-service.serve.yaml"]
    assert isinstance(evaluate, EvaluateConfig)
    assert evaluate.endpoint == f"http://{service['metadata']['name']}-serve-svc:8000/v1"
    assert evaluate.models == tuple(model.name for model in served(service).models)


def test_what_is_served_is_what_was_trained() -> None:
    train = config_of(KUBERAY["ray-job.train.yaml"])
    assert isinstance(train, TrainConfig)
    assert served(KUBERAY["ray-service.serve.yaml"]).frames == train.frames


def commands(file: Path) -> list[str]:
    """The commands with jobs in the indented blocks of a page, or in the comments of a manifest;
    continued lines joined, and without the quotes that `ray exec` wraps them in."""
    lines = file.read_text().splitlines()
    if file.suffix == ".md":
        code = [line.strip() for line in lines if line.startswith("    ")]
    else:
        code = [line.strip("# ") for line in lines if line.lstrip().startswith("#")]
    joined = "\n".join(code).replace("\\\n", " ").splitlines()
    found = [line for line in joined if "python jobs/" in line]
    return [re.sub(r"^ray exec .*?'(.*)'$", r"\1", line) for line in found]


PAGES = [CLUSTER / "README.md", *sorted(CLUSTER.rglob("*.yaml"))]
WRITTEN = [(file.name, command) for file in PAGES for command in commands(file)]


@pytest.mark.parametrize(("name", "command"), WRITTEN)
def test_a_command_that_is_written_down_is_valid(name: str, command: str) -> None:
    parse(command)


def test_commands_are_found_where_they_are() -> None:
    assert {name for name, _ in WRITTEN} == {"README.md", "ray-cluster.yaml"}
    assert any("jobs/serve.py" in command for _, command in WRITTEN)


def test_the_page_names_files_that_exist() -> None:
    page = (CLUSTER / "README.md").read_text()
    for path in re.findall(r"\bcluster/[\w./-]+\.\w+|\bcluster/Dockerfile\b", page):
        assert (ROOT / path).is_file(), path


@pytest.mark.parametrize("name", KUBERAY)
def test_the_page_replaces_every_placeholder(name: str) -> None:
    text = (CLUSTER / "kuberay" / name).read_text()
    replaced = text.replace("REGISTRY", "").replace("s3://BUCKET", "")
    lines = [line for line in replaced.splitlines() if not line.lstrip().startswith("#")]
    assert not re.search(r"REGISTRY|BUCKET|PROJECT|ACCOUNT", "\n".join(lines))
