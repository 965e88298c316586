"""The training job as a user runs it: two workers, ZeRO-3, two DPO stages and SFT; killed in the
middle and started again.

Its losses are those of one process with plain PyTorch, in spite of the kill; its weights are those
of a run in which a worker was killed instead, to the last bit.
"""

import json
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import psutil
import pytest
import torch
from safetensors.torch import load_file

from tempo_ray.models.vlm import load_model, load_model_config
from tests.integration.jobs import kill_group, processes_named, run_job, started_job, wait_until
from tests.train.stages import config_of, make_inputs, plain_losses, read_lines

pytestmark = pytest.mark.ranks

Trained = tuple[Path, list[str], str]
"""A folder, the words of the command that trained in it, and what that printed."""


def checkpoints(root: Path) -> list[Path]:
    return list((root / "run" / "train" / "checkpoints").glob("align-8-*/*/checkpoint.json"))


@pytest.fixture(scope="module")
def trained(ray_cluster: None, tmp_path_factory: pytest.TempPathFactory) -> Trained:
    """The driver and all its processes are killed after the first checkpoint; the same command
    finishes what they began."""
    root = tmp_path_factory.mktemp("train")
    words = make_inputs(root)
    log = root / "killed.log"
    with started_job("train", *words, log=log) as process:
        wait_until(lambda: checkpoints(root), process, log)
        kill_group(process)
    stage = root / "run" / "stages" / "align-8" / "stage.json"
    assert not stage.exists(), "killed too late to test anything"
    ended = run_job("train", *words)
    assert ended.status == 0, ended.err[-3000:]
    return root, words, ended.out


def test_a_killed_worker_costs_nothing(trained: Trained, tmp_path: Path) -> None:
    """The run resumes by itself; its weights are those of the run whose driver was killed, bit for
    bit."""
    root, words, _ = trained
    changed = [
        *words,
        f"run={tmp_path / 'run'}",
        "recipe=align",
        "align.curriculum.strengths=[8]",
        "workers.max_failures=2",
    ]
    killed: list[psutil.Process] = []
    over = threading.Event()

    def kill_a_worker() -> None:
        while not checkpoints(tmp_path):
            if over.wait(0.05):
                return
        workers = processes_named(psutil.Process(), "TrainWorker")
        assert len(workers) == 2
        workers[1].kill()
        killed.append(workers[1])

    killer = threading.Thread(target=kill_a_worker)
    killer.start()
    ended = run_job("train", *changed)
    over.set()
    killer.join()
    assert ended.status == 0, ended.err[-3000:]
    assert killed
    assert "align-8: done" in ended.out
    driver_killed, worker_killed = (
        load_file(folder / "run" / "stages" / "align-8" / "merged" / "model.safetensors")
        for folder in (root, tmp_path)
    )
    assert driver_killed.keys() == worker_killed.keys()
    for name, weight in driver_killed.items():
        assert torch.equal(weight, worker_killed[name]), name


def test_ctrl_c_ends_it_at_once(trained: Trained, tmp_path: Path) -> None:
    _, words, _ = trained
    run, log = tmp_path / "run", tmp_path / "log"
    words = [*words, f"run={run}", "align.curriculum.epochs=500"]
    with started_job("train", *words, "recipe=align", log=log) as process:
        wait_until(lambda: checkpoints(tmp_path), process, log)
        second = run_job("train", *words)
        assert second.status == 2
        assert "another process is training" in second.err
        os.kill(process.pid, signal.SIGINT)
        assert process.wait(30) == 130, log.read_text()
    assert "train: interrupted" in log.read_text()
    summary = json.loads((run / "summary" / "train.json").read_text())
    assert summary["error"] == "interrupted"


