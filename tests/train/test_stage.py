"""tempo_ray/train/stage in real DeepSpeed engines on two processes: the numbers of plain PyTorch,
and nothing lost to kills.

What needs no second process is tested in tests/train/stage.
"""

import shutil
import subprocess
from pathlib import Path

import pytest
import torch

from tempo_ray.config import TrainConfig
from tempo_ray.models.vlm import load_model
from tests.train.stages import (
    Ran,
    StageRun,
    config_of,
    has_checkpoint,
    kill_stage,
    make_inputs,
    plain_losses,
    read_lines,
    run_stage,
    run_stages,
)

pytestmark = [pytest.mark.engine, pytest.mark.ranks]


@pytest.fixture(scope="module")
def words(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    return [
        *make_inputs(tmp_path_factory.mktemp("inputs")),
        "align.curriculum.epochs=4",
        "sft.epochs=20",
    ]


def changed(words: list[str], *changes: str) -> TrainConfig:
    return config_of([*words, *changes])


def weights(folder: Path) -> dict[str, torch.Tensor]:
    model = load_model(str(folder), torch.float32)
    return {name: parameter.detach().clone() for name, parameter in model.named_parameters()}


LONG = ("align.curriculum.epochs=7",)
"""For the stages that are killed, which need the time; the other ones have twenty steps."""
FULL = ("sft.lora=null", "sft.optimizer.lr=1.0e-4")
ADAPTIVE = (
    "{held_out: 0.25, every_steps: 2, patience: 2, accuracy_gain: 1.0, margin_gain: 100.0, "
    "min_steps: 4}"
)
CASES: dict[str, tuple[str, tuple[str, ...]]] = {
    "zero 3": ("align-8", LONG),
    "zero 2": ("align-8", ("deepspeed.zero_stage=2", "workers.cpus=4")),
    "zero 0": ("align-8", ("deepspeed.zero_stage=0",)),
    "gradient checkpointing": ("align-8", ("deepspeed.gradient_checkpointing=true",)),
    "vision": ("align-8", ("align.train_vision=true",)),
    "full align": ("align-8", ("align.lora=null", "align.optimizer.lr=1.0e-4")),
    "simpo": ("align-8", ("align.loss.type=simpo",)),
    "sft": ("sft", ()),
    "full sft": ("sft", FULL),
    "bfloat16": ("align-8", ("deepspeed.dtype=bfloat16",)),
    "bfloat16 full sft": ("sft", ("deepspeed.dtype=bfloat16", *FULL)),
    "missing": ("align-8", ("health.max_skipped=0.05", "health.min_examples=9")),
    "separate disks": ("align-8", ()),
    "adaptive": ("align-8", (f"align.curriculum.adaptive={ADAPTIVE}",)),
}


@pytest.fixture(scope="module")
def ran(words: list[str], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Ran]:
    """Every case, undisturbed, in one pair of processes."""
    root = tmp_path_factory.mktemp("cases")
    stages = [
        StageRun(
            changed(words, "checkpoint_every_steps=100", *changes),
            root / case,
            name,
            separate_disks=case == "separate disks",
        )
        for case, (name, changes) in CASES.items()
    ]
    return dict(zip(CASES, run_stages(stages), strict=True))


@pytest.fixture(scope="module")
def undisturbed(ran: dict[str, Ran]) -> dict[str, torch.Tensor]:
    """Weights of ZeRO-3, LoRA, float32 on two workers."""
    return weights(ran["zero 3"].merged)


def assert_same_bits(merged: Path, undisturbed: dict[str, torch.Tensor]) -> None:
    trained = weights(merged)
    assert all(torch.equal(trained[name], weight) for name, weight in undisturbed.items())


@pytest.mark.parametrize(
    "case", [case for case in CASES if case not in ("missing", "adaptive", "separate disks")]
)
def test_losses_are_those_of_plain_pytorch(
    case: str, words: list[str], ran: dict[str, Ran]
) -> None:
    """One video in nine is missing, so that the workers' data are uneven."""
    name, changes = CASES[case]
    losses = [metrics["loss"] for metrics in ran[case].history]
    config = changed(words, *changes)
    plain, model = plain_losses(config, name)
    assert len(losses) >= 20
    assert losses[0] > losses[-1]
    assert losses == pytest.approx(plain, rel=2e-5 if config.deepspeed.dtype == "float32" else 0.01)
    if case == "full sft":
        trained = weights(ran[case].merged)
        for name, parameter in model.named_parameters():
            assert torch.allclose(trained[name], parameter.detach(), atol=2e-4), name


def test_a_killed_stage_resumes_and_ends_with_the_same_bits(
    words: list[str], undisturbed: dict[str, torch.Tensor], tmp_path: Path
) -> None:
    kill_stage(changed(words, *LONG), tmp_path, has_checkpoint(8))
    complete = sorted(file.parent for file in tmp_path.glob("checkpoints/*/checkpoint.json"))
    assert len(complete) > 1
    # the last one loses its tail: the one before it counts
    torn = max(complete[-1].glob("state/*optim_states.pt"))
    torn.write_bytes(torn.read_bytes()[:-100])
    ran = run_stage(changed(words, *LONG), tmp_path)
    assert "step 1/" not in ran.output
    assert f"resumes after step {int(complete[-2].name)}" in ran.output
    assert_same_bits(ran.merged, undisturbed)


def test_another_number_of_workers_resumes_from_the_checkpoint(
    words: list[str], undisturbed: dict[str, torch.Tensor], tmp_path: Path
) -> None:
    """2 -> 1 -> 2, by DeepSpeed's universal checkpoint. Sums over other shards differ in their last
    bits."""
    kill_stage(changed(words, *LONG), tmp_path, has_checkpoint(4))
    kill_stage(changed(words, *LONG, "workers.count=1"), tmp_path, has_checkpoint(12))
    assert "step 1/" not in (tmp_path / "log").read_text(), "the one worker started over"
    ran = run_stage(changed(words, *LONG), tmp_path)
    assert "step 1/" not in ran.output
    trained = weights(ran.merged)
    assert all(
        torch.allclose(trained[name], weight, atol=1e-5) for name, weight in undisturbed.items()
    )


def test_a_full_disk_stops_it_with_the_last_checkpoint_complete(
    words: list[str], undisturbed: dict[str, torch.Tensor], tmp_path: Path
) -> None:
    disk = tmp_path / "checkpoints"
    disk.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", disk], capture_output=True, check=False
    )
    if mounted.returncode:
        pytest.skip("mounting a small disk needs root")
    try:
        ran = run_stage(changed(words, *LONG), tmp_path)
        assert "GB are free at" in ran.stopped.reason
        assert len(list(disk.glob("*/checkpoint.json"))) >= 1
        shutil.copytree(disk, tmp_path / "larger" / "checkpoints")
    finally:
        subprocess.run(["umount", disk], check=True)
    ran = run_stage(changed(words, *LONG), tmp_path / "larger")
    assert "step 1/" not in ran.output
    assert_same_bits(ran.merged, undisturbed)


