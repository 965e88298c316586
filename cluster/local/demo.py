"""The jobs on a cluster that grows and shrinks, on this machine, and a picture of it.

    python -m cluster.local.demo [--run runs/cluster-demo] [--videos 32]

Drawn videos -> `ray job submit` of generate_pairs, train and evaluate (with serve beside it) to a
cluster that starts without a node. Ray's own autoscaler adds nodes to its two groups and takes them
away again.
"""

import argparse
import shutil
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import matplotlib
import yaml

from cluster.local.local_cluster import GROUP_LABEL, LocalCluster, LocalClusterConfig, run_ray
from cluster.local.watch import Sample, Watch
from tempo_ray.processes import Jobs, free_port, job_failures

matplotlib.use("Agg")
from matplotlib import pyplot
from matplotlib.axes import Axes

ROOT = Path(__file__).parents[2]
RUN = ROOT / "runs/cluster-demo"
"""Started over by the next demo; any other folder must be new."""
POOLS = {
    "SelectClips": "#1f6feb",
    "WriteAnswers": "#d29922",
    "RayTrainWorker": "#8250df",
    "ServeReplica": "#2da44e",
}
"""What classes of actors have in their names -> the colour of their number."""
COLORS = {
    "cpu": "#1f6feb",
    "gpu": "#d29922",
    "held": "#8a93a3",
    "used": "#1f6feb",
    "busy": "#2da44e",
}
NODES_GONE_S = 90
"""How long to wait at the end until the last node has gone."""


@dataclass(frozen=True)
class Phase:
    name: str
    began: float
    ended: float


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m cluster.local.demo",
        description="The jobs on a cluster of nodes that come and go, on this machine.",
    )
    parser.add_argument("--run", type=Path, default=RUN, help="a new folder")
    parser.add_argument("--videos", type=int, default=32)
    arguments = parser.parse_args()
    run: Path = arguments.run.resolve()
    if run == RUN:
        shutil.rmtree(run, ignore_errors=True)
    elif run.exists():
        parser.error(f"{run} exists: choose another --run")
    world = run / "world"
    with job_failures():
        words = (f"output={world}", "split=train", f"videos={arguments.videos}")
        Jobs(run / "logs", "embedded").run("make-shapeworld", words)
    groups = yaml.safe_load(Path(__file__).with_name("nodes.yaml").read_text())
    with LocalCluster(LocalClusterConfig(**groups)) as cluster, Watch(cluster) as watch:
        print(f"a cluster without nodes; its dashboard: {cluster.dashboard}", flush=True)
        phases = Submitter(cluster, watch, run).run(world)
        _wait_until_empty(watch)
    watch.write(run / "samples.jsonl")
    draw(watch.samples, phases, run / "cluster.png")
    print(report(watch.samples, phases))
    print(f"  picture  {run / 'cluster.png'}\n  samples  {run / 'samples.jsonl'}")


class Submitter:
    """Submits jobs, one after the other, and notes when each began and ended."""

    def __init__(self, cluster: LocalCluster, watch: Watch, run: Path) -> None:
        self._cluster = cluster
        self._watch = watch
        self._run = run

    def run(self, world: Path) -> list[Phase]:
        cpu, gpu = (f"{{{GROUP_LABEL}: {group}}}" for group in ("cpu", "gpu"))
        pairs = (
            f"videos.input={world / 'videos'}",
            "select.pool={max_size: 4, cpus: 2, batch_rows: 4, "
            f"memory: 1GiB, label_selector: {cpu}}}",
            "respond.pool={max_size: 2, cpus: 2, gpus: 1, batch_rows: 8, "
            f"memory: 2GiB, label_selector: {gpu}}}",
        )
        train = (
            "recipe=pre_sft",
            f"sft.data={world / 'instructions.jsonl'}",
            "align.curriculum.strengths=[4, 2]",
            f"workers={{count: 2, cpus: 3, gpus: 0, memory: 2GiB, label_selector: {cpu}}}",
        )
        port = free_port()
        serve = (
            f"models=[{{name: tempo, path: {self._run / 'model'}}}]",
            f"port={port}",
            "cpus=2",
            f"placement={{memory: 2GiB, label_selector: {cpu}}}",
        )
        evaluate = (
            f"endpoint=http://127.0.0.1:{port}/v1",
            "models=[tempo]",
            f"questions={world / 'questions.jsonl'}",
        )
        phases = [self._job("generate_pairs", pairs), self._job("train", train)]
        began = self._watch.seconds
        self._submit("serve", serve, "--no-wait", "--submission-id=serve")
        self._wait_for("serve", "ready: ")
        phases.append(self._job("evaluate", evaluate, began))
        self._ray("job", "stop", "serve")
        return phases

    def _job(self, name: str, words: Sequence[str], began: float | None = None) -> Phase:
        began = self._watch.seconds if began is None else began
        self._submit(name, words)
        phase = Phase(name, began, self._watch.seconds)
        print(f"{name}: {phase.ended - phase.began:.0f} s", flush=True)
        return phase

    def _submit(self, name: str, words: Sequence[str], *options: str) -> None:
        job = [sys.executable, f"jobs/{name}.py", "--config=embedded", f"run={self._run}", *words]
        self._ray("job", "submit", f"--working-dir={ROOT}", *options, "--", *job)

    def _wait_for(self, submission: str, line: str) -> None:
        deadline = time.monotonic() + 300
        while line not in (log := self._ray("job", "logs", submission)):
            failed = "FAILED" in self._ray("job", "status", submission)
            if failed or time.monotonic() > deadline:
                raise SystemExit(f"{submission} is not ready:\n{log[-3000:]}")
            time.sleep(1)

    def _ray(self, *words: str) -> str:
        """What a command of Ray prints; a job's own lines, while it is submitted."""
        try:
            return run_ray(*words, environment=self._cluster.environment, timeout_s=None)
        except RuntimeError as error:
            raise SystemExit(str(error)) from error


