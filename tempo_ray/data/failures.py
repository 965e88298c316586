"""An exception -> why a video failed, and what its row becomes: a failed row, or one to retry."""

from dataclasses import replace

from tempo_ray.data.isolate import Crashed, TookTooLong
from tempo_ray.errors import TransientError
from tempo_ray.models.engine import Refused
from tempo_ray.models.frames import UnreadableVideo
from tempo_ray.records import FailedAt, Failure, TransientFailure, VideoAnswers

TRANSIENT_REASON = "cannot be read now"
"""How counts and metrics name a transient failure."""

VideoOutcome = VideoAnswers | TransientFailure


def failure_of(error: Exception, failed_at: FailedAt) -> Failure:
    """Only the file itself can prove a failure permanent; a fault of a machine or a store is
    transient."""
    message = str(error)
    match error:
        case UnreadableVideo():
            reason = "not a video" if failed_at == "open" else "undecodable"
        case FileNotFoundError():
            reason = "not there"
        case Crashed():
            reason = "decoder crashed"
        case TookTooLong():
            reason = "decoder too slow"
        case TransientError():
            return Failure(TRANSIENT_REASON, failed_at, message, transient=True)
        case Refused():  # longer than respond.engine.max_model_len, say
            reason = "refused by the engine"
        case _:  # from a library that was fed untrusted input; one file must not end the job
            reason = "not understood"
            message = f"{type(error).__name__}: {message}"
    return Failure(reason, failed_at, message)


def failed(row: VideoAnswers, failure: Failure) -> VideoAnswers:
    """The row of a permanent failure."""
    return replace(
        row,
        status="failed",
        reason=failure.reason,
        failed_at=failure.failed_at,
        message=failure.message,
        answers=(),
    )


def outcome_of(row: VideoAnswers, failure: Failure) -> VideoOutcome:
    """A failed row of answers/, or a row of failures/ where the next run retries the video."""
    if failure.transient:
        return TransientFailure(row.video_id, row.uri, failure.failed_at, failure.message)
    return failed(row, failure)
