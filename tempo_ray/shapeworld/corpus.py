"""A config -> a folder of ShapeWorld: videos/, stories.jsonl, questions.jsonl and instructions.jsonl. Through Ray Data."""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from tempo_ray.config import MakeShapeworldConfig
from tempo_ray.shapeworld import language
from tempo_ray.shapeworld.render import cut_frames, write_video
from tempo_ray.shapeworld.story import Story, draw_split, story_rng


def video_name(config: MakeShapeworldConfig, index: int) -> str:
    return f"{config.split}-{config.seed}-{index:06d}.mp4"


def draw(config: MakeShapeworldConfig, index: int) -> Story:
    """The story of one video; it depends on (seed, split, index) and the world alone."""
    rng = story_rng(config.seed, config.split, index)
    low, high = config.world.shots
    return draw_split(
        rng, config.split, int(rng.integers(low, high + 1)), config.world.shot_seconds
    )


def make_video(config: MakeShapeworldConfig, index: int) -> dict[str, Any]:
    """Writes one video and returns its line of stories.jsonl."""
    story = draw(config, index)
    world = config.world
    name = video_name(config, index)
    write_video(story, Path(config.output) / "videos" / name, world.fps, world.width, world.height)
    return {
        "video": f"videos/{name}",
        "events": [event.text() for event in story.events],
        "cut_frames": cut_frames(story, world.fps),
        "backgrounds": [list(shot.background) for shot in story.shots],
    }


def questions_of(config: MakeShapeworldConfig, index: int) -> list[dict[str, Any]]:
    """Test questions about one video: half about the order of events, half about other things."""
    rng = story_rng(config.seed + 1, config.split, index)
    asked = language.ask(draw(config, index), rng, config.questions_per_video, 0.5)
    name = video_name(config, index)
    return [
        {
            "question_id": f"{name.removesuffix('.mp4')}-{number}",
            "video": f"videos/{name}",
            "kind": question.kind,
            "needs": question.needs,
            "text": question.text,
            "options": list(question.options),
            "answer": question.answer,
        }
        for number, question in enumerate(asked)
    ]


def instructions_of(config: MakeShapeworldConfig, index: int) -> list[dict[str, Any]]:
    """Instruction data about one video, in the LLaVA layout."""
    rng = story_rng(config.seed + 2, config.split, index)
    asked = language.ask(
        draw(config, index), rng, config.instructions_per_video, config.order_share
    )
    name = video_name(config, index)
    return [
        {
            "id": f"{name.removesuffix('.mp4')}-{number}",
            "video": f"videos/{name}",
            "conversations": [
                {"from": "human", "value": f"<video>\n{question.text}"},
                {"from": "gpt", "value": question.answer},
            ],
        }
        for number, question in enumerate(asked)
    ]


def write_lines(path: Path, rows: Iterable[dict[str, Any]]) -> None:
    part = path.with_name(f".{path.name}.part")
    part.write_text("".join(json.dumps(row) + "\n" for row in rows))
    part.rename(path)
