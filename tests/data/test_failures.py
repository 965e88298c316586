"""The ladder from an exception to a failure."""

from pathlib import Path

import pytest

from tempo_ray.config import DecodeConfig, SelectConfig, VideosConfig
from tempo_ray.data.failures import VideoOutcome, failure_of, outcome_of
from tempo_ray.data.isolate import Crashed, TookTooLong
from tempo_ray.data.select import Selector
from tempo_ray.data.videos import list_videos
from tempo_ray.errors import TransientError
from tempo_ray.models.engine import Refused
from tempo_ray.models.frames import UnreadableVideo
from tempo_ray.records import FailedAt, Failure, TransientFailure, VideoAnswers
from tests import horrors


@pytest.mark.parametrize(
    ("error", "failed_at", "reason"),
    [
        (UnreadableVideo("m"), "open", "not a video"),
        (FileNotFoundError("m"), "open", "not there"),
        (UnreadableVideo("m"), "decode", "undecodable"),
        (UnreadableVideo("m"), "respond", "undecodable"),
        (Crashed("m"), "decode", "decoder crashed"),
        (TookTooLong("m"), "decode", "decoder too slow"),
        (Refused("m"), "respond", "refused by the engine"),
    ],
)
def test_a_permanent_failure_has_its_reason(
    error: Exception, failed_at: FailedAt, reason: str
) -> None:
    assert failure_of(error, failed_at) == Failure(reason, failed_at, "m")


def test_an_unexpected_error_names_its_type() -> None:
    failure = failure_of(ZeroDivisionError("division by zero"), "decode")
    message = "ZeroDivisionError: division by zero"
    assert failure == Failure("not understood", "decode", message)


def test_only_transient_errors_are_retried() -> None:
    failure = failure_of(TransientError("OSError: slow down"), "open")
    assert failure == Failure("cannot be read now", "open", "OSError: slow down", transient=True)
    row = VideoAnswers("v", "v.mp4")
    assert outcome_of(row, failure) == TransientFailure("v", "v.mp4", "open", "OSError: slow down")


def test_a_failed_row_keeps_what_is_known_but_no_answers() -> None:
    row = VideoAnswers("v", "v.mp4", status="kept", frames=9)
    failed = outcome_of(row, Failure("undecodable", "respond", "m"))
    assert isinstance(failed, VideoAnswers)
    assert (failed.status, failed.reason, failed.failed_at, failed.message, failed.frames) == (
        "failed",
        "undecodable",
        "respond",
        "m",
        9,
    )
    assert failed.answers == ()


def status_and_reason(row: VideoOutcome) -> tuple[str | None, str | None]:
    if isinstance(row, TransientFailure):
        return "failed", "cannot be read now"
    return row.status, row.reason and row.reason.split(" (")[0]


def test_each_file_of_a_folder_of_horrors_becomes_the_right_row(tmp_path: Path) -> None:
    expected = horrors.make(tmp_path)
    listed = list(list_videos(VideosConfig(input=str(tmp_path))))
    assert {Path(video.uri).name for video in listed} == set(expected)
    (tmp_path / "removed.mp4").unlink()
    selector = Selector(SelectConfig(decode=DecodeConfig(attempts=1)))
    rows = {Path(video.uri).name: selector(video) for video in listed}
    selector.close()
    found = {name: status_and_reason(row) for name, row in rows.items()}
    wrong = [name for name in expected if found[name] != expected[name]]
    assert not wrong, {name: rows[name].message for name in wrong}
