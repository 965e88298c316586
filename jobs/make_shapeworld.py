"""Draw a ShapeWorld corpus: videos with known stories, questions about them, and instruction data.

    python jobs/make_shapeworld.py output=runs/world/train split=train videos=200
    python jobs/make_shapeworld.py output=runs/world/hd videos=4 world.width=1920 world.height=1080 world.shots=[36,36] \\
        world.shot_seconds=[4,6]
"""

from pathlib import Path

from tempo_ray.arguments import parse_args
from tempo_ray.config import MakeShapeworldConfig


def main() -> None:
    config = parse_args(MakeShapeworldConfig, __doc__)

    import ray

    from tempo_ray import cluster, job
    from tempo_ray.shapeworld import corpus

    output = Path(config.output).resolve()
    config = config.model_copy(update={"output": str(output)})
    with job.running("make_shapeworld", config.output, config) as counts:
        (output / "videos").mkdir(exist_ok=True)
        cluster.connect(config.ray)
        made = ray.data.range(config.videos, override_num_blocks=min(64, config.videos)).map(
            lambda row: {
                "index": row["id"],
                "story": corpus.json.dumps(corpus.make_video(config, int(row["id"]))),
            }
        )
        stories = [
            corpus.json.loads(row["story"])
            for row in sorted(made.take_all(), key=lambda row: row["index"])
        ]
        everyone = range(config.videos)
        corpus.write_lines(output / "stories.jsonl", stories)
        questions = [one for index in everyone for one in corpus.questions_of(config, index)]
        corpus.write_lines(output / "questions.jsonl", questions)
        instructions = [one for index in everyone for one in corpus.instructions_of(config, index)]
        corpus.write_lines(output / "instructions.jsonl", instructions)
        counts.update(videos=len(stories), questions=len(questions), instructions=len(instructions))
        print(
            f"{len(stories)} videos, {len(questions)} questions, {len(instructions)} instructions in {output}"
        )


if __name__ == "__main__":
    main()
