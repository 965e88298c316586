"""jobs/train.py as a user runs it: two workers, ZeRO-3, two DPO stages and SFT; killed in the middle and started again.

Its losses are those of one process with plain PyTorch, across the kill and all.
"""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from tempo_ray.arguments import load_config
from tempo_ray.config import TrainConfig
from tempo_ray.models.vlm import load_model, load_model_config, load_processor
from tempo_ray.schema import PAIR
from tempo_ray.shapeworld import language
from tempo_ray.shapeworld.build import make_random
from tempo_ray.shapeworld.render import write_video
from tempo_ray.shapeworld.story import draw_story
from tempo_ray.train.attention import attention_names
from tempo_ray.train.batch import pack, read_group
from tempo_ray.train.deepspeed import learning_rate, parameter_groups
from tempo_ray.train.learner import Learner, Work, align_losses
from tempo_ray.train.loop import stage_groups
from tempo_ray.train.lora import add_adapter
from tempo_ray.train.plan import resolved
from tempo_ray.train.score import Scorer

ROOT = Path(__file__).parents[2]
VIDEOS = 8
SETTINGS = {
    "align.curriculum": "{strengths: [8, 4], epochs: 3}",
    "align.batch": "8",
    "align.optimizer.lr": "1.0e-3",
    "align.lora": "{rank: 4, alpha: 8}",
    "sft.batch": "8",
    "sft.lora": "{rank: 4, alpha: 8, train_vision: true}",
    "deepspeed": "{zero_stage: 3, dtype: float32, gradient_checkpointing: false}",
    "workers": "{count: 2, cpus: 1, gpus: 0, max_failures: 0}",
    "ray.num_cpus": "4",
    "max_tokens": "1024",
    "save_every_steps": "4",
}


def make_inputs(root: Path) -> list[str]:
    """A random model, drawn videos, made-up pairs and conversations -> the words of the command."""
    make_random("qwen2_5_vl", root / "model")
    rng = np.random.default_rng(0)
    pairs, conversations = [], []
    for number in range(VIDEOS + 1):
        events = list(draw_story(rng, 3).events)
        video = root / f"{number}.mp4"
        if number < VIDEOS:  # the last one's pairs name a file that is not there
            story = draw_story(rng, 3)
            events = list(story.events)
            write_video(story, video, 24, 64, 64)
        chosen = language.caption(events, number)
        texts = [language.caption([events[index] for index in order], number) for order in ((2, 1, 0), (1, 0, 2), (0, 2, 1))]
        for strength in (8, 4):
            pairs += [
                {
                    "uri": str(video),
                    "prompt": "Describe this video in order.",
                    "chosen": chosen,
                    "rejected": text,
                    "strength": strength,
                }
                | {"order_distance": 1 / strength}
                for text in [*texts, texts[0]]
            ]
        value = [{"from": "human", "value": "<video>\nTell the story."}, {"from": "gpt", "value": chosen}]
        conversations.append({"video": video.name, "conversations": value})
    (root / "pairs").mkdir()
    pq.write_table(pa.Table.from_pylist(pairs, schema=PAIR), root / "pairs" / "0.parquet")
    (root / "data.json").write_text(json.dumps(conversations[:VIDEOS]))
    words = {"run": root / "run", "model": root / "model", "pairs": root / "pairs", "sft.data": root / "data.json"}
    return [f"{key}={value}" for key, value in (words | SETTINGS).items()]


def start(words: list[str], log: Path) -> subprocess.Popen[bytes]:
    with log.open("wb") as output:
        command = [sys.executable, str(ROOT / "jobs" / "train.py"), *words]
        return subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT, start_new_session=True)


def finish(words: list[str], log: Path) -> str:
    assert start(words, log).wait(400) == 0, log.read_text()
    return log.read_text()


def kill_after_the_first_save(words: list[str], root: Path) -> None:
    process = start(words, root / "killed.log")
    deadline = time.monotonic() + 300
    while not list((root / "run" / "train" / "saves").glob("align-8-*/*/save.json")):
        assert process.poll() is None, (root / "killed.log").read_text()
        assert time.monotonic() < deadline, (root / "killed.log").read_text()
        time.sleep(0.05)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[str], str]:
    root = tmp_path_factory.mktemp("train")
    words = make_inputs(root)
    kill_after_the_first_save(words, root)
    assert not (root / "run" / "stages" / "align-8" / "stage.json").exists(), "killed too late to test anything"
    return root, words, finish(words, root / "log")


