"""A stage in real DeepSpeed engines on two processes: the numbers of plain PyTorch, and nothing lost to kills."""

import shutil
import subprocess
from pathlib import Path

import pytest
import torch

from tempo_ray.config import TrainConfig
from tempo_ray.models.vlm import load_model
from tests.train.stages import (
    Asked,
    Ran,
    config_of,
    kill_stage,
    make_inputs,
    plain_losses,
    run_stage,
    run_stages,
    saved,
)


@pytest.fixture(scope="module")
def words(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    return [
        *make_inputs(tmp_path_factory.mktemp("inputs")),
        "align.curriculum.epochs=4",
        "sft.epochs=20",
    ]


def changed(words: list[str], *more: str) -> TrainConfig:
    return config_of([*words, *more])


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return {
        name: one.detach().clone()
        for name, one in load_model(str(folder), torch.float32).named_parameters()
    }


LONG = ("align.curriculum.epochs=7",)
"""Where time is needed to be killed in; the others have twenty steps."""
FULL = ("sft.lora=null", "sft.optimizer.lr=1.0e-4")
ADAPTIVE = "{held_out: 0.25, every_steps: 2, patience: 2, accuracy_gain: 1.0, margin_gain: 100.0, min_steps: 4}"
CASES: dict[str, tuple[str, tuple[str, ...]]] = {
    "zero 3": ("align-8", LONG),
    "zero 2": ("align-8", ("deepspeed.zero_stage=2", "workers.cpus=4")),
    "zero 0": ("align-8", ("deepspeed.zero_stage=0",)),
    "checkpointing": ("align-8", ("deepspeed.gradient_checkpointing=true",)),
    "vision": ("align-8", ("align.train_vision=true",)),
    "full align": ("align-8", ("align.lora=null", "align.optimizer.lr=1.0e-4")),
    "simpo": ("align-8", ("align.loss.type=simpo",)),
    "sft": ("sft", ()),
    "full sft": ("sft", FULL),
    "bfloat16": ("align-8", ("deepspeed.dtype=bfloat16",)),
    "bfloat16 full sft": ("sft", ("deepspeed.dtype=bfloat16", *FULL)),
    "missing": ("align-8", ("health.max_skipped=0.05", "health.skipped_after=9")),
    "apart": ("align-8", ()),
    "adaptive": ("align-8", (f"align.curriculum.adaptive={ADAPTIVE}",)),
}


@pytest.fixture(scope="module")
def ran(words: list[str], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Ran]:
    """Every case that is not disturbed, in one pair of processes."""
    root = tmp_path_factory.mktemp("cases")
    asked = [
        Asked(
            changed(words, "save_every_steps=100", *more), root / case, name, apart=case == "apart"
        )
        for case, (name, more) in CASES.items()
    ]
    return dict(zip(CASES, run_stages(asked), strict=True))


@pytest.fixture(scope="module")
def undisturbed(ran: dict[str, Ran]) -> dict[str, torch.Tensor]:
    """ZeRO-3, LoRA, float32, two workers, never disturbed."""
    return weights(ran["zero 3"].merged)


@pytest.mark.parametrize(
    "case", [case for case in CASES if case not in ("missing", "adaptive", "apart")]
)
def test_losses_are_those_of_plain_pytorch(
    case: str, words: list[str], ran: dict[str, Ran]
) -> None:
    """One video in nine is not there, so that workers have uneven data."""
    name, more = CASES[case]
    losses = [entry["loss"] for entry in ran[case].history]
    config = changed(words, *more)
    plain, model = plain_losses(config, name)
    assert len(losses) >= 20
    assert losses[0] > losses[-1]
    assert losses == pytest.approx(plain, rel=2e-5 if config.deepspeed.dtype == "float32" else 0.01)
    if case == "full sft":
        mine, theirs = weights(ran[case].merged), dict(model.named_parameters())
        assert all(
            torch.allclose(mine[key], one.detach(), atol=2e-4) for key, one in theirs.items()
        )


def test_killed_in_the_middle_it_ends_with_the_same_bits(
    words: list[str], undisturbed: dict[str, torch.Tensor], tmp_path: Path
) -> None:
    kill_stage(changed(words, *LONG), tmp_path, saved(8))
    whole = sorted(save.parent for save in tmp_path.glob("saves/*/save.json"))
    assert len(whole) > 1
    torn = max(
        whole[-1].glob("state/*optim_states.pt")
    )  # it loses its tail: the save before it counts
    torn.write_bytes(torn.read_bytes()[:-100])
    ran = run_stage(changed(words, *LONG), tmp_path)
    assert "step 1/" not in ran.output
    mine = weights(ran.merged)
    assert all(torch.equal(mine[name], one) for name, one in undisturbed.items())


def test_another_number_of_workers_goes_on_from_the_save(
    words: list[str], undisturbed: dict[str, torch.Tensor], tmp_path: Path
) -> None:
    """2 -> 1 -> 2, by DeepSpeed's universal checkpoint. Sums over other shares differ in their last bits."""
    kill_stage(changed(words, *LONG), tmp_path, saved(4))
    kill_stage(changed(words, *LONG, "workers.count=1"), tmp_path, saved(12))
    assert "step 1/" not in (tmp_path / "log").read_text(), "the one worker began anew"
    ran = run_stage(changed(words, *LONG), tmp_path)
    assert "step 1/" not in ran.output
    mine = weights(ran.merged)
    assert all(torch.allclose(mine[name], one, atol=1e-5) for name, one in undisturbed.items())


def test_a_full_disk_stops_it_with_the_last_save_whole(
    words: list[str], undisturbed: dict[str, torch.Tensor], tmp_path: Path
) -> None:
    disk = tmp_path / "saves"
    disk.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", disk], capture_output=True, check=False
    )
    if mounted.returncode:
        pytest.skip("mounting a small disk needs root")
    try:
        ran = run_stage(changed(words, *LONG), tmp_path)
        assert ran is not None
        assert "GB are free at" in ran.facts["stopped"]
        assert len(list(disk.glob("*/save.json"))) >= 1
        shutil.copytree(disk, tmp_path / "more" / "saves")
    finally:
        subprocess.run(["umount", disk], check=True)
    ran = run_stage(changed(words, *LONG), tmp_path / "more")
    assert "step 1/" not in ran.output
    mine = weights(ran.merged)
    assert all(torch.equal(mine[name], one) for name, one in undisturbed.items())


