import json
from pathlib import Path
from typing import Any

import pytest

from tempo_ray.errors import UserError
from tempo_ray.evaluate.task import Prompt, load_questions
from tempo_ray.evaluate.tasks import shapeworld
from tempo_ray.evaluate.tasks.shapeworld import Question, grade, groups, load, normalise, prompt

TEXT = (
    "What happens first?\nA. a red circle grows\nB. a blue cross moves up slowly\n"
    "C. a green square spins"
)
OPTIONS = ["a red circle grows", "a blue cross moves up slowly", "a green square spins"]


def question(
    answer: str = "a blue cross moves up slowly", text: str = TEXT, options: list[str] = OPTIONS
) -> Question:
    return Question("q", "/v/1.mp4", "first", "order", text, tuple(options), answer)


@pytest.mark.parametrize(
    "reply",
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
        "The answer is B",
        "The correct answer is (B).",
        "Answer: B. a blue cross moves up slowly",
        "Option B",
        "The best option is option B.",
        "The right answer is: a blue cross moves up slowly",
    ],
)
def test_right_replies(reply: str) -> None:
    assert grade(question(), reply)


@pytest.mark.parametrize(
    "reply",
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
        "The answer is A",
        "The answer is not B",
        "The answer",
    ],
)
def test_wrong_replies(reply: str) -> None:
    assert not grade(question(), reply)


def test_an_article_is_not_a_letter() -> None:
    assert not grade(question(answer="a red circle grows"), "a blue cross moves up slowly")
    assert grade(question(answer="a red circle grows"), "a red circle grows")


def test_letters_count_only_where_they_are_shown() -> None:
    yes_no = question(answer="yes", text="Is it true? Answer yes or no.", options=["yes", "no"])
    assert grade(yes_no, "Yes.")
    assert not grade(yes_no, "A")


def test_normalise() -> None:
    assert normalise("  Yes,\n it IS!? ") == "yes, it is"


def test_groups() -> None:
    def of(kind: str, needs: Any) -> tuple[str, ...]:
        return groups(Question("q", "/v/1.mp4", kind, needs, "?", ("yes", "no"), "yes"))

    assert of("first", "order") == ("order", "kind:first")
    assert of("speed", "motion") == ("other", "motion", "kind:speed")
    assert of("count", "none") == ("other", "none", "kind:count")


def test_the_prompt_is_the_text_after_the_video() -> None:
    assert prompt(question()) == Prompt(TEXT, "/v/1.mp4")


def row(**changes: Any) -> dict[str, Any]:
    fields = {
        "question_id": "1",
        "video": "videos/1.mp4",
        "kind": "first",
        "needs": "order",
        "text": TEXT,
        "options": OPTIONS,
        "answer": OPTIONS[0],
    }
    return fields | changes


def write(folder: Path, lines: list[dict[str, Any] | str]) -> Path:
    (folder / "videos").mkdir(exist_ok=True)
    (folder / "videos" / "1.mp4").write_bytes(b"video")
    file = folder / "questions.jsonl"
    text = [line if isinstance(line, str) else json.dumps(line) + "\n" for line in lines]
    file.write_text("".join(text))
    return file


def test_load_reads_questions_and_finds_their_videos(tmp_path: Path) -> None:
    file = write(tmp_path, [row(), "\n", row(question_id=2, kind="after")])
    questions = load(str(file))
    assert [question.question_id for question in questions] == ["1", "2"]
    assert questions[0].video == str(tmp_path / "videos/1.mp4")
    assert questions[0].chance == pytest.approx(1 / 3)
    assert load(file.as_uri())[0].video == (tmp_path / "videos/1.mp4").as_uri()


def test_limit_takes_the_first_and_parses_no_more(tmp_path: Path) -> None:
    file = write(tmp_path, [row(), row(question_id="2"), "{not json\n"])
    assert [question.question_id for question in load(str(file), 1)] == ["1"]
    assert [question.question_id for question in load(str(file), 2)] == ["1", "2"]


@pytest.mark.parametrize(
    ("lines", "reason"),
    [
        ([], "no questions"),
        ([row(), "{not json\n"], "line 2"),
        (["[1]\n"], "line 1"),
        ([row(answer="something else")], "answer is one of them"),
        ([row(needs="luck")], "not luck"),
        ([row(), row()], "is not unique"),
        ([row(video="videos/2.mp4")], "no video at"),
        ([row(video=7)], "line 1"),
        ([{"question_id": "1"}], "line 1"),
    ],
)
def test_questions_that_cannot_be_asked_are_refused(
    tmp_path: Path, lines: list[dict[str, Any] | str], reason: str
) -> None:
    file = write(tmp_path, lines)
    with pytest.raises(UserError, match=reason):
        load_questions(shapeworld, str(file))
