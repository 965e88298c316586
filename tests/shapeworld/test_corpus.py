"""A corpus in a local folder or behind a URI: the same videos and the same lines."""

import json
from pathlib import Path

import av
import pytest

from tempo_ray.config import MakeShapeworldConfig
from tempo_ray.records import CorpusSummary
from tempo_ray.shapeworld.corpus import draw_story_of, write_texts
from tempo_ray.shapeworld.draw import draw_video
from tempo_ray.shapeworld.render import cut_frames


def config(output: str, **changes: object) -> MakeShapeworldConfig:
    world = {"shots": [2, 3], "shot_seconds": [0.3, 0.5]}
    values = {"output": output, "split": "test", "videos": 2, "world": world}
    return MakeShapeworldConfig.model_validate(values | changes)


def make(corpus: MakeShapeworldConfig) -> CorpusSummary:
    for index in range(corpus.videos):
        draw_video(corpus, index)
    return write_texts(corpus)


def files(folder: Path) -> set[str]:
    return {str(file.relative_to(folder)) for file in folder.rglob("*") if file.is_file()}


@pytest.mark.parametrize("scheme", ["", "file://"])
def test_a_corpus_is_written_where_it_was_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, scheme: str
) -> None:
    """A URI must not become a local path such as ./file:/..."""
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    monkeypatch.chdir(elsewhere)
    folder = tmp_path / "corpus"
    summary = make(config(f"{scheme}{folder}"))
    assert summary == CorpusSummary(videos=2, questions=12, instructions=16)
    assert files(folder) == {
        "videos/test-0-000000.mp4",
        "videos/test-0-000001.mp4",
        "stories.jsonl",
        "questions.jsonl",
        "instructions.jsonl",
    }
    assert not list(elsewhere.iterdir())


def test_the_lines_tell_what_the_videos_show(tmp_path: Path) -> None:
    corpus = config(str(tmp_path))
    make(corpus)
    stories = [json.loads(line) for line in (tmp_path / "stories.jsonl").open()]
    for index, line in enumerate(stories):
        story = draw_story_of(corpus, index)
        assert story.split == "test"
        assert line["events"] == [event.text() for event in story.events]
        assert line["cut_frames"] == cut_frames(story, 24)
        with av.open(str(tmp_path / line["video"])) as container:
            assert sum(1 for _ in container.decode(video=0)) == line["cut_frames"][-1]


def test_questions_and_instructions_are_about_the_videos(tmp_path: Path) -> None:
    corpus = config(str(tmp_path), order_share=0.0)
    write_texts(corpus)
    questions = [json.loads(line) for line in (tmp_path / "questions.jsonl").open()]
    assert len({question["question_id"] for question in questions}) == 12
    assert all(question["answer"] in question["options"] for question in questions)
    assert {question["video"] for question in questions} == {
        "videos/test-0-000000.mp4",
        "videos/test-0-000001.mp4",
    }
    instructions = [json.loads(line) for line in (tmp_path / "instructions.jsonl").open()]
    for instruction in instructions:
        human, model = instruction["conversations"]
        assert human["value"].startswith("<video>\n")
        assert "happens first" not in human["value"]
        assert model["from"] == "gpt"


def test_a_longer_corpus_begins_with_the_shorter_one(tmp_path: Path) -> None:
    short, long = config(str(tmp_path / "short")), config(str(tmp_path / "long"), videos=5)
    write_texts(short)
    write_texts(long)
    for name in ("stories", "questions", "instructions"):
        text = (tmp_path / "short" / f"{name}.jsonl").read_text()
        assert (tmp_path / "long" / f"{name}.jsonl").read_text().startswith(text)
