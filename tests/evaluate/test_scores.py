from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tempo_ray.errors import UserError
from tempo_ray.evaluate.client import Endpoint, Reply
from tempo_ray.evaluate.scores import (
    Provenance,
    read_scores,
    same_questions,
    score_replies,
    write_scores,
)
from tempo_ray.evaluate.tasks import shapeworld
from tempo_ray.evaluate.tasks.shapeworld import Question
from tempo_ray.records import Score
from tempo_ray.schema import SCORE

ENDPOINT = Endpoint("http://127.0.0.1:1/v1", "secret", 16, 1.0, 2)
KINDS = [("first", "order"), ("after", "order"), ("speed", "motion"), ("count", "none")]


def scores(*texts: str | None) -> list[Score]:
    """Scores of these replies to four questions about two videos; None is no answer."""
    questions = [
        Question(str(index), f"/v/{index // 2}.mp4", kind, needs, "?", ("yes", "no"), "yes")
        for index, (kind, needs) in enumerate(KINDS)
    ]
    replies = [
        Reply(None, "500: broken") if text is None else Reply(text, None, "stop") for text in texts
    ]
    provenance = Provenance("base", ENDPOINT, "{}", "abc")
    return score_replies(shapeworld, questions, replies, provenance)


def test_unanswered_is_wrong_and_says_why() -> None:
    rows = scores("yes", None, "no", "yes")
    assert [row.correct for row in rows] == [True, False, False, True]
    assert [row.prediction for row in rows] == ["yes", None, "no", "yes"]
    assert [row.error for row in rows] == [None, "500: broken", None, None]


def test_a_score_names_its_video_and_its_groups() -> None:
    rows = scores("yes", "yes", "yes", "yes")
    assert [row.video for row in rows] == ["0.mp4", "0.mp4", "1.mp4", "1.mp4"]
    assert rows[0].groups == ("order", "kind:first")
    assert rows[2].groups == ("other", "motion", "kind:speed")


def test_scores_come_back_as_written_and_hold_no_token(tmp_path: Path) -> None:
    file = tmp_path / "run/scores/base.parquet"
    written = scores("yes", None, "no", "yes")
    write_scores(written, str(file), "hash")
    assert read_scores(str(file)) == written
    assert read_scores(file.as_uri()) == written
    schema = pq.read_schema(file)
    assert schema.names == SCORE.names
    assert schema.metadata[b"tempo_ray.config_hash"] == b"hash"
    assert [row.max_tokens for row in written] == [16] * 4
    assert b"secret" not in file.read_bytes()


def test_scores_of_different_questions_are_not_paired() -> None:
    rows = scores("yes", "yes", "yes", "yes")
    assert same_questions(rows, rows[::-1]) == (rows, rows)
    with pytest.raises(UserError, match="1 questions"):
        same_questions(rows, rows[:3])
    with pytest.raises(UserError, match="twice"):
        same_questions(rows, [*rows, rows[0]])
    with pytest.raises(UserError, match="question 0: answer yes and no;"):
        same_questions(rows, [replace(row, answer="no") for row in rows])
    with pytest.raises(UserError, match=r"question 0: groups \('order'"):
        same_questions(rows, [replace(row, groups=()) for row in rows])


def test_files_that_are_not_scores_are_refused(tmp_path: Path) -> None:
    file = tmp_path / "bad.parquet"
    with pytest.raises(UserError, match=r"bad\.parquet"):
        read_scores(str(file))
    file.write_bytes(b"no parquet")
    with pytest.raises(UserError, match="not a Parquet file"):
        read_scores(str(file))
    write_scores([], str(file), "hash")
    with pytest.raises(UserError, match="no scores"):
        read_scores(str(file))
    pq.write_table(pa.table({"question_id": ["1"]}), file)
    with pytest.raises(UserError, match="missing: video"):
        read_scores(str(file))
    rows = [dict.fromkeys(SCORE.names)]
    pq.write_table(pa.Table.from_pylist(rows, schema=SCORE), file)
    with pytest.raises(UserError, match="column question_id"):
        read_scores(str(file))


def test_scores_of_an_older_schema_are_refused_naming_both_versions(tmp_path: Path) -> None:
    file = tmp_path / "old.parquet"
    old = pa.schema([("question_id", pa.string()), ("kind", pa.string()), ("needs", pa.string())])
    old = old.with_metadata({"tempo_ray.schema_version": "2"})
    row = {"question_id": "1", "kind": "first", "needs": "order"}
    pq.write_table(pa.Table.from_pylist([row], schema=old), file)
    with pytest.raises(UserError, match=r"version 2 .* version 3"):
        read_scores(str(file))
