import pyarrow as pa
import pytest

from tempo_ray.evaluate.client import Endpoint, Reply
from tempo_ray.evaluate.order import compare_table, groups, table, text_comparison, text_table
from tempo_ray.evaluate.scores import (
    SCORE,
    Asked,
    NotScores,
    read_scores,
    same_questions,
    score,
    write_scores,
)
from tempo_ray.evaluate.tasks.shapeworld import Question

ENDPOINT = Endpoint("http://127.0.0.1:1/v1", "secret", 16, 1.0, 2)


def questions(tmp_path):
    needs = [("first", "order"), ("after", "order"), ("speed", "motion"), ("count", "none")]
    return [
        Question(f"{index}", tmp_path / f"{index // 2}.mp4", kind, need, "?", ("yes", "no"), "yes")
        for index, (kind, need) in enumerate(needs)
    ]


def scores(tmp_path, said, model="base"):
    replies = [
        Reply(None, "500: broken") if text is None else Reply(text, None, "stop") for text in said
    ]
    return score(Asked(model, ENDPOINT, "{}", "abc"), questions(tmp_path), replies)


def test_unanswered_is_wrong_and_counted(tmp_path):
    rows = scores(tmp_path, ["yes", None, "no", "yes"])
    assert rows["correct"].to_pylist() == [True, False, False, True]
    assert rows["prediction"].to_pylist()[1] is None
    assert rows["error"].to_pylist() == [None, "500: broken", None, None]
    shown = table(rows)
    assert shown["order"]["value"] == 0.5
    assert shown["order"]["unanswered"] == 1
    assert shown["other"]["value"] == 0.5
    assert shown["all"]["questions"] == 4
    assert shown["all"]["chance"] == 0.5


def test_groups_without_questions_are_left_out(tmp_path):
    rows = scores(tmp_path, ["yes"] * 4).slice(0, 2)
    assert set(groups(rows)) == {"order", "all", "kind:first", "kind:after"}


def test_scores_come_back_as_written_and_hold_no_token(tmp_path):
    uri = str(tmp_path / "run/scores/base.parquet")
    write_scores(scores(tmp_path, ["yes", None, "no", "yes"]), uri, "hash")
    back = read_scores(uri)
    assert back.schema.names == SCORE.names
    assert back.schema.metadata[b"tempo_ray.config_hash"] == b"hash"
    assert back["max_tokens"].to_pylist() == [16] * 4
    assert b"secret" not in (tmp_path / "run/scores/base.parquet").read_bytes()


def test_comparison_is_paired_by_question_whatever_the_order(tmp_path):
    first = scores(tmp_path, ["yes", "no", "no", "no"])
    second = scores(tmp_path, ["yes", "yes", "no", "yes"], "new").take([3, 1, 0, 2])
    rows = compare_table(first, second, 200, 0)
    assert rows["all"]["difference"] == pytest.approx(0.5)
    assert rows["order"]["difference"] == pytest.approx(0.5)
    assert rows["kind:speed"]["difference"] == 0.0
    assert rows["all"]["p"] == pytest.approx(0.5)
    assert "first" in text_comparison(rows, "base", "new")


def test_other_questions_are_refused(tmp_path):
    rows = scores(tmp_path, ["yes"] * 4)
    with pytest.raises(NotScores, match="1 questions"):
        same_questions(rows, rows.slice(0, 3))
    moved = rows.set_column(rows.schema.get_field_index("answer"), "answer", pa.array(["no"] * 4))
    with pytest.raises(NotScores, match="answer differs"):
        same_questions(rows, moved)


def test_files_that_are_no_scores(tmp_path):
    bad = tmp_path / "bad.parquet"
    bad.write_bytes(b"no parquet")
    with pytest.raises(NotScores, match="not a Parquet file"):
        read_scores(str(bad))
    write_scores(scores(tmp_path, ["yes"] * 4).slice(0, 0), str(bad), "hash")
    with pytest.raises(NotScores, match="no scores"):
        read_scores(str(bad))


def test_the_table_names_every_group(tmp_path):
    shown = text_table(table(scores(tmp_path, ["yes"] * 4)))
    for name in ("order", "other", "motion", "none", "first", "chance", "unanswered"):
        assert name in shown