def test_stock_vllm_loads_what_comes_out(trained: Trained) -> None:
    root, _, _ = trained
    script = f"""
from tempo_ray.config import EngineConfig
from tempo_ray.models.engine import engine_kwargs, set_environment
config = EngineConfig(dtype="float32", max_model_len=512, kv_cache_bytes=50_000_000,
                      enforce_eager=True, in_process=True)
set_environment(config)
from vllm import LLM, SamplingParams
llm = LLM({str(root / "run" / "model")!r}, **engine_kwargs(config, True))
message = {{"role": "user", "content": "Tell a story."}}
outputs = llm.chat([message], SamplingParams(max_tokens=8), use_tqdm=False)
print(len(outputs[0].outputs[0].token_ids))
"""
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert int(done.stdout.splitlines()[-1]) > 0


def test_it_resumed_from_the_checkpoint(trained: Trained) -> None:
    _, _, output = trained
    assert "align-8  resumes after step" in output
    assert "align-8  step 1/" not in output
    assert "align-4  step 1/" in output
    assert "sft: done" in output


def test_losses_are_those_of_plain_pytorch(trained: Trained) -> None:
    root, words, _ = trained
    history = read_lines(root / "run" / "stages" / "align-8" / "history.jsonl")
    losses = [metrics["loss"] for metrics in history]
    plain, _ = plain_losses(config_of(words))
    assert len(losses) >= 10
    assert losses[0] > losses[-1]
    assert losses == pytest.approx(plain, rel=2e-5)


def test_everything_is_accounted_for(trained: Trained) -> None:
    root, _, output = trained
    stage = json.loads((root / "run" / "stages" / "align-8" / "stage.json").read_text())
    assert (stage["pairs"], stage["examples"], stage["skipped"]) == (27, 9, {"missing": 3})
    assert (stage["objective"], stage["start"]) == ("dpo", str(root / "model"))
    history = read_lines(root / "run" / "stages" / "align-8" / "history.jsonl")
    assert sum(metrics["pairs"] for metrics in history) == 3 * 24
    summary = json.loads((root / "run" / "summary" / "train.json").read_text())
    assert summary["status"] == "done"
    assert summary["left_out"] == {"no_stage": 0, "identical": 0, "duplicated": 18}
    assert "3 missing" in output
    assert list((root / "run" / "train" / "tensorboard" / "align-4").iterdir())


def test_the_model_is_complete_and_changed(trained: Trained) -> None:
    root, _, _ = trained
    before = dict(load_model(str(root / "model"), torch.float32).named_parameters())
    stages = {
        name: load_model(str(root / "run" / "stages" / name / "merged"), torch.float32)
        for name in ("align-8", "align-4", "sft")
    }
    final = load_model(str(root / "run" / "model"), torch.float32)
    assert load_model_config(str(root / "run" / "model")).dtype == torch.float32
    assert (root / "run" / "model" / "tempo_ray.json").is_file()
    assert "| align-8 | 27 | 9 | 9 |" in (root / "run" / "model" / "README.md").read_text()
    changed = {
        name: {
            key
            for key, parameter in model.named_parameters()
            if not torch.equal(parameter, before[key])
        }
        for name, model in stages.items()
    }
    assert changed["align-8"]
    assert not any("visual" in key for key in changed["align-4"])
    assert any("visual" in key for key in changed["sft"])
    last = dict(stages["sft"].named_parameters())
    for name, parameter in final.named_parameters():
        assert torch.equal(parameter, last[name]), name


def test_a_second_run_trains_nothing(trained: Trained) -> None:
    root, words, _ = trained
    model = root / "run" / "model" / "model.safetensors"
    written = model.stat().st_mtime_ns
    ended = run_job("train", *words)
    assert ended.status == 0, ended.err[-3000:]
    output = ended.out
    for name in ("align-8", "align-4", "sft"):
        assert output.count(f"{name}: already finished") == 1
    assert "step 1/" not in output
    assert model.stat().st_mtime_ns == written


def test_other_settings_in_the_same_run_are_refused_in_one_line(trained: Trained) -> None:
    _, words, _ = trained
    refused = run_job("train", *words, "align.lora.rank=8")
    assert refused.status == 2
    assert "other settings or data" in refused.err
    assert len(refused.err.strip().splitlines()) == 1, refused.err
