"""Everything, from nothing, on this machine: the same jobs that run on a cluster, one after the other.

    python jobs/demo.py [run=runs/demo] [seed=0]

Drawn videos become preference pairs, pairs a better model; that model and one that skipped the alignment answer the same
questions over HTTP; a table says by how much they differ.
"""

import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

from tempo_ray.arguments import parse_args
from tempo_ray.config import DemoConfig

STEPS = ("world", "pairs", "tempo", "sft", "answers")


class Demo:
    """The steps, their logs, and the seconds that each took."""

    def __init__(self, config: DemoConfig) -> None:
        self.config = config
        self.run = Path(config.run)
        self.logs = self.run / "logs"
        self.seconds: dict[str, float] = {}
        self.began = time.monotonic()

    def job(self, name: str, *words: str, quiet: bool = False) -> None:
        """Runs jobs/NAME.py; its lines are shown, its engines' chatter goes to a log. Ends the demo where the job fails."""
        with self._started(name, *words) as (process, log):
            for line in _lines(process):
                if not quiet:
                    print(f"    {line}", flush=True)
            if process.wait():
                _give_up(name, process.returncode, log)

    @contextlib.contextmanager
    def _started(self, name: str, *words: str) -> Iterator[tuple[subprocess.Popen[str], Path]]:
        self.logs.mkdir(parents=True, exist_ok=True)
        log = self.logs / f"{len(list(self.logs.iterdir())):02d}-{name}.log"
        sectioned = name not in ("make_shapeworld",)
        command = [
            sys.executable,
            f"jobs/{name}.py",
            *(("--config", self.config.config) if sectioned else ()),
            *words,
        ]
        with log.open("w") as errors:
            errors.write(" ".join(command) + "\n")
            errors.flush()
            process = subprocess.Popen(
                command, stdout=subprocess.PIPE, stderr=errors, text=True, start_new_session=True
            )
            try:
                yield process, log
            finally:
                _end(process)

    @contextlib.contextmanager
    def step(self, name: str, title: str) -> Iterator[None]:
        print(f"\n[{STEPS.index(name) + 1}/{len(STEPS)}] {title}", flush=True)
        began = time.monotonic()
        yield
        self.seconds[name] = round(time.monotonic() - began, 1)
        print(
            f"    ({self.seconds[name]:.0f} s; {time.monotonic() - self.began:.0f} s in all)",
            flush=True,
        )

    @contextlib.contextmanager
    def serving(self, *words: str) -> Iterator[str]:
        with self._started("serve", *words) as (process, log):
            for line in _lines(process):
                if line.startswith("ready: "):
                    yield line.removeprefix("ready: ")
                    return
            _give_up("serve", process.wait(), log)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def _lines(process: subprocess.Popen[str]) -> Iterator[str]:
    stdout: IO[str] | None = process.stdout
    assert stdout is not None
    for line in stdout:
        if line.strip() and not line.startswith("\x1b["):  # Ray's own warnings come coloured
            yield line.rstrip()


def _end(process: subprocess.Popen[str]) -> None:
    if process.poll() is None:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(60)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)


def _give_up(name: str, status: int, log: Path) -> None:
    last = log.read_text(errors="replace").strip().splitlines()[-12:]
    print("\n".join(last), file=sys.stderr)
    print(
        f"\njobs/{name}.py ended with status {status}; the whole log is in {log}", file=sys.stderr
    )
    raise SystemExit(1)


def _summary(run: Path, job: str) -> dict[str, Any]:
    return json.loads((run / "summary" / f"{job}.json").read_text())


def accuracies(evaluated: dict[str, Any]) -> dict[str, Any]:
    """Both models on each group of questions and on each kind, with a blind guess, the paired difference and its 95% interval."""
    kept = {}
    for name, row in evaluated["compared"]["tempo"].items():
        values = {
            "sft": row["first"],
            "tempo": row["second"],
            "chance": evaluated["models"]["sft"]["groups"][name]["chance"],
        }
        values |= {key: row[key] for key in ("difference", "low", "high", "p")}
        kept[name] = {key: round(value, 4) for key, value in values.items()} | {
            "questions": row["questions"]
        }
    return kept


def main() -> None:
    config = parse_args(DemoConfig, __doc__)
    demo = Demo(config)
    run = demo.run
    if (run / "summary.json").exists():
        shutil.rmtree(run)
    seed = config.seed
    world, tempo, sft = run / "world", run / "tempo", run / "sft"
    print(f"tempo_ray demo: everything is written to {run}/", flush=True)

    with demo.step(
        "world", f"drawing {config.train_videos} + {config.test_videos} videos with known stories"
    ):
        for split, count in (("train", config.train_videos), ("test", config.test_videos)):
            if not (world / split / "instructions.jsonl").exists():
                demo.job(
                    "make_shapeworld",
                    f"output={world / split}",
                    f"split={split}",
                    f"videos={count}",
                    f"seed={seed}",
                )
    with demo.step("pairs", "videos -> shots -> clean and perturbed answers -> preference pairs"):
        demo.job(
            "generate_pairs",
            f"run={tempo}",
            f"videos.input={world / 'train' / 'videos'}",
            f"seed={seed}",
        )
    data = f"sft.data={world / 'train' / 'instructions.jsonl'}"
    with demo.step("tempo", "TEMPO: curriculum DPO from easy to hard, then SFT"):
        demo.job("train", f"run={tempo}", "recipe=pre_sft", data, f"seed={seed}")
    with demo.step("sft", "the baseline: the same SFT without the alignment"):
        demo.job("train", f"run={sft}", "recipe=sft", data, f"seed={seed}")
    with demo.step("answers", "both models behind one endpoint, the same questions to both"):
        models = f"models=[{{name: sft, path: {sft / 'model'}}}, {{name: tempo, path: {tempo / 'model'}}}]"
        questions = f"questions={world / 'test' / 'questions.jsonl'}"
        with demo.serving(models, f"port={config.port or free_port()}", f"run={run}") as url:
            demo.job(
                "evaluate",
                f"run={run}",
                f"endpoint={url}",
                "models=[sft, tempo]",
                questions,
                f"seed={seed}",
                quiet=True,
            )

    finish(demo, run, world, tempo)


def finish(demo: Demo, run: Path, world: Path, tempo: Path) -> None:
    from tempo_ray.report.demo import draw_summary, table

    pairs = _summary(tempo, "generate_pairs")
    facts = {
        "seed": demo.config.seed,
        "seconds": demo.seconds | {"total": round(time.monotonic() - demo.began, 1)},
        "videos": pairs["videos_in"],
        "kept": pairs["kept"],
        "dropped": pairs["dropped"],
        "failed": pairs["failed"],
        "pairs": pairs["pairs"],
        "accuracy": accuracies(_summary(run, "evaluate")),
    }
    picture = run / "demo.png"
    draw_summary(facts, world / "train" / "videos", tempo / "pairs", picture)
    part = run / ".summary.json.part"
    part.write_text(json.dumps(facts, indent=1) + "\n")
    part.rename(run / "summary.json")
    print("\n" + table(facts))
    places = {
        "figures": run / "summary.json",
        "picture": picture,
        "pairs (Parquet)": tempo / "pairs",
        "the aligned model": tempo / "model",
        "the baseline": run / "sft" / "model",
        "every answer": run / "scores",
        "curves": f"tensorboard --logdir {tempo / 'train' / 'tensorboard'}",
        "logs": run / "logs",
    }
    print("\n".join(f"  {what:18} {where}" for what, where in places.items()))


if __name__ == "__main__":
    main()
