"""Helpers for tests of a whole stage: drawn videos and made-up pairs; workers in processes; the same in plain PyTorch."""

import contextlib
import json
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pyarrow as pa
import pyarrow.parquet as pq
import torch

from tempo_ray.arguments import load_config
from tempo_ray.config import TrainConfig
from tempo_ray.models.vlm import load_model, load_model_config, load_processor
from tempo_ray.schema import PAIR
from tempo_ray.shapeworld import language
from tempo_ray.shapeworld.build import make_random
from tempo_ray.shapeworld.render import write_video
from tempo_ray.shapeworld.story import draw_story
from tempo_ray.train.attention import use_packed_attention
from tempo_ray.train.batch import pack, read_group
from tempo_ray.train.deepspeed import learning_rate, parameter_groups
from tempo_ray.train.learner import Learner, Work, align_losses, sft_losses
from tempo_ray.train.loop import stage_groups
from tempo_ray.train.lora import add_adapter, open_weights
from tempo_ray.train.plan import resolved
from tempo_ray.train.score import Scorer

VIDEOS = 8
MISSING = 1
"""Videos whose pairs name a file that is not there."""
SETTINGS = {
    "align.curriculum": "{strengths: [8, 4], epochs: 3}",
    "align.batch": "8",
    "align.optimizer.lr": "1.0e-3",
    "align.lora": "{rank: 4, alpha: 8}",
    "sft.batch": "8",
    "sft.lora": "{rank: 4, alpha: 8}",
    "deepspeed": "{zero_stage: 3, dtype: float32, gradient_checkpointing: false, whole_below: 0}",
    "workers": "{count: 2, cpus: 1, gpus: 0, max_failures: 0}",
    "ray.num_cpus": "4",
    "max_tokens": "1024",
    "save_every_steps": "4",
}


def make_inputs(root: Path, settings: dict[str, str] = SETTINGS) -> list[str]:
    """A random model, drawn videos, made-up pairs and conversations -> the words of the command."""
    make_random("qwen2_5_vl", root / "model")
    rng = np.random.default_rng(0)
    pairs, conversations = [], []
    for number in range(VIDEOS + MISSING):
        events = list(draw_story(rng, 3).events)
        video = root / f"{number}.mp4"
        if number < VIDEOS:
            story = draw_story(rng, 3)
            events = list(story.events)
            write_video(story, video, 24, 64, 64)
        chosen = language.caption(events, number)
        texts = [
            language.caption([events[index] for index in order], number)
            for order in ((2, 1, 0), (1, 0, 2), (0, 2, 1))
        ]
        for strength in (8, 4):
            pairs += [
                {
                    "uri": str(video),
                    "prompt": "Describe this video in order.",
                    "chosen": chosen,
                    "rejected": text,
                }
                | {"strength": strength, "order_distance": 1 / strength, "kept_share": 1.0}
                for text in [*texts, texts[0]]
            ]
        turns = [
            {"from": "human", "value": "<video>\nTell the story."},
            {"from": "gpt", "value": chosen},
        ]
        conversations.append({"video": video.name, "conversations": turns})
    (root / "pairs").mkdir()
    pq.write_table(pa.Table.from_pylist(pairs, schema=PAIR), root / "pairs" / "0.parquet")
    (root / "data.json").write_text(json.dumps(conversations[:VIDEOS]))
    words = {
        "run": root / "run",
        "model": root / "model",
        "pairs": root / "pairs",
        "sft.data": root / "data.json",
    }
    return [f"{key}={value}" for key, value in (words | settings).items()]


def config_of(words: list[str]) -> TrainConfig:
    return resolved(load_config(TrainConfig, None, words))


@dataclass(frozen=True)
class Ran:
    facts: dict[str, Any]
    history: list[dict[str, float]]
    merged: Path
    output: str


@dataclass(frozen=True)
class Asked:
    config: TrainConfig
    out: Path
    name: str = "align-8"
    apart: bool = False
    """The workers have no common disk."""


