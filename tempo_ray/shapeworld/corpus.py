"""A config and a video's number -> its story, and its lines in the files of a corpus.

A corpus is a folder: videos/, stories.jsonl, questions.jsonl, instructions.jsonl. The dicts here
are the lines of these files.
"""

import json
from collections.abc import Iterable
from typing import Any

from tempo_ray.config import MakeShapeworldConfig
from tempo_ray.records import CorpusSummary
from tempo_ray.shapeworld import language
from tempo_ray.shapeworld.render import cut_frames
from tempo_ray.shapeworld.story import Story, draw_split, story_rng
from tempo_ray.storage import join, write_bytes

Line = dict[str, Any]


def video_id(config: MakeShapeworldConfig, index: int) -> str:
    return f"{config.split}-{config.seed}-{index:06d}"


def video_path(config: MakeShapeworldConfig, index: int) -> str:
    """The video's path in the corpus."""
    return f"videos/{video_id(config, index)}.mp4"


def draw_story_of(config: MakeShapeworldConfig, index: int) -> Story:
    """The story of a video; depends on seed, split, index and world alone."""
    rng = story_rng(config.seed, config.split, index)
    low, high = config.world.shots
    shots = int(rng.integers(low, high + 1))
    return draw_split(rng, config.split, shots, config.world.shot_seconds)


def story_line(config: MakeShapeworldConfig, index: int) -> Line:
    """The video's line of stories.jsonl."""
    story = draw_story_of(config, index)
    return {
        "video": video_path(config, index),
        "events": [event.text() for event in story.events],
        "cut_frames": cut_frames(story, config.world.fps),
        "backgrounds": [list(shot.background) for shot in story.shots],
    }


def question_lines(config: MakeShapeworldConfig, index: int) -> list[Line]:
    """Test questions about a video: half about the order of events, half about other things."""
    rng = story_rng(config.seed + 1, config.split, index)
    story = draw_story_of(config, index)
    questions = language.ask(story, rng, config.questions_per_video, 0.5)
    return [
        {
            "question_id": f"{video_id(config, index)}-{number}",
            "video": video_path(config, index),
            "kind": question.kind,
            "needs": question.needs,
            "text": question.text,
            "options": list(question.options),
            "answer": question.answer,
        }
        for number, question in enumerate(questions)
    ]


def instruction_lines(config: MakeShapeworldConfig, index: int) -> list[Line]:
    """Instruction data about a video, in LLaVA's layout."""
    rng = story_rng(config.seed + 2, config.split, index)
    story = draw_story_of(config, index)
    questions = language.ask(story, rng, config.instructions_per_video, config.order_share)
    return [
        {
            "id": f"{video_id(config, index)}-{number}",
            "video": video_path(config, index),
            "conversations": [
                {"from": "human", "value": f"<video>\n{question.text}"},
                {"from": "gpt", "value": question.answer},
            ],
        }
        for number, question in enumerate(questions)
    ]


def write_texts(config: MakeShapeworldConfig) -> CorpusSummary:
    """Writes the three JSONL files of the corpus."""
    indices = range(config.videos)
    stories = [story_line(config, index) for index in indices]
    questions = [line for index in indices for line in question_lines(config, index)]
    instructions = [line for index in indices for line in instruction_lines(config, index)]
    _write_lines(join(config.output, "stories.jsonl"), stories)
    _write_lines(join(config.output, "questions.jsonl"), questions)
    _write_lines(join(config.output, "instructions.jsonl"), instructions)
    return CorpusSummary(len(stories), len(questions), len(instructions))


def _write_lines(location: str, lines: Iterable[Line]) -> None:
    write_bytes(location, "".join(json.dumps(line) + "\n" for line in lines).encode())