def test_too_many_missing_videos_stop_it(ran: dict[str, Ran]) -> None:
    reason = ran["missing"].stopped.reason
    assert "more than the share of 0.05 (health.max_skipped)" in reason
    assert "8.mp4" in reason


def test_an_adaptive_stage_ends_at_a_plateau(ran: dict[str, Ran]) -> None:
    result, history = ran["adaptive"].finished, ran["adaptive"].history
    assert result.steps == 6 < result.planned_steps
    evaluated = [metrics["step"] for metrics in history if "held_out_accuracy" in metrics]
    assert evaluated == [2, 4, 6]
    assert result.videos == 7
    assert "stopped improving" in ran["adaptive"].output


def test_metrics_of_every_step_are_recorded(ran: dict[str, Ran]) -> None:
    case = ran["zero 3"]
    assert set(case.history[-1]) >= {
        "loss",
        "preference_loss",
        "nll",
        "accuracy",
        "margin",
        "chosen_logp",
        "rejected_logp",
        "chosen_logratio_per_token",
        "kl",
        "length_ratio",
        "grad_norm",
        "lr",
        "pairs",
        "pairs_per_second",
        "tokens_per_second",
        "memory_gb",
    }
    assert "answer_tokens" in ran["sft"].history[-1]
    assert list((case.merged.parents[1] / "tensorboard" / "align-8").iterdir())
    margins = [metrics["margin"] for metrics in case.history]
    assert sum(margins[:8]) < sum(margins[8:16]) < sum(margins[16:])


def test_a_result_accounts_for_the_stage(ran: dict[str, Ran]) -> None:
    """Seven epochs over nine examples, one of which has no video."""
    result = ran["zero 3"].finished
    assert (result.name, result.objective, result.digest) == ("align-8", "dpo", "digest")
    assert (result.examples, result.pairs, result.videos) == (9, 27, 9)
    assert result.steps == result.planned_steps == len(ran["zero 3"].history)
    assert result.skipped == {"missing": 7}
    assert sum(metrics["pairs"] for metrics in ran["zero 3"].history) == 7 * 24
    skipped = read_lines(ran["zero 3"].merged.parent / "skipped.jsonl")
    assert [example["reason"] for example in skipped] == ["missing"] * 7
    assert (result.workers, result.zero_stage, result.dtype) == (2, 3, "float32")
    assert ran["sft"].finished.pairs == 0


def test_workers_without_a_shared_disk_are_told_so(ran: dict[str, Ran]) -> None:
    assert "must be on a disk that all nodes share" in ran["separate disks"].stopped.reason
