"""Videos -> preference pairs: select by shots, ask the model for clean and perturbed answers, keep the good pairs.

python jobs/generate_pairs.py --config jobs/configs/embedded.yaml run=runs/try videos.input=my/videos
ray job submit --working-dir . -- python jobs/generate_pairs.py --config CONFIG run=s3://bucket/run videos.input=s3://bucket/videos

Of a run that has pairs:
python jobs/generate_pairs.py explain PAIR_ID run=runs/try       everything behind one pair
python jobs/generate_pairs.py export FORMAT run=runs/try         for trl, ms_swift or llama_factory
python jobs/generate_pairs.py rank run=runs/try                  how rich in time the videos are, and what keeps which share
"""

import sys
from typing import Any, get_args

from tempo_ray.arguments import parse_args
from tempo_ray.config import (
    ExplainConfig,
    ExportConfig,
    ExportFormat,
    GeneratePairsConfig,
    RankConfig,
)


def refuse(message: str) -> None:
    print(message, file=sys.stderr)
    raise SystemExit(2)


def first(words: list[str]) -> tuple[Any, list[str]]:
    """The word that is no option and no key=value, if it comes first; and the others."""
    return (
        (words[0], words[1:])
        if words and "=" not in words[0] and not words[0].startswith("-")
        else (None, words)
    )


def explain(words: list[str]) -> None:
    pair_id, rest = first(words)
    config = parse_args(ExplainConfig, __doc__, rest)
    if pair_id is None:
        return refuse(
            "explain needs a PAIR_ID: python jobs/generate_pairs.py explain PAIR_ID run=RUN"
        )

    from tempo_ray.data.explain import UnknownPair
    from tempo_ray.data.explain import explain as told

    try:
        print(told(config.run, pair_id))
    except UnknownPair as mistake:
        refuse(str(mistake))


def export(words: list[str]) -> None:
    formats = get_args(ExportFormat)
    form, rest = first(words)
    config = parse_args(ExportConfig, __doc__, rest)
    if form not in formats:
        return refuse(
            f"export needs a format, one of {', '.join(formats)}: python jobs/generate_pairs.py export trl run=RUN"
        )

    from tempo_ray.data.export import NoPairs
    from tempo_ray.data.export import export as write

    try:
        file, lines = write(config.run, form)
    except NoPairs as mistake:
        refuse(str(mistake))
    print(f"{lines} pairs in {file}")


def rank(words: list[str]) -> None:
    config = parse_args(RankConfig, __doc__, words)

    from tempo_ray.data.rank import NoAnswers
    from tempo_ray.data.rank import rank as table

    try:
        print(table(config.run))
    except NoAnswers as mistake:
        refuse(str(mistake))


def generate(words: list[str]) -> None:
    config = parse_args(GeneratePairsConfig, __doc__, words, section="generate_pairs")

    from tempo_ray import job

    with job.running("generate_pairs", config.run, config) as counts:
        from tempo_ray.data.cuts import NoDetector, check_detector
        from tempo_ray.data.settings import OtherSettings, check_settings
        from tempo_ray.data.videos import NoVideos, write_manifest
        from tempo_ray.models.check import NotAModel, check_model
        from tempo_ray.paths import RunPaths

        try:
            check_model(config.respond.model)
            check_detector(config.select.cuts)
            check_settings(config)
            counts["videos_in"] = write_manifest(
                config.videos, RunPaths(config.run).videos, config.hash()
            )
        except (NoVideos, NotAModel, NoDetector, OtherSettings) as mistake:
            raise job.BadInput(str(mistake)) from None

        from tempo_ray import cluster
        from tempo_ray.data import pipeline

        respond = config.respond
        if not respond.pool.gpus:
            needed = respond.pool.min_size * cluster.engine_bytes(respond.model, respond.engine)
            cluster.check_memory(
                config.ray, needed, "lower respond.pool.min_size or respond.engine.kv_cache_bytes"
            )
        cluster.connect(config.ray)
        pipeline.run(config, counts, lambda line: print(line, flush=True))
        print(
            f"videos in {counts['videos_in']} = kept {counts['kept']} + dropped {counts['dropped']} + failed {counts['failed']}; "
            f"answers {counts['answers']}; pairs {counts['pairs']}"
        )
        for reason, number in counts["reasons"].items():
            print(f"  {number:6d}  {reason}")
        for rule, number in counts["pairs_dropped"].items():
            print(f"  {number:6d}  pairs dropped by {rule}")
        if counts["to_try_again"]:
            print(
                f"{counts['to_try_again']} videos could not be read now; the same command tries them again"
            )
        print(f"everything lies in {config.run}")


def main() -> None:
    words = sys.argv[1:]
    others = {"explain": explain, "export": export, "rank": rank}
    if words and words[0] in others:
        others[words[0]](words[1:])
    else:
        generate(words)


if __name__ == "__main__":
    main()
