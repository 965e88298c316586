"""Helpers for tests of a whole stage: drawn videos and made-up pairs; workers in processes; the
same training in plain PyTorch."""

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

from tempo_ray.config import TrainConfig
from tempo_ray.config.load import load_config
from tempo_ray.models.vlm import load_model, load_model_config, load_processor
from tempo_ray.records import StageResult, Stopped, read_row
from tempo_ray.schema import PAIR
from tempo_ray.shapeworld import language
from tempo_ray.shapeworld.build import make_random
from tempo_ray.shapeworld.render import write_video
from tempo_ray.shapeworld.story import draw_story
from tempo_ray.train.attention import use_packed_attention
from tempo_ray.train.batch import pack
from tempo_ray.train.curriculum import assign_examples
from tempo_ray.train.lora import add_adapter, train_all_weights
from tempo_ray.train.policy import LogProbs, Policy
from tempo_ray.train.run.plan import pairs_folders, stage_examples
from tempo_ray.train.sequences import read_example
from tempo_ray.train.stage.zero import learning_rate, parameter_groups
from tests.train.worker import make_context

VIDEOS = 8
MISSING = 1
"""Videos whose pairs name a file that does not exist."""
SETTINGS = {
    "align.curriculum": "{strengths: [8, 4], epochs: 3}",
    "align.pairs_per_step": "8",
    "align.optimizer.lr": "1.0e-3",
    "align.lora": "{rank: 4, alpha: 8}",
    "sft.conversations_per_step": "8",
    "sft.lora": "{rank: 4, alpha: 8}",
    "deepspeed": "{zero_stage: 3, dtype: float32, gradient_checkpointing: false, "
    "param_persistence_threshold: 0}",
    "workers": "{count: 2, cpus: 1, gpus: 0, max_failures: 0}",
    "ray.num_cpus": "4",
    "max_tokens": "1024",
    "checkpoint_every_steps": "4",
}


def make_inputs(root: Path, settings: dict[str, str] = SETTINGS) -> list[str]:
    """A random model, drawn videos, made-up pairs and conversations -> the words of the command."""
    make_random("qwen2_5_vl", root / "model", hidden=128, layers=2)
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
                    "strength": strength,
                    "order_distance": 1 / strength,
                    "kept_share": 1.0,
                }
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
    config = load_config(TrainConfig, None, words)
    return config.model_copy(update={"pairs": pairs_folders(config)})


@dataclass(frozen=True)
class Ran:
    result: StageResult | Stopped
    history: list[dict[str, float]]
    merged: Path
    output: str

    @property
    def finished(self) -> StageResult:
        assert isinstance(self.result, StageResult), self.result
        return self.result

    @property
    def stopped(self) -> Stopped:
        assert isinstance(self.result, Stopped), self.result
        return self.result


@dataclass(frozen=True)
class StageRun:
    """A stage to train, and the folder for all that it writes."""

    config: TrainConfig
    out: Path
    name: str = "align-8"
    separate_disks: bool = False
    """The workers have no disk in common."""


def run_stages(
    stages: list[StageRun], until: Callable[[Path], bool] | None = None, seconds: float = 400
) -> list[Ran]:
    """One after the other in as many processes as the first one's config has workers; all are
    killed once `until` is true of the first one's folder, and then none has run."""
    out = stages[0].out
    for stage in stages:
        stage.out.mkdir(parents=True, exist_ok=True)
    arguments = [
        {
            "config": stage.config.model_dump(mode="json"),
            "name": stage.name,
            "out": str(stage.out),
            "separate_disks": stage.separate_disks,
        }
        for stage in stages
    ]
    (out / "stages.json").write_text(json.dumps(arguments))
    workers = str(stages[0].config.workers.count)
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    command += ["--nproc-per-node", workers, str(Path(__file__).with_name("worker.py"))]
    command += [str(out / "stages.json")]
    with (out / "log").open("w+") as log:
        process = subprocess.Popen(
            command, stdout=log, stderr=subprocess.STDOUT, start_new_session=True
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
    """The launcher and its workers, which have their own sessions, all at once."""
    launcher = psutil.Process(pid)
    for process in [*launcher.children(recursive=True), launcher]:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()


def run_stage(config: TrainConfig, out: Path) -> Ran:
    return run_stages([StageRun(config, out)])[0]


def kill_stage(config: TrainConfig, out: Path, until: Callable[[Path], bool]) -> None:
    assert run_stages([StageRun(config, out)], until) == []


def _ran(out: Path, output: str) -> Ran:
    facts = json.loads((out / "result.json").read_text())
    if "reason" in facts:
        return Ran(read_row(Stopped, facts), [], out / "result-0" / "merged", output)
    history = read_lines(out / "result-0" / "history.jsonl")
    return Ran(read_row(StageResult, facts), history, out / "result-0" / "merged", output)


def read_lines(file: Path) -> list[Any]:
    return [json.loads(line) for line in file.read_text().splitlines()]


def has_checkpoint(step: int) -> Callable[[Path], bool]:
    """Whether there is a complete checkpoint of at least that step."""
    return lambda out: any(
        int(file.parent.name) >= step
        for file in out.glob("checkpoints/*/checkpoint.json")
        if file.parent.name.isdigit()
    )


def plain_losses(config: TrainConfig, name: str = "align-8") -> tuple[list[float], torch.nn.Module]:
    """A stage's losses in one process: torch's optimiser, no shards, no Ray, all examples of a step
    in one row."""
    torch.set_num_threads(1)  # threads that wait for each other make tiny models slow
    context = make_context(config, name)
    objective, settings = context.objective, context.objective.config
    model = use_packed_attention(load_model(config.model, torch.float32), "sdpa")
    adapter = None
    if settings.lora is None:
        train_all_weights(model, settings.train_vision)
    else:
        adapter = add_adapter(model, settings.lora, config.seed, settings.train_vision)
    module = LogProbs(model, adapter)
    reference = None
    reference_path = objective.separate_reference(config.model, config.model)
    if reference_path is not None:
        frozen = use_packed_attention(load_model(reference_path, torch.float32), "sdpa")
        reference = LogProbs(frozen)
    policy = Policy(module, reference)
    processor, model_config = load_processor(config.model), load_model_config(config.model)
    examples = stage_examples(config, name)
    sizes = [objective.size(example) for example in examples]
    workers, seed = config.workers.count, config.seed
    steps = assign_examples(sizes, objective.step_size, workers, objective.epochs, seed)
    optimizer = torch.optim.AdamW(
        parameter_groups(module, settings.optimizer.weight_decay),
        betas=(settings.optimizer.beta1, settings.optimizer.beta2),
    )
    losses = []
    for number, assignment in enumerate(steps):
        assigned = [examples[index] for indices in assignment for index in indices]
        sequences = [
            tokens
            for example in assigned
            if Path(example.uri).exists()
            for tokens in read_example(
                processor, model_config, example, config.frames, config.max_tokens
            )
        ]
        loss = objective.losses(policy, pack(sequences))[0].mean()
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(module.parameters(), settings.optimizer.grad_clip)
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(number, len(steps), settings.optimizer)
        optimizer.step()
        losses.append(loss.item())
    return losses, model
