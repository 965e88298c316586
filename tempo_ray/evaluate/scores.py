"""Questions and replies -> a Parquet file of scores, and back: everything that pins a number stands beside it."""

import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from tempo_ray.evaluate.client import Endpoint, Reply
from tempo_ray.evaluate.tasks.shapeworld import Question, grade
from tempo_ray.paths import read_bytes, write_bytes
from tempo_ray.schema import with_metadata

SCORE = pa.schema(
    [
        ("question_id", pa.string()),
        ("video", pa.string()),  # the file's name
        ("kind", pa.string()),
        ("needs", pa.string()),  # `order`, `motion` or `none`
        ("chance", pa.float64()),  # accuracy of a blind guess
        ("answer", pa.string()),
        ("prediction", pa.string()),  # null where there was no answer
        ("correct", pa.bool_()),  # false where there was no answer
        ("error", pa.string()),  # why there was none
        ("finish_reason", pa.string()),
        ("model", pa.string()),
        ("endpoint", pa.string()),
        ("served", pa.string()),  # what the endpoint says of the model: frames, engine, config hash
        ("temperature", pa.float64()),
        ("max_tokens", pa.int64()),
        ("questions_sha256", pa.string()),
    ]
)


class NotScores(ValueError):
    """The file holds no scores, or not those of the same questions."""


@dataclass(frozen=True)
class Asked:
    """How one model was asked."""

    model: str
    endpoint: Endpoint
    served: str
    questions_sha256: str


def score(asked: Asked, questions: Sequence[Question], replies: Sequence[Reply]) -> pa.Table:
    """One row a question, in their order."""
    rows = [
        _row(asked, question, reply) for question, reply in zip(questions, replies, strict=True)
    ]
    return pa.Table.from_pylist(rows, schema=SCORE)


def _row(asked: Asked, question: Question, reply: Reply) -> dict[str, Any]:
    return {
        "question_id": question.question_id,
        "video": question.video.name,
        "kind": question.kind,
        "needs": question.needs,
        "chance": question.chance,
        "answer": question.answer,
        "prediction": reply.text,
        "correct": reply.text is not None and grade(question, reply.text),
        "error": reply.error,
        "finish_reason": reply.finish_reason,
        "model": asked.model,
        "endpoint": asked.endpoint.url,
        "served": asked.served,
        "temperature": 0.0,
        "max_tokens": asked.endpoint.max_tokens,
        "questions_sha256": asked.questions_sha256,
    }


def write_scores(table: pa.Table, uri: str, config_hash: str) -> None:
    buffer = io.BytesIO()
    pq.write_table(table.cast(with_metadata(SCORE, config_hash)), buffer)
    write_bytes(uri, buffer.getvalue())


def read_scores(uri: str) -> pa.Table:
    """Raises NotScores, or OSError where the file cannot be read."""
    try:
        table = pq.read_table(io.BytesIO(read_bytes(uri)))
    except pa.ArrowInvalid as error:
        raise NotScores(f"{uri}: not a Parquet file of scores") from error
    missing = [name for name in SCORE.names if name not in table.column_names]
    if missing or not table.num_rows:
        raise NotScores(f"{uri}: no scores in it (missing: {', '.join(missing) or 'rows'})")
    return table


def same_questions(first: pa.Table, second: pa.Table) -> tuple[pa.Table, pa.Table]:
    """Both tables in the order of question_id. Raises NotScores where they are not the answers to the same questions."""
    first, second = first.sort_by("question_id"), second.sort_by("question_id")
    for column in ("question_id", "video", "kind", "needs", "answer"):
        one, other = first[column].to_pylist(), second[column].to_pylist()
        if one != other:
            ids = set(first["question_id"].to_pylist()) ^ set(second["question_id"].to_pylist())
            what = (
                f"{len(ids)} questions stand in one of them only"
                if ids
                else f"their {column} differs"
            )
            raise NotScores(
                f"the two files do not answer the same questions: {what}; ask both models the same file"
            )
    return first, second
