"""Ask models at an endpoint questions about videos, and score them; or compare two files of scores.

    python jobs/evaluate.py run=runs/one models='[base, tempo]' questions=data/test/questions.jsonl
    python jobs/evaluate.py --config jobs/configs/evaluate.yaml endpoint=http://127.0.0.1:8000/v1
    python jobs/evaluate.py compare runs/one/scores/base.parquet runs/one/scores/tempo.parquet

Writes scores/MODEL.parquet, one row a question, and summary/evaluate.json. With two models or more, each is compared with
the first on the same questions: difference, 95% bootstrap interval over videos, McNemar's exact p. The endpoint's token, if
it wants one, is read from the environment variable TEMPO_RAY_TOKEN.
"""

import asyncio
import hashlib
import os
import sys
import time
from pathlib import Path
from typing import Any

from tempo_ray.arguments import parse_args
from tempo_ray.config import EvaluateConfig
from tempo_ray.job import BadInput, running
from tempo_ray.paths import RunPaths


def main() -> None:
    words = sys.argv[1:]
    if words[:1] == ["compare"]:
        compare_files(words[1:])
        return
    config = parse_args(EvaluateConfig, __doc__, section="evaluate")
    with running("evaluate", config.run, config) as counts:
        evaluate(config, counts)


def evaluate(config: EvaluateConfig, counts: dict[str, Any]) -> None:
    from tempo_ray.evaluate.client import Endpoint, NoEndpoint, ask_all, served_models
    from tempo_ray.evaluate.order import text_table
    from tempo_ray.evaluate.scores import Asked, score, write_scores
    from tempo_ray.evaluate.tasks.shapeworld import BadQuestions, read_questions

    try:
        questions = read_questions(config.questions, config.limit)
        digest = hashlib.sha256(Path(config.questions).read_bytes()).hexdigest()
    except (BadQuestions, OSError, UnicodeDecodeError) as error:
        raise BadInput(f"questions: {error}") from None
    token = os.environ.get("TEMPO_RAY_TOKEN") or None
    endpoint = Endpoint(
        config.endpoint, token, config.max_tokens, config.timeout_s, config.concurrency
    )
    try:
        served = asyncio.run(served_models(endpoint))
    except NoEndpoint as error:
        raise BadInput(str(error)) from None
    if missing := [model for model in config.models if model not in served]:
        raise BadInput(
            f"{config.endpoint} does not serve {missing[0]}; it serves {', '.join(served)}"
        )

    tables = {}
    for model in config.models:
        began = time.monotonic()
        replies = asyncio.run(ask_all(endpoint, model, questions))
        seconds = time.monotonic() - began
        tables[model] = score(Asked(model, endpoint, served[model], digest), questions, replies)
        write_scores(tables[model], RunPaths(config.run).scores(model), config.hash())
        print(f"\n{model}: {len(questions)} questions in {seconds:.1f} s")
        print(text_table(summarise(model, tables[model], seconds, counts)))
        report_unanswered(model, replies)
    compare_models(config, tables, counts)


def summarise(
    model: str, scores: Any, seconds: float, counts: dict[str, Any]
) -> dict[str, dict[str, Any]]:
    """The model's table, and the counts of it."""
    from tempo_ray.evaluate.order import table

    rows = table(scores)
    counts.setdefault("models", {})[model] = {"seconds": round(seconds, 1), "groups": rows}
    for name in ("order", "other"):
        if name in rows:
            group = counts.setdefault("accuracy", {}).setdefault(
                name, {"questions": rows[name]["questions"]}
            )
            group |= {"chance": rows[name]["chance"], model: rows[name]["value"]}
    return rows


def report_unanswered(model: str, replies: list[Any]) -> None:
    reasons = [reply.error for reply in replies if reply.error is not None]
    if len(reasons) == len(replies):
        raise BadInput(f"{model} answered no question; the first reason: {reasons[0]}")
    if reasons:
        print(
            f"{len(reasons)} questions were not answered and count as wrong; the first reason: {reasons[0]}"
        )


def compare_models(config: EvaluateConfig, tables: dict[str, Any], counts: dict[str, Any]) -> None:
    """Each model with the first. With two models, the difference stands in `accuracy` too."""
    from tempo_ray.evaluate.order import compare_table, text_comparison

    first, *others = config.models
    for model in others:
        rows = compare_table(tables[first], tables[model], config.resamples, config.seed)
        counts.setdefault("compared", {})[model] = rows
        print(f"\n{model} compared with {first}, on the same questions")
        print(text_comparison(rows, first, model))
        if len(others) == 1:
            for name in counts["accuracy"]:
                counts["accuracy"][name] |= {
                    key: rows[name][key] for key in ("difference", "low", "high", "p")
                }


def compare_files(files: list[str]) -> None:
    """`compare A.parquet B.parquet`"""
    if len(files) != 2:
        print(
            "compare takes two score files: python jobs/evaluate.py compare A.parquet B.parquet",
            file=sys.stderr,
        )
        raise SystemExit(2)
    from tempo_ray.evaluate.order import compare_table, text_comparison
    from tempo_ray.evaluate.scores import NotScores, read_scores

    try:
        first, second = (read_scores(file) for file in files)
        settings = EvaluateConfig.model_fields
        rows = compare_table(first, second, settings["resamples"].default, settings["seed"].default)
    except (NotScores, OSError) as error:
        print(error, file=sys.stderr)
        raise SystemExit(2) from None
    names = [table["model"][0].as_py() for table in (first, second)]
    print(f"{files[1]} compared with {files[0]}")
    print(text_comparison(rows, *(names if names[0] != names[1] else ["first", "second"])))


if __name__ == "__main__":
    main()