def run_stages(
    stages: list[Asked], until: Callable[[Path], bool] | None = None, seconds: float = 400
) -> list[Ran]:
    """One after the other in as many processes as the first one's config has workers; all are killed once `until` says so of
    the first one's folder, and then none has run."""
    out = stages[0].out
    for stage in stages:
        stage.out.mkdir(parents=True, exist_ok=True)
    asked = [
        {
            "config": one.config.model_dump(mode="json"),
            "name": one.name,
            "out": str(one.out),
            "apart": one.apart,
        }
        for one in stages
    ]
    (out / "stages.json").write_text(json.dumps(asked))
    words = [str(Path(__file__).with_name("worker.py")), str(out / "stages.json")]
    workers = str(stages[0].config.workers.count)
    launch = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--standalone",
        "--nproc-per-node",
        workers,
    ]
    with (out / "log").open("w+") as log:
        process = subprocess.Popen(
            [*launch, *words], stdout=log, stderr=subprocess.STDOUT, start_new_session=True
        )
        deadline = time.monotonic() + seconds
        try:
            while process.poll() is None:
                assert time.monotonic() < deadline, (out / "log").read_text()
                if until is not None and until(out):
                    return []
                time.sleep(0.02)
        finally:
            if process.poll() is None:
                _kill(process.pid)
            process.wait()
    assert until is None, "it ended before it could be killed"
    output = (out / "log").read_text()
    assert process.returncode == 0, output[-5000:]
    return [_ran(stage.out, output) for stage in stages]


def _kill(pid: int) -> None:
    """The launcher and its workers, which are in sessions of their own, at one stroke."""
    launcher = psutil.Process(pid)
    for one in [*launcher.children(recursive=True), launcher]:
        with contextlib.suppress(psutil.NoSuchProcess):
            one.kill()


def run_stage(config: TrainConfig, out: Path) -> Ran:
    return run_stages([Asked(config, out)])[0]


def kill_stage(config: TrainConfig, out: Path, until: Callable[[Path], bool]) -> None:
    assert run_stages([Asked(config, out)], until) == []


def _ran(out: Path, output: str) -> Ran:
    facts = json.loads((out / "facts.json").read_text())
    history = [] if "stopped" in facts else _lines(out / "result-0" / "history.jsonl")
    return Ran(facts, history, out / "result-0" / "merged", output)


def _lines(file: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in file.read_text().splitlines()]


def saved(number: int) -> Callable[[Path], bool]:
    """Whether there is a whole save of at least that step."""
    return lambda out: any(
        int(save.parent.name) >= number
        for save in out.glob("saves/*/save.json")
        if save.parent.name.isdigit()
    )


def plain_losses(config: TrainConfig, name: str = "align-8") -> tuple[list[float], torch.nn.Module]:
    """A stage's losses in one process: torch's optimizer, no shards, no Ray, all groups of a step in one row."""
    torch.set_num_threads(1)  # tiny models on a busy machine: threads would wait for one another
    work = Work(config, name, "sft" if name == "sft" else "align", config.model, config.model, 0)
    model = use_packed_attention(load_model(config.model, torch.float32), "sdpa")
    adapter = (
        None if work.lora is None else add_adapter(model, work.lora, config.seed, work.train_vision)
    )
    if adapter is None:
        open_weights(model, work.train_vision)
    module = Scorer(model, adapter)
    frozen = None
    if work.reference is not None:
        frozen = Scorer(use_packed_attention(load_model(work.reference, torch.float32), "sdpa"))
    learner = Learner(module, frozen)
    processor, model_config = load_processor(config.model), load_model_config(config.model)
    groups = stage_groups(config, name)
    steps = work.steps(groups, config.workers.count)
    settings = work.optimizer
    optimizer = torch.optim.AdamW(
        parameter_groups(module, settings.weight_decay), betas=(settings.beta1, settings.beta2)
    )
    losses = []
    for number, step in enumerate(steps):
        there = [
            groups[index] for hand in step for index in hand if Path(groups[index].uri).exists()
        ]
        tokens = [
            one
            for group in there
            for one in read_group(processor, model_config, group, config.frames, config.max_tokens)
        ]
        batch = pack(tokens)
        each = (
            align_losses(learner, batch, config.align.loss)[0]
            if name != "sft"
            else sft_losses(learner, batch)[0]
        )
        loss = each.mean()
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(module.parameters(), settings.grad_clip)
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(number, len(steps), settings)
        optimizer.step()
        losses.append(loss.item())
    return losses, model