def plain_losses(config: TrainConfig) -> list[float]:
    """The first stage's losses in one process: torch's optimizer, no shards, no Ray, all groups of a step in one batch."""
    torch.set_num_threads(1)  # tiny models on a busy machine: threads would wait for one another
    config = resolved(config)
    work = Work(config, "align-8", "align", config.model, config.model, 0)
    model = load_model(config.model, torch.float32, attention_names("sdpa"))
    adapter = add_adapter(model, config.align.lora, config.seed)
    module = Scorer(model, adapter)
    learner = Learner(module, None)
    processor, model_config = load_processor(config.model), load_model_config(config.model)
    groups = stage_groups(config, "align-8")
    steps = work.steps(groups, config.workers.count)
    settings = work.optimizer
    optimizer = torch.optim.AdamW(parameter_groups(module, settings.weight_decay), betas=(settings.beta1, settings.beta2))
    losses = []
    for number, step in enumerate(steps):
        there = [groups[index] for hand in step for index in hand if Path(groups[index].uri).exists()]
        tokens = [read_group(processor, model_config, group, config.frames, config.max_tokens) for group in there]
        pair_losses, _ = align_losses(learner, pack(tokens), config.align.loss)
        loss = pair_losses.mean()
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(module.parameters(), settings.grad_clip)
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(number, len(steps), settings)
        optimizer.step()
        losses.append(loss.item())
    return losses


def test_it_went_on_from_the_save(trained: tuple[Path, list[str], str]) -> None:
    _, _, output = trained
    assert "align-8  step 1/" not in output
    assert "align-4  step 1/" in output
    assert "sft: done" in output


def test_losses_are_those_of_plain_pytorch(trained: tuple[Path, list[str], str]) -> None:
    root, words, _ = trained
    history = (root / "run" / "stages" / "align-8" / "history.jsonl").read_text().splitlines()
    losses = [json.loads(line)["loss"] for line in history]
    plain = plain_losses(load_config(TrainConfig, None, words))
    assert len(losses) >= 10
    assert losses[0] > losses[-1]
    assert losses == pytest.approx(plain, rel=2e-5)


def test_everything_is_accounted_for(trained: tuple[Path, list[str], str]) -> None:
    root, _, output = trained
    facts = json.loads((root / "run" / "stages" / "align-8" / "stage.json").read_text())
    assert (facts["pairs"], facts["groups"], facts["skipped"]) == (27, 9, {"missing": 3})
    assert (
        sum(json.loads(line)["units"] for line in (root / "run/stages/align-8/history.jsonl").read_text().splitlines()) == 3 * 24
    )
    summary = json.loads((root / "run" / "summary" / "train.json").read_text())
    assert summary["status"] == "done"
    assert summary["left_out"] == {"no_stage": 0, "identical": 0, "duplicated": 18}
    assert "3 missing" in output
    assert list((root / "run" / "train" / "tensorboard" / "align-4").iterdir())


def test_the_model_is_whole_and_changed(trained: tuple[Path, list[str], str]) -> None:
    root, _, _ = trained
    before = dict(load_model(str(root / "model"), torch.float32).named_parameters())
    stages = {
        name: load_model(str(root / "run" / "stages" / name / "merged"), torch.float32) for name in ("align-8", "align-4", "sft")
    }
    final = load_model(str(root / "run" / "model"), torch.float32)
    assert load_model_config(str(root / "run" / "model")).dtype == torch.float32
    assert (root / "run" / "model" / "tempo_ray.json").is_file()
    assert "| align-8 | 27 | 9 | 9 |" in (root / "run" / "model" / "README.md").read_text()
    changed = {
        name: {key for key, one in model.named_parameters() if not torch.equal(one, before[key])}
        for name, model in stages.items()
    }
    assert changed["align-8"]
    assert not any("visual" in key for key in changed["align-4"])
    assert any("visual" in key for key in changed["sft"])
    assert all(torch.equal(one, dict(stages["sft"].named_parameters())[name]) for name, one in final.named_parameters())


def test_a_second_call_trains_nothing(trained: tuple[Path, list[str], str]) -> None:
    root, words, _ = trained
    model = root / "run" / "model" / "model.safetensors"
    written = model.stat().st_mtime_ns
    output = finish(words, root / "again.log")
    assert [output.count(f"{name}: finished before") for name in ("align-8", "align-4", "sft")] == [1, 1, 1]
    assert "step 1/" not in output
    assert model.stat().st_mtime_ns == written


def test_other_settings_in_the_same_run_are_refused_in_a_line(trained: tuple[Path, list[str], str]) -> None:
    _, words, _ = trained
    command = [sys.executable, str(ROOT / "jobs" / "train.py"), *words, "align.lora.rank=8"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 2
    assert "other settings or data" in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1, done.stderr
