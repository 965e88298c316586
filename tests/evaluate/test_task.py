"""Questions of any benchmark: what is refused before a model is asked."""

import posixpath
from dataclasses import dataclass
from pathlib import Path

import pytest

from tempo_ray.errors import UserError
from tempo_ray.evaluate import task
from tempo_ray.evaluate.task import Prompt, load_questions
from tempo_ray.storage import parent, read_bytes, relative_to


@dataclass(frozen=True)
class Caption:
    question_id: str
    video: str
    answer: str
    chance: float = 0.0


class Captions:
    """A benchmark of lines `ID VIDEO CAPTION`."""

    def load(self, location: str, limit: int | None = None) -> list[Caption]:
        lines = read_bytes(location).decode().splitlines()[:limit]
        questions = [Caption(*line.split(" ", 2)) for line in lines]
        folder = parent(location)
        return [
            Caption(question.question_id, relative_to(folder, question.video), question.answer)
            for question in questions
        ]

    def prompt(self, question: Caption) -> Prompt:
        return Prompt("Describe the video.", question.video)

    def grade(self, question: Caption, reply: str) -> bool:
        return question.answer == reply

    def groups(self, question: Caption) -> tuple[str, ...]:
        return ()


@pytest.fixture
def file(tmp_path: Path) -> Path:
    (tmp_path / "videos").mkdir()
    (tmp_path / "videos" / "a.mp4").write_bytes(b"video")
    (tmp_path / "videos" / "b.mp4").write_bytes(b"video")
    return tmp_path / "questions.txt"


def test_questions_keep_their_order_and_limit_takes_the_first(file: Path) -> None:
    file.write_text("2 videos/b.mp4 a dog\n1 videos/a.mp4 a cat\n3 videos/none.mp4 a cow\n")
    questions = load_questions(Captions(), str(file), limit=2)
    assert [question.question_id for question in questions] == ["2", "1"]


def test_questions_at_a_uri_have_their_videos_beside_them(file: Path) -> None:
    file.write_text("1 videos/a.mp4 a cat\n")
    (question,) = load_questions(Captions(), file.as_uri())
    assert question.video == file.parent.as_uri() + "/videos/a.mp4"


def test_each_folder_of_videos_is_listed_once(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file.write_text("".join(f"{number} videos/a.mp4 a cat\n" for number in range(5)))
    folders = []
    list_files = task.storage.list_files
    monkeypatch.setattr(
        task.storage, "list_files", lambda folder: folders.append(folder) or list_files(folder)
    )
    load_questions(Captions(), str(file))
    assert folders == [posixpath.join(str(file.parent), "videos")]


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "no questions"),
        ("1 videos/a.mp4 a cat\n1 videos/b.mp4 a dog\n", "question_id 1 is not unique"),
        ("1 videos/none.mp4 a cat\n", "question 1: no video at"),
        ("1 videos a folder\n", "question 1: no video at"),
        ("1 nowhere/a.mp4 a cat\n", "question 1: no video at"),
        ("1 odd://a/b.mp4 a cat\n", "odd"),
    ],
)
def test_questions_that_cannot_be_asked_are_refused(file: Path, text: str, reason: str) -> None:
    file.write_text(text)
    with pytest.raises(UserError, match=reason) as caught:
        load_questions(Captions(), str(file))
    assert str(caught.value).startswith(f"questions: {file}: ")


@pytest.mark.parametrize("name", ["none.txt", "videos", "binary"])
def test_files_that_cannot_be_read_are_refused(file: Path, name: str) -> None:
    (file.parent / "binary").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(UserError, match=f"questions: .*{name}"):
        load_questions(Captions(), str(file.parent / name))


def test_a_scheme_that_no_file_system_has_is_refused() -> None:
    with pytest.raises(UserError, match="odd://bucket"):
        load_questions(Captions(), "odd://bucket/questions.txt")
