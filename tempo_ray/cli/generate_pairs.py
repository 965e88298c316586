"""Videos -> preference pairs: select by shots, answer clean and perturbed, keep the good pairs.

    tempo-ray generate-pairs --config embedded run=runs/try videos.input=my/videos
    ray job submit --working-dir . -- python jobs/generate_pairs.py --config cluster \\
        run=s3://bucket/run videos.input=s3://bucket/videos

The same command on the same run resumes it. Of a run that has pairs:

    tempo-ray generate-pairs explain PAIR_ID run=runs/try   everything behind one pair
    tempo-ray generate-pairs export FORMAT run=runs/try     for trl, ms_swift or llama_factory
    tempo-ray generate-pairs rank run=runs/try              the videos by temporal richness
"""

import sys
from typing import get_args

from tempo_ray.config import (
    ExplainConfig,
    ExportConfig,
    ExportFormat,
    GeneratePairsConfig,
    RankConfig,
)
from tempo_ray.config.load import parse_args
from tempo_ray.errors import UserError
from tempo_ray.job import print_line, running, user_errors


def main(argv: list[str] | None = None) -> None:
    words = sys.argv[1:] if argv is None else argv
    command = words[0] if words else None
    with user_errors():
        if command == "explain":
            explain(words[1:])
        elif command == "export":
            export(words[1:])
        elif command == "rank":
            rank(words[1:])
        else:
            generate(words)


def generate(words: list[str]) -> None:
    config = parse_args(GeneratePairsConfig, __doc__, words, section="generate_pairs")
    with running("generate_pairs", config.run, config) as job:
        from tempo_ray.data.run.job import generate_pairs

        generate_pairs(config, job, print_line)


def explain(words: list[str]) -> None:
    pair_id, rest = _positional(words)
    config = parse_args(ExplainConfig, __doc__, rest)
    if pair_id is None:
        raise UserError("explain needs a PAIR_ID: tempo-ray generate-pairs explain PAIR_ID run=RUN")

    from tempo_ray.data.inspect.explain import explain

    print(explain(config.run, pair_id))


def export(words: list[str]) -> None:
    name, rest = _positional(words)
    config = parse_args(ExportConfig, __doc__, rest)
    formats: dict[str, ExportFormat] = {known: known for known in get_args(ExportFormat)}
    if name not in formats:
        raise UserError(
            f"export needs a format, one of {', '.join(formats)}: "
            "tempo-ray generate-pairs export trl run=RUN"
        )

    from tempo_ray.data.inspect.export import export

    file, pairs = export(config.run, formats[name])
    print(f"{pairs} pairs in {file}")


def rank(words: list[str]) -> None:
    config = parse_args(RankConfig, __doc__, words)

    from tempo_ray.data.inspect.rank import rank

    print(rank(config.run))


def _positional(words: list[str]) -> tuple[str | None, list[str]]:
    """The first word if it is neither an option nor key=value, and the rest."""
    if words and "=" not in words[0] and not words[0].startswith("-"):
        return words[0], words[1:]
    return None, words
