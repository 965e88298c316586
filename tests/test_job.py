"""A job's record in its run directory, however it ends."""

import json
from pathlib import Path

import pytest

from tempo_ray.config import PretrainConfig
from tempo_ray.errors import UserError
from tempo_ray.job import running, user_errors
from tempo_ray.records import ServeSummary

CONFIG = PretrainConfig(output="model")


def summary(run: Path) -> dict:
    return json.loads((run / "summary" / "train.json").read_text())


def test_the_config_and_summary_are_written(tmp_path: Path) -> None:
    with running("train", str(tmp_path), CONFIG) as job:
        job.summary = ServeSummary(seconds_to_ready=1.5)
    assert (tmp_path / "config" / "train.yaml").read_text() == CONFIG.to_yaml()
    assert (tmp_path / "config" / f"train-{CONFIG.hash()}.yaml").is_file()
    written = summary(tmp_path)
    assert (written["status"], written["error"], written["seconds_to_ready"]) == ("done", None, 1.5)


@pytest.mark.parametrize(
    ("raised", "status", "error"),
    [
        (UserError("set x=1"), 2, "set x=1"),
        (KeyboardInterrupt(), 130, "interrupted"),
    ],
)
def test_what_ends_a_job_is_recorded(
    raised: BaseException,
    status: int,
    error: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    with (
        pytest.raises(SystemExit) as ended,
        user_errors(),
        running("train", str(tmp_path), CONFIG),
    ):
        raise raised
    assert ended.value.code == status
    assert error in capsys.readouterr().err
    assert (summary(tmp_path)["status"], summary(tmp_path)["error"]) == ("failed", error)


def test_any_other_error_is_recorded_and_propagates(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError), running("train", str(tmp_path), CONFIG):
        raise ZeroDivisionError("by zero")
    assert summary(tmp_path)["error"] == "ZeroDivisionError: by zero"


@pytest.mark.parametrize(
    ("run", "message"),
    [
        ("/proc/nothing", "choose a run directory that can be written to"),
        ("/tmp/working_dir_files/_ray_pkg_1/x", "give an absolute path or a URI"),
    ],
)
def test_a_run_directory_that_cannot_be_used_is_refused(
    run: str, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with (
        pytest.raises(SystemExit) as ended,
        user_errors(),
        running("train", run, CONFIG),
    ):
        raise AssertionError("the job must not run")
    assert ended.value.code == 2
    assert message in capsys.readouterr().err
