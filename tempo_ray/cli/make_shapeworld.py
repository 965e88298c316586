"""Draw a ShapeWorld corpus: videos with known stories, questions and instruction data.

    tempo-ray make-shapeworld output=runs/world/train split=train videos=200
    tempo-ray make-shapeworld output=runs/world/hd videos=4 world.width=1920 world.height=1080 \\
        world.shots=[36,36] world.shot_seconds=[4,6]
"""

import sys

from tempo_ray.config import MakeShapeworldConfig
from tempo_ray.config.load import parse_args
from tempo_ray.job import running, user_errors


def main(argv: list[str] | None = None) -> None:
    with user_errors():
        words = sys.argv[1:] if argv is None else argv
        config = parse_args(MakeShapeworldConfig, __doc__, words, section="make_shapeworld")
        with running("make_shapeworld", config.output, config) as job:
            from tempo_ray.shapeworld.draw import make_corpus

            job.summary = summary = make_corpus(config)
            print(
                f"{summary.videos} videos, {summary.questions} questions, "
                f"{summary.instructions} instructions in {config.output}"
            )
