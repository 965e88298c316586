import json

import pytest

from tempo_ray.evaluate.tasks.shapeworld import (
    BadQuestions,
    Question,
    grade,
    normalise,
    read_questions,
)

TEXT = "What happens first?\nA. a red circle grows\nB. a blue cross moves up slowly\nC. a green square spins"
OPTIONS = ["a red circle grows", "a blue cross moves up slowly", "a green square spins"]


def question(answer="a blue cross moves up slowly", text=TEXT, options=OPTIONS):
    return Question("q", None, "first", "order", text, tuple(options), answer)


@pytest.mark.parametrize(
    "said",
    [
        "a blue cross moves up slowly",
        " A  Blue cross\nmoves up SLOWLY. ",
        "B",
        "b.",
        "(B)",
        "B)",
        "B. a blue cross moves up slowly",
        "B: A blue cross moves up slowly.",
        "(b) a blue cross moves up slowly",
    ],
)
def test_right(said):
    assert grade(question(), said)


@pytest.mark.parametrize(
    "said",
    [
        "",
        "A",
        "a",
        "a red circle grows",
        "B. a red circle grows",
        "A. a blue cross moves up slowly",
        "a blue cross moves up",
        "first a blue cross moves up slowly",
        "Beats me",
        "B or C",
        "AB",
    ],
)
def test_wrong(said):
    assert not grade(question(), said)


def test_an_article_is_no_letter():
    assert not grade(question(answer="a red circle grows"), "a blue cross moves up slowly")
    assert grade(question(answer="a red circle grows"), "a red circle grows")


def test_letters_count_only_where_they_are_shown():
    asked = question(answer="yes", text="Is it true? Answer yes or no.", options=["yes", "no"])
    assert grade(asked, "Yes.")
    assert not grade(asked, "A")


def test_normalise():
    assert normalise("  Yes,\n it IS!? ") == "yes, it is"


def write(folder, rows):
    (folder / "videos").mkdir(exist_ok=True)
    (folder / "videos/1.mp4").write_bytes(b"video")
    file = folder / "questions.jsonl"
    file.write_text(
        "".join(row if isinstance(row, str) else json.dumps(row) + "\n" for row in rows)
    )
    return str(file)


def row(**changes):
    base = {
        "question_id": "1",
        "video": "videos/1.mp4",
        "kind": "first",
        "needs": "order",
        "text": TEXT,
    }
    return base | {"options": OPTIONS, "answer": OPTIONS[0]} | changes


def test_reads_questions_and_finds_their_videos(tmp_path):
    questions = read_questions(write(tmp_path, [row(), row(question_id="2", kind="after")]))
    assert [one.question_id for one in questions] == ["1", "2"]
    assert questions[0].video == tmp_path / "videos/1.mp4"
    assert questions[0].chance == pytest.approx(1 / 3)


def test_limit_takes_the_first(tmp_path):
    assert [
        one.question_id for one in read_questions(write(tmp_path, [row(), row(question_id="2")]), 1)
    ] == ["1"]


@pytest.mark.parametrize(
    ("rows", "reason"),
    [
        ([], "no questions"),
        ([row(), "{not json\n"], "line 2"),
        (["[1]\n"], "line 1"),
        ([row(answer="something else")], "answer is one of them"),
        ([row(needs="luck")], "not luck"),
        ([row(), row()], "comes twice"),
        ([row(video="videos/2.mp4")], "no video at"),
        ([{"question_id": "1"}], "line 1"),
    ],
)
def test_refuses(tmp_path, rows, reason):
    with pytest.raises(BadQuestions, match=reason):
        read_questions(write(tmp_path, rows))