def _wait_until_empty(watch: Watch) -> None:
    deadline = time.monotonic() + NODES_GONE_S
    while watch.samples[-1].nodes and time.monotonic() < deadline:
        time.sleep(1)


def gpu_seconds(samples: Sequence[Sample]) -> dict[str, float]:
    """GPU-seconds of nodes that were there (`held`), of actors that had taken them (`used`), and of
    engines that had a request (`busy`)."""
    totals = {"held": 0.0, "used": 0.0}
    for before, sample in pairwise(samples):
        seconds = sample.seconds - before.seconds
        totals["held"] += seconds * sample.held.get("GPU", 0)
        totals["used"] += seconds * sample.used.get("GPU", 0)
    return totals | {"busy": samples[-1].counted.get("engine_seconds", 0.0)}


def report(samples: Sequence[Sample], phases: Sequence[Phase]) -> str:
    """The figures of the picture in words."""
    lines = [f"  {phase.name:15} {phase.ended - phase.began:5.0f} s" for phase in phases]
    for group in sorted({group for sample in samples for group in sample.nodes}):
        there = [sample.seconds for sample in samples if sample.nodes.get(group)]
        most = max(sample.nodes.get(group, 0) for sample in samples)
        lines.append(
            f"  {group} nodes: up to {most}, from second {there[0]:.0f} to {there[-1]:.0f}"
        )
    gpus = ", ".join(f"{name} {seconds:.0f}" for name, seconds in gpu_seconds(samples).items())
    return "\n".join([*lines, f"  GPU-seconds: {gpus}"])


def draw(samples: Sequence[Sample], phases: Sequence[Phase], file: Path) -> None:
    seconds = [sample.seconds for sample in samples]
    figure, axes = pyplot.subplots(5, 1, figsize=(12, 11), sharex=True, layout="constrained")
    nodes, pools, cpus, videos, gpus = axes
    for group in ("cpu", "gpu"):
        counts = [sample.nodes.get(group, 0) for sample in samples]
        nodes.step(seconds, counts, where="post", color=COLORS[group], label=f"{group} nodes")
    for name, color in POOLS.items():
        counts = [actors_of(sample, name) for sample in samples]
        pools.step(seconds, counts, where="post", color=color, label=f"{name} actors")
    for axis, resource in ((cpus, "CPU"), (gpus, "GPU")):
        for kind in ("held", "used"):
            amounts = [getattr(sample, kind).get(resource, 0) for sample in samples]
            label = f"{resource}s of nodes" if kind == "held" else "taken by actors and tasks"
            axis.fill_between(
                seconds, amounts, step="post", color=COLORS[kind], alpha=0.4, label=label
            )
    gpus.plot(seconds, rates(samples, "engine_seconds"), color=COLORS["busy"], label="engines busy")
    videos.plot(seconds, rates(samples, "videos"), color=COLORS["used"], label="videos per second")
    for axis in axes:
        _shade(axis, phases)
        axis.legend(loc="center left", bbox_to_anchor=(1, 0.5), frameon=False)
        axis.set_ylim(bottom=0)
        axis.spines[["top", "right"]].set_visible(False)
    for phase in phases:
        nodes.text(phase.began + 1, nodes.get_ylim()[1], phase.name, va="bottom")
    gpus.set_xlabel("seconds; logical CPUs and GPUs, all nodes on one machine")
    figure.savefig(file, dpi=120)
    pyplot.close(figure)


def _shade(axis: Axes, phases: Sequence[Phase]) -> None:
    for number, phase in enumerate(phases):
        axis.axvspan(phase.began, phase.ended, color="#57606a", alpha=0.05 + 0.06 * (number % 2))


def actors_of(sample: Sample, name: str) -> int:
    """Living actors of the classes that have this in their names."""
    return sum(count for actor_class, count in sample.actors.items() if name in actor_class)


def rates(samples: Sequence[Sample], name: str, window_s: float = 10.0) -> list[float]:
    """Growth of a counter per second, over the window before each sample: Ray's processes report
    every ten seconds."""
    grown = []
    for sample in samples:
        start = sample.seconds - window_s
        before = [one for one in samples if one.seconds <= start]
        earlier = before[-1].counted.get(name, 0.0) if before else 0.0
        grown.append((sample.counted.get(name, 0.0) - earlier) / window_s)
    return grown


if __name__ == "__main__":
    main()
