"""Everything, from nothing, on this machine: the jobs of a cluster, one after the other.

    tempo-ray demo [run=runs/demo] [seed=0]

Drawn videos become preference pairs, pairs a better model; that model and one that skipped the
alignment answer the same questions over HTTP; a table says by how much they differ.
"""

import contextlib
import json
import shutil
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tempo_ray.config import DemoConfig
from tempo_ray.config.load import parse_args
from tempo_ray.job import user_errors
from tempo_ray.paths import RunPaths
from tempo_ray.processes import Jobs, free_port, job_failures
from tempo_ray.records import write_row
from tempo_ray.storage import write_bytes

PHASES = ("world", "pairs", "tempo", "sft", "answers")


class Demo:
    """Runs the jobs, and times each phase."""

    def __init__(self, config: DemoConfig) -> None:
        self.config = config
        self.run = Path(config.run)
        self.world, self.tempo, self.sft = (self.run / name for name in ("world", "tempo", "sft"))
        self.logs = self.run / "logs"
        self.jobs = Jobs(self.logs, config.config)
        self.seconds: dict[str, float] = {}
        self.began = time.monotonic()

    def job(self, name: str, *words: str, quiet: bool = False) -> None:
        """Runs a job and shows its lines."""
        self.jobs.run(name, words, None if quiet else _indented)

    @contextlib.contextmanager
    def phase(self, name: str, title: str) -> Iterator[None]:
        print(f"\n[{PHASES.index(name) + 1}/{len(PHASES)}] {title}", flush=True)
        began = time.monotonic()
        yield
        self.seconds[name] = round(time.monotonic() - began, 1)
        total = time.monotonic() - self.began
        print(f"    ({self.seconds[name]:.0f} s; {total:.0f} s in all)", flush=True)


def _indented(line: str) -> None:
    print(f"    {line}", flush=True)


def main(argv: list[str] | None = None) -> None:
    with user_errors(), job_failures():
        words = sys.argv[1:] if argv is None else argv
        demo = Demo(parse_args(DemoConfig, __doc__, words, section="demo"))
        if (demo.run / "summary.json").exists():
            shutil.rmtree(demo.run)
        print(f"tempo_ray demo: everything is written to {demo.run}/", flush=True)
        make_corpora(demo)
        train_models(demo)
        ask_models(demo)
        report(demo)


def make_corpora(demo: Demo) -> None:
    config = demo.config
    videos = {"train": config.train_videos, "test": config.test_videos}
    title = f"drawing {videos['train']} + {videos['test']} videos with known stories"
    with demo.phase("world", title):
        for split, count in videos.items():
            output = demo.world / split
            if not (output / "instructions.jsonl").exists():
                demo.job(
                    "make-shapeworld",
                    f"output={output}",
                    f"split={split}",
                    f"videos={count}",
                    f"seed={config.seed}",
                )


def train_models(demo: Demo) -> None:
    seed = f"seed={demo.config.seed}"
    videos = f"videos.input={demo.world / 'train' / 'videos'}"
    data = f"sft.data={demo.world / 'train' / 'instructions.jsonl'}"
    with demo.phase("pairs", "videos -> shots -> clean and perturbed answers -> preference pairs"):
        demo.job("generate-pairs", f"run={demo.tempo}", videos, seed)
    with demo.phase("tempo", "TEMPO: curriculum DPO from easy to hard, then SFT"):
        demo.job("train", f"run={demo.tempo}", "recipe=pre_sft", data, seed)
    with demo.phase("sft", "the baseline: the same SFT without the alignment"):
        demo.job("train", f"run={demo.sft}", "recipe=sft", data, seed)


def ask_models(demo: Demo) -> None:
    paths = {"sft": demo.sft / "model", "tempo": demo.tempo / "model"}
    served = ", ".join(f"{{name: {name}, path: {path}}}" for name, path in paths.items())
    port = demo.config.port or free_port()
    with (
        demo.phase("answers", "both models behind one endpoint, the same questions to both"),
        demo.jobs.serving([f"models=[{served}]", f"port={port}", f"run={demo.run}"]) as url,
    ):
        demo.job(
            "evaluate",
            f"run={demo.run}",
            f"endpoint={url}",
            "models=[sft, tempo]",
            f"questions={demo.world / 'test' / 'questions.jsonl'}",
            f"seed={demo.config.seed}",
            quiet=True,
        )


def report(demo: Demo) -> None:
    """Writes summary.json and demo.png, and prints the table and where everything is."""
    from tempo_ray.report.demo import draw_summary, facts_from, table

    facts = facts_from(
        pairs=_summary(demo.tempo, "generate_pairs"),
        scores=_summary(demo.run, "evaluate"),
        seed=demo.config.seed,
        seconds=demo.seconds | {"total": round(time.monotonic() - demo.began, 1)},
    )
    picture = demo.run / "demo.png"
    draw_summary(facts, demo.world / "train" / "videos", demo.tempo / "pairs", picture)
    summary = json.dumps(write_row(facts), indent=1) + "\n"
    write_bytes(str(demo.run / "summary.json"), summary.encode())
    print("\n" + table(facts))
    tensorboard = RunPaths(str(demo.tempo)).tensorboard
    places = {
        "figures": demo.run / "summary.json",
        "picture": picture,
        "pairs (Parquet)": demo.tempo / "pairs",
        "the aligned model": demo.tempo / "model",
        "the baseline": demo.sft / "model",
        "every answer": demo.run / "scores",
        "curves": f"tensorboard --logdir {tensorboard}",
        "logs": demo.logs,
    }
    print("\n".join(f"  {name:18} {place}" for name, place in places.items()))


def _summary(run: Path, job: str) -> dict[str, Any]:
    summary: dict[str, Any] = json.loads(Path(RunPaths(str(run)).summary(job)).read_text())
    return summary
