"""A benchmark's file of questions -> questions that can be asked.

`Task` is what a benchmark provides: one module of evaluate/tasks. Nothing else in this room knows
one benchmark from another.
"""

import posixpath
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, TypeVar

import pyarrow as pa

from tempo_ray import storage
from tempo_ray.errors import UserError


@dataclass(frozen=True)
class Prompt:
    """What a model is asked: a text, after a video if there is one."""

    text: str
    video: str | None = None
    """Local path or URI."""


class Question(Protocol):
    """What a score records of a question. A benchmark's own type has more."""

    @property
    def question_id(self) -> str: ...

    @property
    def video(self) -> str:
        """Local path or URI of the video that the question is about."""

    @property
    def answer(self) -> str: ...

    @property
    def chance(self) -> float:
        """Accuracy of a blind guess, 0 to 1."""


QuestionType = TypeVar("QuestionType", bound=Question)


class Task(Protocol[QuestionType]):
    """A benchmark."""

    def load(self, location: str, limit: int | None = None) -> list[QuestionType]:
        """The (first `limit`) questions of a file, in its order.

        `location` is a local path or a URI, read through tempo_ray.storage. Raises UserError where
        a question cannot be understood, OSError or UnicodeDecodeError where the file cannot be
        read.
        """

    def prompt(self, question: QuestionType) -> Prompt: ...

    def grade(self, question: QuestionType, reply: str) -> bool:
        """Whether the text of a reply is right."""

    def groups(self, question: QuestionType) -> tuple[str, ...]:
        """The groups of questions that this one counts towards, from the widest to the narrowest.

        `FACET:VALUE` names, such as `kind:count`, are listed after the others, in alphabetical
        order. The group of all questions needs no name here.
        """


def load_questions(
    task: Task[QuestionType], location: str, limit: int | None = None
) -> list[QuestionType]:
    """A benchmark's questions, each with its own id and a video that exists.

    Raises UserError otherwise, or where the file cannot be read.
    """
    try:
        questions = task.load(location, limit)
        missing = _first_without_video(questions)
    except UserError as error:
        raise UserError(f"questions: {error}") from None
    except (OSError, UnicodeDecodeError, pa.ArrowInvalid) as error:  # the last: an unknown scheme
        raise UserError(f"questions: {location}: {error}") from None
    if not questions:
        raise UserError(f"questions: {location}: no questions in it")
    ids = Counter(question.question_id for question in questions)
    repeated = next((name for name, count in ids.items() if count > 1), None)
    if repeated is not None:
        raise UserError(f"questions: {location}: question_id {repeated} is not unique")
    if missing is not None:
        raise UserError(
            f"questions: {location}: question {missing.question_id}: no video at {missing.video}"
        )
    return questions


def _first_without_video(questions: Sequence[QuestionType]) -> QuestionType | None:
    """Lists each folder once: in a bucket, a request per video would take minutes."""
    files: dict[str, dict[str, int]] = {}
    for question in questions:
        folder, name = posixpath.split(question.video)
        if folder not in files:
            files[folder] = storage.list_files(folder)
        if name not in files[folder]:
            return question
    return None