def test_too_many_missing_videos_stop_it(ran: dict[str, Ran]) -> None:
    stopped = ran["missing"].facts["stopped"]
    assert "more than the share of 0.05 (health.max_skipped)" in stopped
    assert "8.mp4" in stopped


def test_an_adaptive_stage_ends_when_it_has_stopped_to_improve(ran: dict[str, Ran]) -> None:
    facts, history = ran["adaptive"].facts, ran["adaptive"].history
    assert facts["steps"] == 6 < facts["planned_steps"]
    assert [entry["step"] for entry in history if "held_out_accuracy" in entry] == [2, 4, 6]
    assert facts["videos"] == 7
    assert "stopped to improve" in ran["adaptive"].output


def test_what_is_watched(ran: dict[str, Ran]) -> None:
    last = ran["zero 3"].history[-1]
    watched = {
        "loss",
        "preference_loss",
        "nll",
        "accuracy",
        "margin",
        "chosen_logp",
        "rejected_logp",
        "kl",
        "length_ratio",
    }
    assert watched | {
        "grad_norm",
        "lr",
        "pairs_per_second",
        "tokens_per_second",
        "memory_gb",
    } <= set(last)
    assert list((ran["zero 3"].merged.parents[1] / "events" / "align-8").iterdir())
    margins = [entry["margin"] for entry in ran["zero 3"].history]
    assert sum(margins[:8]) < sum(margins[8:16]) < sum(margins[16:])


def test_workers_without_a_common_disk_are_told_so(ran: dict[str, Ran]) -> None:
    assert "must be on a disk that all nodes share" in ran["apart"].facts["stopped"]
