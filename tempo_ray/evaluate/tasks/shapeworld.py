"""ShapeWorld questions.

Data set: JSONL, one question a line: `question_id`, `video` (path relative to the file's folder), `kind` (first, last, after,
before, yes_no, caption, direction, speed, change, presence, count), `needs` (`order`, `motion` or `none`: what the question
cannot be answered without), `text` (as asked, options included), `options`, `answer` (one of the options).
Metric: accuracy; no judge. A question that was not answered is wrong.
Pattern: generate greedily, compare with the answer: its text, its letter, or its letter and text.
"""

import json
import re
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

Needs = Literal["order", "motion", "none"]
LETTERS = "ABCDEFGH"


class BadQuestions(ValueError):
    """The questions cannot be asked; the message names the line."""


@dataclass(frozen=True)
class Question:
    question_id: str
    video: Path
    kind: str
    needs: Needs
    text: str
    options: tuple[str, ...]
    answer: str

    @property
    def chance(self) -> float:
        return 1 / len(self.options)


def read_questions(file: str, limit: int | None = None) -> list[Question]:
    """The questions of a file, in its order. Raises BadQuestions, or OSError where the file cannot be read."""
    path = Path(file)
    questions: list[Question] = []
    for number, line in enumerate(path.read_text().splitlines(), 1):
        if line.strip() and (limit is None or len(questions) < limit):
            try:
                questions.append(_read(json.loads(line), path.parent))
            except (ValueError, KeyError, TypeError, AttributeError) as error:
                raise BadQuestions(
                    f"{file}, line {number}: not a question ({type(error).__name__}: {error})"
                ) from error
    if not questions:
        raise BadQuestions(f"{file}: no questions in it")
    twice = [
        name
        for name, count in Counter(question.question_id for question in questions).items()
        if count > 1
    ]
    if twice:
        raise BadQuestions(f"{file}: question_id {twice[0]} comes twice")
    for question in questions:
        if not question.video.is_file():
            raise BadQuestions(
                f"{file}: question {question.question_id}: no video at {question.video}"
            )
    return questions


def _read(row: dict, folder: Path) -> Question:
    options = tuple(str(option) for option in row["options"])
    if row["needs"] not in ("order", "motion", "none"):
        raise ValueError(f"needs is order, motion or none, not {row['needs']}")
    if not 2 <= len(options) <= len(LETTERS) or row["answer"] not in options:
        raise ValueError("options are two to eight, and the answer is one of them")
    video = folder / row["video"]
    return Question(
        str(row["question_id"]),
        video,
        row["kind"],
        row["needs"],
        row["text"],
        options,
        row["answer"],
    )


def normalise(text: str) -> str:
    """Lower case, white space folded, punctuation at the end gone."""
    return " ".join(text.lower().split()).rstrip(" .,;:!?")


def grade(question: Question, prediction: str) -> bool:
    """Whether the prediction is the answer's text, its letter (`B`, `b.`, `(B)`), or its letter and text (`B. grows`).

    Letters count where the question shows them.
    """
    said, answer = normalise(prediction), normalise(question.answer)
    if said == answer:
        return True
    letter = LETTERS[question.options.index(question.answer)]
    if f"\n{letter}. " not in question.text:
        return False
    match = re.fullmatch(rf"\(?{letter.lower()}[).:]*(?:\s+(.*))?", said)
    return match is not None and match[1] in (None, answer)
