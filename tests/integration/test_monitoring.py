"""The whole chain on a cluster of three nodes, watched by a real Prometheus (Debian's package):
what is exported, what the dashboard's queries return, and which alerts fire."""

import contextlib
import json
import re
import shutil
import subprocess
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest

from cluster.local.local_cluster import LocalCluster, LocalClusterConfig, NodeGroup
from tempo_ray.metrics import METRICS
from tempo_ray.processes import free_port
from tests.integration.jobs import ROOT, endpoint, started_job

pytestmark = [pytest.mark.ranks, pytest.mark.timeout(1200)]

MONITORING = ROOT / "cluster/monitoring"
NODES = {
    "cpu": NodeGroup(cpus=4, max_nodes=2),
    "gpu": NodeGroup(cpus=4, gpus=1, memory_bytes=5_000_000_000),
}
SCRAPE_S = 2


@dataclass(frozen=True)
class Chain:
    """The chain after its end. `prometheus` is the URL of what has watched it; None where there is
    no Prometheus on this machine."""

    run: Path
    logs: Mapping[str, str]
    prometheus: str | None
    began: float
    ended: float

    def ask(self, path: str, **parameters: Any) -> Any:
        if self.prometheus is None:
            pytest.skip("needs `prometheus` on the PATH (apt-get install prometheus)")
        answer = httpx.get(f"{self.prometheus}/api/v1/{path}", params=parameters)
        assert answer.status_code == 200, answer.text
        return answer.json()["data"]


@contextlib.contextmanager
def watching(cluster: LocalCluster, folder: Path) -> Iterator[str | None]:
    """The URL of a Prometheus with the shipped configuration; None where none is installed."""
    if shutil.which("prometheus") is None:
        yield None
        return
    port = free_port()
    process = subprocess.Popen(
        [
            "prometheus",
            f"--config.file={cluster.prometheus_config(SCRAPE_S)}",
            f"--storage.tsdb.path={folder / 'tsdb'}",
            f"--web.listen-address=127.0.0.1:{port}",
        ],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        yield f"http://127.0.0.1:{port}"
    finally:
        process.kill()
        process.wait()


@pytest.fixture(scope="module")
def chain(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Chain]:
    """Videos drawn, pairs written, a model trained on two nodes, served, and examined."""
    root = tmp_path_factory.mktemp("chain")
    run, world, logs = root / "run", root / "world", {}
    began = time.time()
    with LocalCluster(LocalClusterConfig(groups=NODES, autoscale=False)) as cluster:
        environment = cluster.environment

        def job(name: str, *words: str) -> None:
            log = root / f"{name}.log"
            with started_job(name, *words, log=log, environment=environment) as process:
                assert process.wait(400) == 0, log.read_text()[-3000:]
            logs[name] = log.read_text()

        with watching(cluster, root) as prometheus:
            job("make_shapeworld", f"output={world}", "split=train", "videos=12", "seed=3")
            (world / "videos/broken.mp4").write_bytes(b"no video")
            job(
                "generate_pairs",
                "--config=embedded",
                f"run={run}",
                f"videos.input={world / 'videos'}",
                "select.pool.batch_rows=2",
                "respond.pool.batch_rows=4",
                "respond.pool.gpus=1",
            )
            job(
                "train",
                "--config=embedded",
                f"run={run}",
                "recipe=pre_sft",
                f"sft.data={world / 'instructions.jsonl'}",
                "align.curriculum={strengths: [2], epochs: 2, adaptive: {held_out: 0.2, "
                "every_steps: 2, min_steps: 0}}",
                "align.pairs_per_step=16",
                "workers.count=2",
                "workers.cpus=3",
            )
            serving = (
                "--config=embedded",
                f"models=[{{name: tempo, path: {run / 'model'}}}]",
                f"port={free_port()}",
                f"run={run}",
            )
            with endpoint(*serving, log=root / "serve.log", environment=environment) as (url, _):
                job(
                    "evaluate",
                    f"run={run}",
                    f"endpoint={url}",
                    "models=[tempo]",
                    f"questions={world / 'questions.jsonl'}",
                    "limit=20",
                )
                time.sleep(12)  # Ray's processes hand over their metrics every ten seconds
            yield Chain(run, logs, prometheus, began, time.time())


def test_the_chain_runs_on_three_nodes(chain: Chain) -> None:
    assert "videos in 13 = kept 12 + dropped 0 + failed 1" in chain.logs["generate_pairs"]
    assert (chain.run / "model/config.json").exists()
    assert json.loads((chain.run / "summary/evaluate.json").read_text())["status"] == "done"


def test_what_is_exported_is_what_the_table_lists(chain: Chain) -> None:
    tags: dict[str, set[str]] = {}
    for series in chain.ask("series", **{"match[]": '{__name__=~"ray_tempo_.+"}'}):
        name = re.sub("_(bucket|sum|count)$", "", series["__name__"])
        tags.setdefault(name, set()).update(series)
    assert tags.keys() == {metric.exported for metric in METRICS}
    for metric in METRICS:
        assert set(metric.tags) <= tags[metric.exported], metric.name


def test_metrics_agree_with_what_the_jobs_wrote(chain: Chain) -> None:
    def most(query: str) -> float:
        rows = chain.ask("query_range", query=query, start=chain.began, end=chain.ended, step=2)
        return max(float(value) for row in rows["result"] for _, value in row["values"])

    summary = json.loads((chain.run / "summary/generate_pairs.json").read_text())
    assert most('sum(ray_tempo_videos_total{outcome="kept"})') == summary["kept"]
    videos = summary["videos_in"]
    assert most("ray_tempo_videos_left") in (videos, videos - 1)  # one may fail before a scrape
    assert most('sum(ray_tempo_texts_total{kind="answer"})') == summary["answers"]
    assert most("ray_tempo_engine_starts_total") == 1
    assert most("ray_tempo_engine_gpus") == 1
    assert most("max(ray_tempo_train_step)") >= 2
    assert most('ray_tempo_requests_total{status="200"}') >= 20


def queries() -> Iterator[tuple[str, str]]:
    """(panel, query) of the dashboard."""
    for panel in json.loads((MONITORING / "dashboard.json").read_text())["panels"]:
        for target in panel.get("targets", ()):
            yield panel["title"], target["expr"]


def test_every_query_of_the_dashboard_returns_rows(chain: Chain) -> None:
    empty = []
    for panel, query in queries():
        asked = query.replace("$__rate_interval", "10s")
        rows = chain.ask("query_range", query=asked, start=chain.began, end=chain.ended, step=2)
        if not rows["result"]:
            empty.append(f"{panel}: {query}")
    assert not empty


def test_every_alert_can_be_evaluated_and_none_fires(chain: Chain) -> None:
    rules = [rule for group in chain.ask("rules")["groups"] for rule in group["rules"]]
    assert len(rules) >= 10
    assert {rule["health"] for rule in rules} == {"ok"}
    assert not [rule["name"] for rule in rules if rule["state"] == "firing"]
