"""An evaluate config -> the scores of every model, and their comparison with the first."""

import asyncio
import hashlib
import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace

from tempo_ray.config import EvaluateConfig
from tempo_ray.config.serve import TOKEN_VARIABLE
from tempo_ray.errors import UserError
from tempo_ray.evaluate.breakdown import (
    accuracies,
    accuracy_table,
    comparison_table,
    comparisons,
)
from tempo_ray.evaluate.client import Endpoint, Reply, ask_all, served_models
from tempo_ray.evaluate.scores import Provenance, read_scores, score_replies, write_scores
from tempo_ray.evaluate.task import load_questions
from tempo_ray.evaluate.tasks import TASKS
from tempo_ray.job import Job, Log
from tempo_ray.paths import RunPaths
from tempo_ray.records import EvaluateSummary, ModelScores, Score
from tempo_ray.storage import absolute, read_bytes


def evaluate(config: EvaluateConfig, job: Job, log: Log) -> None:
    """Asks every model every question; writes and logs their scores.

    `job.summary` grows model by model. Raises UserError where the questions cannot be asked, the
    endpoint does not answer or does not serve a model, or a model answers no question.
    """
    task = TASKS[config.task]
    questions = load_questions(task, config.questions, config.limit)
    digest = hashlib.sha256(read_bytes(config.questions)).hexdigest()
    prompts = [task.prompt(question) for question in questions]
    endpoint = Endpoint(
        url=config.endpoint,
        token=os.environ.get(TOKEN_VARIABLE) or None,
        max_tokens=config.max_tokens,
        timeout_s=config.timeout_s,
        concurrency=config.concurrency,
    )
    served = asyncio.run(served_models(endpoint))
    _check_served(config, served)

    summary = EvaluateSummary(task=config.task, models={})
    scores: dict[str, list[Score]] = {}
    for model in config.models:
        began = time.monotonic()
        replies = asyncio.run(ask_all(endpoint, model, prompts))
        seconds = time.monotonic() - began
        provenance = Provenance(model, endpoint, served[model], digest)
        scores[model] = score_replies(task, questions, replies, provenance)
        write_scores(scores[model], RunPaths(config.run).scores(model), config.hash())
        result = ModelScores(round(seconds, 1), accuracies(scores[model]))
        summary = replace(summary, models=summary.models | {model: result})
        job.summary = summary
        log(f"\n{model}: {len(questions)} questions in {seconds:.1f} s")
        log(accuracy_table(result.groups))
        _report_unanswered(model, replies, log)
    _compare(config, scores, job, summary, log)


def _check_served(config: EvaluateConfig, served: Mapping[str, str]) -> None:
    missing = [model for model in config.models if model not in served]
    if missing:
        raise UserError(
            f"{config.endpoint} does not serve {missing[0]}; it serves {', '.join(served)}"
        )


def _report_unanswered(model: str, replies: Sequence[Reply], log: Log) -> None:
    reasons = [reply.error for reply in replies if reply.error is not None]
    if len(reasons) == len(replies):
        raise UserError(f"{model} answered no question; the first reason: {reasons[0]}")
    if reasons:
        log(
            f"{len(reasons)} questions were not answered and count as wrong; "
            f"the first reason: {reasons[0]}"
        )


def _compare(
    config: EvaluateConfig,
    scores: Mapping[str, Sequence[Score]],
    job: Job,
    summary: EvaluateSummary,
    log: Log,
) -> None:
    """Each further model with the first."""
    first, *further = config.models
    for model in further:
        rows = comparisons(scores[first], scores[model], config.resamples, config.seed)
        summary = replace(summary, compared=summary.compared | {model: rows})
        job.summary = summary
        log(f"\n{model} compared with {first}, on the same questions")
        log(comparison_table(rows, first, model))


def compare_files(first: str, second: str) -> str:
    """Two score files -> the table of their paired differences, second minus first.

    Raises UserError where they are not scores of the same questions.
    """
    first_scores, second_scores = read_scores(absolute(first)), read_scores(absolute(second))
    defaults = EvaluateConfig.model_fields
    resamples, seed = defaults["resamples"].default, defaults["seed"].default
    rows = comparisons(first_scores, second_scores, resamples, seed)
    names = [first_scores[0].model, second_scores[0].model]
    if names[0] == names[1]:
        names = ["first", "second"]
    return f"{second} compared with {first}\n{comparison_table(rows, *names)}"
