"""A config -> a corpus of drawn videos, drawn in parallel through Ray Data.

Tested in tests/shapeworld/test_corpus.py.
"""

import tempfile
from pathlib import Path
from typing import Any

import ray

from tempo_ray import cluster
from tempo_ray.config import MakeShapeworldConfig
from tempo_ray.records import CorpusSummary
from tempo_ray.shapeworld import corpus
from tempo_ray.shapeworld.render import write_video
from tempo_ray.storage import copy_file, join

MAX_BLOCKS = 64


def make_corpus(config: MakeShapeworldConfig) -> CorpusSummary:
    """Draws the videos into `config.output`, a local folder or a URI, then writes their texts."""
    cluster.connect(config.ray)

    def draw(row: dict[str, Any]) -> dict[str, Any]:
        draw_video(config, int(row["id"]))
        return row

    blocks = min(MAX_BLOCKS, config.videos)
    ray.data.range(config.videos, override_num_blocks=blocks).map(draw).materialize()
    return corpus.write_texts(config)


def draw_video(config: MakeShapeworldConfig, index: int) -> None:
    """Encodes one video to a local file and copies it to its place in the corpus."""
    story, world = corpus.draw_story_of(config, index), config.world
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "video.mp4")
        write_video(story, file, world.fps, world.width, world.height)
        copy_file(str(file), join(config.output, corpus.video_path(config, index)))
