"""Questions and replies -> scores, and their Parquet file.

A file holds everything that its numbers depend on: questions, endpoint, model, settings.
"""

import io
import posixpath
from collections.abc import Sequence
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import ValidationError

from tempo_ray.errors import UserError
from tempo_ray.evaluate.client import TEMPERATURE, Endpoint, Reply
from tempo_ray.evaluate.task import QuestionType, Task
from tempo_ray.records import Score
from tempo_ray.schema import SCORE, check_version, with_metadata
from tempo_ray.storage import open_output, read_bytes
from tempo_ray.tables import records_of, table_of


@dataclass(frozen=True)
class Provenance:
    """How one model was asked."""

    model: str
    endpoint: Endpoint
    served: str
    """What the endpoint says of the model."""
    questions_sha256: str


def score_replies(
    task: Task[QuestionType],
    questions: Sequence[QuestionType],
    replies: Sequence[Reply],
    provenance: Provenance,
) -> list[Score]:
    """One score per question, in their order."""
    return [
        _score(task, question, reply, provenance)
        for question, reply in zip(questions, replies, strict=True)
    ]


def _score(
    task: Task[QuestionType], question: QuestionType, reply: Reply, provenance: Provenance
) -> Score:
    return Score(
        question_id=question.question_id,
        video=posixpath.basename(question.video),
        groups=task.groups(question),
        chance=question.chance,
        answer=question.answer,
        prediction=reply.text,
        correct=reply.text is not None and task.grade(question, reply.text),
        error=reply.error,
        finish_reason=reply.finish_reason,
        model=provenance.model,
        endpoint=provenance.endpoint.url,
        served=provenance.served,
        temperature=TEMPERATURE,
        max_tokens=provenance.endpoint.max_tokens,
        questions_sha256=provenance.questions_sha256,
    )


def write_scores(scores: Sequence[Score], location: str, config_hash: str) -> None:
    with open_output(location) as stream:
        pq.write_table(table_of(scores, with_metadata(SCORE, config_hash)), stream)


def read_scores(location: str) -> list[Score]:
    """At least one score. Raises UserError where the file holds none or cannot be read."""
    try:
        table = pq.read_table(io.BytesIO(read_bytes(location)))
    except OSError as error:
        raise UserError(f"{location}: {error}") from error
    except pa.ArrowInvalid as error:
        raise UserError(f"{location}: not a Parquet file of scores") from error
    check_version(table.schema, location)
    missing = [name for name in SCORE.names if name not in table.column_names]
    if missing or not table.num_rows:
        raise UserError(f"{location}: no scores in it (missing: {', '.join(missing) or 'rows'})")
    try:
        return records_of(Score, table.select(SCORE.names))
    except ValidationError as error:
        column = error.errors()[0]["loc"][0]
        raise UserError(f"{location}: not scores: column {column} is not as written") from error


def same_questions(
    first: Sequence[Score], second: Sequence[Score]
) -> tuple[list[Score], list[Score]]:
    """Both in the order of question_id. Raises UserError where they answer different questions."""
    first = sorted(first, key=lambda score: score.question_id)
    second = sorted(second, key=lambda score: score.question_id)
    difference = _difference(first, second)
    if difference is not None:
        raise UserError(
            f"the two files do not answer the same questions: {difference}; "
            "ask both models the same file"
        )
    return first, second


def _difference(first: list[Score], second: list[Score]) -> str | None:
    """How two files, sorted by question_id, differ in their questions."""
    first_ids = [score.question_id for score in first]
    second_ids = [score.question_id for score in second]
    unpaired = set(first_ids) ^ set(second_ids)
    if unpaired:
        return f"{len(unpaired)} questions are in only one of them"
    if first_ids != second_ids:
        return "a question is in one of them twice"
    for left, right in zip(first, second, strict=True):
        for column in ("video", "groups", "answer"):
            values = getattr(left, column), getattr(right, column)
            if values[0] != values[1]:
                return f"question {left.question_id}: {column} {values[0]} and {values[1]}"
    return None
