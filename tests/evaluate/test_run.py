"""A whole evaluation against a real HTTP server, its files at `file://` URIs."""

import json
from pathlib import Path
from typing import Any

import pytest

from tempo_ray.config import EvaluateConfig
from tempo_ray.errors import UserError
from tempo_ray.evaluate.run import compare_files, evaluate
from tempo_ray.evaluate.scores import read_scores
from tempo_ray.job import Job
from tempo_ray.records import EvaluateSummary, read_row, write_row


@pytest.fixture
def questions(tmp_path: Path) -> Path:
    (tmp_path / "test" / "videos").mkdir(parents=True)
    (tmp_path / "test" / "videos" / "1.mp4").write_bytes(b"video")
    row = {"video": "videos/1.mp4", "kind": "yes_no", "options": ["yes", "no"], "answer": "yes"}
    rows = [
        row | {"question_id": "1", "needs": "order", "text": "Is it red?"},
        row | {"question_id": "2", "needs": "none", "text": "refused"},
        row | {"question_id": "3", "needs": "none", "text": "Is it round?", "answer": "no"},
    ]
    file = tmp_path / "test" / "questions.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return file


def run(server: Any, questions: Path, **changes: Any) -> tuple[Job, list[str]]:
    settings = {
        "run": (questions.parent.parent / "run").as_uri(),
        "endpoint": server.url,
        "models": ["m", "n"],
        "questions": questions.as_uri(),
        "resamples": 100,
    }
    job, lines = Job(), []
    evaluate(EvaluateConfig.model_validate(settings | changes), job, lines.append)
    return job, lines


def test_every_model_is_scored_and_compared_with_the_first(
    server: Any, questions: Path, tmp_path: Path
) -> None:
    job, lines = run(server, questions)
    summary = job.summary
    assert list(summary.models) == ["m", "n"]
    assert list(summary.compared) == ["n"]
    groups = summary.models["m"].groups
    assert (groups["order"].value, groups["other"].value) == (1.0, 0.0)
    assert (groups["all"].questions, groups["all"].unanswered) == (3, 1)
    assert summary.compared["n"]["all"].difference == 0.0
    log = "\n".join(lines)
    assert "\nm: 3 questions in " in log
    assert "1 questions were not answered and count as wrong; the first reason: 400" in log
    assert "\nn compared with m, on the same questions\n" in log

    file = tmp_path / "run" / "scores" / "m.parquet"
    assert [score.correct for score in read_scores(str(file))] == [True, False, False]
    other = tmp_path / "run" / "scores" / "n.parquet"
    shown = compare_files(str(file), str(other)).splitlines()
    assert shown[0] == f"{other} compared with {file}"
    assert shown[1].split()[:2] == ["m", "n"]
    assert compare_files(str(file), str(file)).splitlines()[1].split()[:2] == ["first", "second"]


def test_the_summary_can_be_read_back(server: Any, questions: Path) -> None:
    summary = run(server, questions)[0].summary
    assert read_row(EvaluateSummary, json.loads(json.dumps(write_row(summary)))) == summary


def test_limit_asks_the_first_questions_only(server: Any, questions: Path) -> None:
    job, _ = run(server, questions, limit=1, models=["m"])
    assert job.summary.models["m"].groups["all"].questions == 1
    assert len(server.bodies) == 1


def test_the_token_is_sent_and_written_nowhere(
    server: Any, questions: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TEMPO_RAY_TOKEN", "wrong")
    with pytest.raises(UserError, match="refuses the token"):
        run(server, questions)
    monkeypatch.setenv("TEMPO_RAY_TOKEN", "right-token")
    job, lines = run(server, questions)
    assert "right-token" not in repr(job.summary) + "".join(lines)
    files = [path for path in (tmp_path / "run").rglob("*") if path.is_file()]
    assert files
    assert not any(b"right-token" in path.read_bytes() for path in files)


def test_a_model_that_is_not_served_is_refused(server: Any, questions: Path) -> None:
    with pytest.raises(UserError, match="does not serve other; it serves m, n"):
        run(server, questions, models=["m", "other"])
    assert not server.bodies


def test_a_model_that_answers_nothing_ends_the_job_and_is_in_the_summary(
    server: Any, questions: Path
) -> None:
    row = json.loads(questions.read_text().splitlines()[1])
    questions.write_text(json.dumps(row))
    job = Job()
    config = EvaluateConfig(
        run=str(questions.parent), endpoint=server.url, models=("m",), questions=str(questions)
    )
    with pytest.raises(UserError, match="m answered no question; the first reason: 400"):
        evaluate(config, job, lambda line: None)
    assert job.summary.models["m"].groups["all"].unanswered == 1


def test_bad_questions_are_refused_before_the_endpoint_is_asked(tmp_path: Path) -> None:
    config = EvaluateConfig(
        run=str(tmp_path),
        endpoint="http://127.0.0.1:9/v1",
        models=("m",),
        questions=(tmp_path / "none.jsonl").as_uri(),
    )
    with pytest.raises(UserError, match="questions: file://"):
        evaluate(config, Job(), lambda line: None)
