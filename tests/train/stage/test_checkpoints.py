"""Which checkpoints count as complete; tests/train/test_stage.py resumes from them."""

import json
from pathlib import Path

import pytest

from tempo_ray.train.stage.checkpoints import INVENTORY, find_latest, lack_of_space
from tempo_ray.train.stage.prefetch import SkippedExample
from tempo_ray.train.stage.step import Progress


def write_checkpoint(root: Path, step: int, text: str = "weights") -> Path:
    folder = root / f"{step:08d}"
    (folder / "state").mkdir(parents=True)
    (folder / "state" / "0.pt").write_text(text)
    inventory = {"step": step, "workers": 2, "files": {"state/0.pt": len(text)}}
    (folder / INVENTORY).write_text(json.dumps(inventory))
    return folder


def test_a_root_without_checkpoints_has_no_latest(tmp_path: Path) -> None:
    assert find_latest(str(tmp_path / "none")) is None
    (tmp_path / "00000004").mkdir()
    assert find_latest(str(tmp_path)) is None


@pytest.mark.parametrize("uri", [False, True])
def test_the_latest_is_the_last_complete_checkpoint(uri: bool, tmp_path: Path) -> None:
    root = tmp_path.as_uri() if uri else str(tmp_path)
    write_checkpoint(tmp_path, 4)
    last = write_checkpoint(tmp_path, 8)
    write_checkpoint(tmp_path, 12).rename(tmp_path / "00000008-universal")
    latest = find_latest(root)
    assert latest is not None
    assert (latest.step, latest.workers) == (8, 2)
    (last / "state" / "0.pt").write_text("torn")
    assert (find_latest(root) or latest).step == 4
    (tmp_path / "00000004" / INVENTORY).write_text("{torn")
    assert find_latest(root) is None


def test_a_disk_that_is_too_small_is_named_with_its_free_space(tmp_path: Path) -> None:
    root = str(tmp_path / "run" / "checkpoints")
    assert lack_of_space(root, 1) is None
    reason = lack_of_space(root, 1 << 60)
    assert reason is not None
    assert f"GB are free at {tmp_path}" in reason
    assert lack_of_space("s3://bucket/run", 1 << 60) is None


def test_progress_survives_its_state() -> None:
    progress = Progress(
        step=2,
        examples=5,
        skipped=[SkippedExample("v.mp4", "missing", "v.mp4: no such file")],
        history=[{"step": 1, "loss": 0.7}, {"step": 2, "loss": 0.6}],
        seconds=1.5,
    )
    assert Progress.from_state(json.loads(json.dumps(progress.to_state()))) == progress
