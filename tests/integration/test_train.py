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
import time
from pathlib import Path

import psutil
import pytest
import torch
from safetensors.torch import load_file

from tempo_ray.models.vlm import load_model, load_model_config
from tests.train.stages import config_of, make_inputs, plain_losses, read_lines

pytestmark = pytest.mark.engine

ROOT = Path(__file__).parents[2]


def start(words: list[str], log: Path) -> subprocess.Popen[bytes]:
    with log.open("wb") as output:
        command = [sys.executable, str(ROOT / "jobs" / "train.py"), *words]
        return subprocess.Popen(
            command, stdout=output, stderr=subprocess.STDOUT, start_new_session=True
        )


def finish(words: list[str], log: Path) -> str:
    assert start(words, log).wait(400) == 0, log.read_text()
    return log.read_text()


def wait_for_a_checkpoint(process: subprocess.Popen[bytes], root: Path, log: Path) -> None:
    deadline = time.monotonic() + 300
    while not list((root / "run" / "train" / "checkpoints").glob("align-8-*/*/checkpoint.json")):
        assert process.poll() is None, log.read_text()
        assert time.monotonic() < deadline, log.read_text()
        time.sleep(0.05)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[str], str]:
    """The driver and all its processes are killed after the first checkpoint; the same command
    finishes what they began."""
    root = tmp_path_factory.mktemp("train")
    words = make_inputs(root)
    process = start(words, root / "killed.log")
    wait_for_a_checkpoint(process, root, root / "killed.log")
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    assert not (root / "run" / "stages" / "align-8" / "stage.json").exists(), (
        "killed too late to test anything"
    )
    return root, words, finish(words, root / "log")


def test_a_killed_worker_costs_nothing(
    trained: tuple[Path, list[str], str], tmp_path: Path
) -> None:
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
    process = start(changed, tmp_path / "log")
    wait_for_a_checkpoint(process, tmp_path, tmp_path / "log")
    workers = [
        child
        for child in psutil.Process(process.pid).children(recursive=True)
        if "TrainWorker" in " ".join(child.cmdline())
    ]
    assert len(workers) == 2
    workers[1].kill()
    assert process.wait(400) == 0, (tmp_path / "log").read_text()
    assert "align-8: done" in (tmp_path / "log").read_text()
    driver_killed, worker_killed = (
        load_file(folder / "run" / "stages" / "align-8" / "merged" / "model.safetensors")
        for folder in (root, tmp_path)
    )
    assert driver_killed.keys() == worker_killed.keys()
    for name, weight in driver_killed.items():
        assert torch.equal(weight, worker_killed[name]), name


def test_ctrl_c_ends_it_at_once(trained: tuple[Path, list[str], str], tmp_path: Path) -> None:
    _, words, _ = trained
    process = start(
        [*words, f"run={tmp_path / 'run'}", "recipe=align", "align.curriculum.epochs=500"],
        tmp_path / "log",
    )
    wait_for_a_checkpoint(process, tmp_path, tmp_path / "log")
    second = subprocess.run(
        [
            sys.executable,
            str(ROOT / "jobs" / "train.py"),
            *words,
            f"run={tmp_path / 'run'}",
            "align.curriculum.epochs=500",
        ],
        capture_output=True,
        text=True,
        check=False,
    )
    assert second.returncode == 2
    assert "another process is training" in second.stderr
    os.kill(process.pid, signal.SIGINT)
    assert process.wait(30) == 130, (tmp_path / "log").read_text()
    assert "train: interrupted" in (tmp_path / "log").read_text()
    assert (
        json.loads((tmp_path / "run" / "summary" / "train.json").read_text())["error"]
        == "interrupted"
    )


def test_stock_vllm_loads_what_comes_out(trained: tuple[Path, list[str], str]) -> None:
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


def test_it_resumed_from_the_checkpoint(trained: tuple[Path, list[str], str]) -> None:
    _, _, output = trained
    assert "align-8  resumes after step" in output
    assert "align-8  step 1/" not in output
    assert "align-4  step 1/" in output
    assert "sft: done" in output


def test_losses_are_those_of_plain_pytorch(trained: tuple[Path, list[str], str]) -> None:
    root, words, _ = trained
    history = read_lines(root / "run" / "stages" / "align-8" / "history.jsonl")
    losses = [metrics["loss"] for metrics in history]
    plain, _ = plain_losses(config_of(words))
    assert len(losses) >= 10
    assert losses[0] > losses[-1]
    assert losses == pytest.approx(plain, rel=2e-5)


def test_everything_is_accounted_for(trained: tuple[Path, list[str], str]) -> None:
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


def test_the_model_is_complete_and_changed(trained: tuple[Path, list[str], str]) -> None:
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


def test_a_second_run_trains_nothing(trained: tuple[Path, list[str], str]) -> None:
    root, words, _ = trained
    model = root / "run" / "model" / "model.safetensors"
    written = model.stat().st_mtime_ns
    output = finish(words, root / "second.log")
    for name in ("align-8", "align-4", "sft"):
        assert output.count(f"{name}: already finished") == 1
    assert "step 1/" not in output
    assert model.stat().st_mtime_ns == written


def test_other_settings_in_the_same_run_are_refused_in_one_line(
    trained: tuple[Path, list[str], str],
) -> None:
    _, words, _ = trained
    command = [sys.executable, str(ROOT / "jobs" / "train.py"), *words, "align.lora.rank=8"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 2
    assert "other settings or data" in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1, done.stderr
