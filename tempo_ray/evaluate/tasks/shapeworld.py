"""ShapeWorld questions.

Data set: JSONL, one question per line: `question_id`, `video` (path relative to the file's folder),
`kind` (first, last, after, before, yes_no, caption, direction, speed, change, presence, count),
`needs` (`order`, `motion` or `none`: what the question cannot be answered without), `text` (as
asked, options included), `options`, `answer` (one of the options).
Metric: accuracy; no judge. An unanswered question is wrong.
Pattern: generate greedily, compare with the answer: its text, its letter, or both, alone or after
words such as `The answer is`.
"""

import json
import re
from dataclasses import dataclass
from typing import Any, Literal

from tempo_ray.errors import UserError
from tempo_ray.evaluate.task import Prompt
from tempo_ray.storage import parent, read_bytes, relative_to

Needs = Literal["order", "motion", "none"]
LETTERS = "ABCDEFGH"
ANNOUNCEMENT = re.compile(
    r"^(?:(?:the )?(?:correct |right |best )?(?:answer|option|choice)(?: is:?|:)? )?(?:option )?"
)


@dataclass(frozen=True)
class Question:
    question_id: str
    video: str
    """Local path or URI."""
    kind: str
    needs: Needs
    text: str
    options: tuple[str, ...]
    answer: str

    @property
    def chance(self) -> float:
        return 1 / len(self.options)


def load(location: str, limit: int | None = None) -> list[Question]:
    """See `Task.load`; lines behind the last question that is wanted are not parsed."""
    folder = parent(location)
    questions: list[Question] = []
    for number, line in enumerate(read_bytes(location).decode().splitlines(), 1):
        if not line.strip():
            continue
        if limit is not None and len(questions) == limit:
            break
        try:
            questions.append(_question(json.loads(line), folder))
        except (ValueError, KeyError, TypeError) as error:
            reason = f"{type(error).__name__}: {error}"
            raise UserError(f"{location}, line {number}: not a question ({reason})") from error
    return questions


def _question(row: dict[str, Any], folder: str) -> Question:
    options = tuple(str(option) for option in row["options"])
    if row["needs"] not in ("order", "motion", "none"):
        raise ValueError(f"needs is order, motion or none, not {row['needs']}")
    if not 2 <= len(options) <= len(LETTERS) or row["answer"] not in options:
        raise ValueError("options are two to eight, and the answer is one of them")
    return Question(
        question_id=str(row["question_id"]),
        video=relative_to(folder, row["video"]),
        kind=row["kind"],
        needs=row["needs"],
        text=row["text"],
        options=options,
        answer=row["answer"],
    )


def prompt(question: Question) -> Prompt:
    return Prompt(question.text, question.video)


def groups(question: Question) -> tuple[str, ...]:
    """`order`, or `other` and then `motion` or `none`; and the kind."""
    kind = f"kind:{question.kind}"
    if question.needs == "order":
        return ("order", kind)
    return ("other", question.needs, kind)


def grade(question: Question, reply: str) -> bool:
    """Whether the reply is the answer's text, its letter (`B`, `b.`, `(B)`), or both (`B. grows`);
    words that announce an answer (`The answer is`, `Option`) may come before.

    Letters count only where the question shows them.
    """
    text, answer = ANNOUNCEMENT.sub("", normalise(reply)), normalise(question.answer)
    if text == answer:
        return True
    letter = LETTERS[question.options.index(question.answer)]
    if f"\n{letter}. " not in question.text:
        return False
    match = re.fullmatch(rf"\(?{letter.lower()}[).:]*(?:\s+(.*))?", text)
    return match is not None and match[1] in (None, answer)


def normalise(text: str) -> str:
    """Lower case, runs of white space as one space, no punctuation at the end."""
    return " ".join(text.lower().split()).rstrip(" .,;:!?")
