"""A study's plan -> its jobs, run where they are not done yet -> scores of every arm and seed."""

import json
from collections.abc import Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait

import psutil

from tempo_ray.config import StudyConfig
from tempo_ray.errors import UserError
from tempo_ray.evaluate.scores import read_scores
from tempo_ray.job import Log
from tempo_ray.processes import JobFailed, Jobs, free_port
from tempo_ray.records import Score
from tempo_ray.storage import exists, read_bytes
from tempo_ray.study.plan import JobStep, StudyPlan, Trained

JOB_BYTES = 5e9
"""Memory of one job on one machine: its engine or its workers, and Ray."""


def run_study(config: StudyConfig, plan: StudyPlan, jobs: Jobs, log: Log) -> None:
    """Runs what is not done. Raises JobFailed after the jobs that run beside the one that failed
    have ended; the same call resumes."""
    _check_memory(config)
    todo = [step for step in plan.steps if not is_done(step)]
    log(f"{len(plan.steps)} jobs, {len(plan.steps) - len(todo)} of them done already")
    _run_steps(todo, config.at_once, jobs, log)
    unanswered = [trained for trained in plan.trained if not exists(trained.scores)]
    for batch in _batches(unanswered, config.served_at_once):
        _ask(batch, jobs, log)


def _check_memory(config: StudyConfig) -> None:
    available = psutil.virtual_memory().available
    if config.storage is None and config.at_once > 1 and available < config.at_once * JOB_BYTES:
        raise UserError(
            f"at_once={config.at_once} needs some {config.at_once * JOB_BYTES / 1e9:.0f} GB of "
            f"memory, and {available / 1e9:.0f} GB are free: lower at_once"
        )


def is_done(step: JobStep) -> bool:
    if not exists(step.done):
        return False
    if not step.done.endswith(".json"):
        return True
    summary = json.loads(read_bytes(step.done))
    return bool(summary["status"] == "done")


def _run_steps(todo: Sequence[JobStep], at_once: int, jobs: Jobs, log: Log) -> None:
    """Each step once all that it needs is done, `at_once` at a time."""
    waiting = list(todo)
    running: dict[Future[None], JobStep] = {}
    failures: list[JobFailed] = []

    def start_ready(pool: ThreadPoolExecutor) -> None:
        unfinished = {step.folder for step in (*waiting, *running.values())}
        for step in list(waiting):
            if len(running) < at_once and not unfinished & set(step.needs):
                waiting.remove(step)
                number = len(todo) - len(waiting)
                log(f"[{number}/{len(todo)}] {step.job} in {step.folder}")
                running[pool.submit(jobs.run, step.job, step.words)] = step

    with ThreadPoolExecutor(at_once) as pool:
        start_ready(pool)
        while running:
            for future in wait(running, return_when=FIRST_COMPLETED).done:
                del running[future]
                error = future.exception()
                if isinstance(error, JobFailed):
                    failures.append(error)
                elif error is not None:
                    raise error
            if not failures:
                start_ready(pool)
    if failures:
        raise failures[0]


def _batches(trained: Sequence[Trained], size: int) -> list[list[Trained]]:
    """Models that are asked the same questions, at most `size` at a time."""
    by_questions: dict[str, list[Trained]] = {}
    for model in trained:
        by_questions.setdefault(model.questions, []).append(model)
    return [
        models[start : start + size]
        for models in by_questions.values()
        for start in range(0, len(models), size)
    ]


def _ask(batch: Sequence[Trained], jobs: Jobs, log: Log) -> None:
    """Serves the models of a batch side by side and writes their scores."""
    log(f"asks {len(batch)} models {batch[0].questions}")
    served = ", ".join(
        f"{{name: {trained.served_name}, path: {json.dumps(trained.model)}}}" for trained in batch
    )
    with jobs.serving([f"models=[{served}]", f"port={free_port()}"]) as url:
        for trained in batch:
            words = [f"endpoint={url}", f"models=[{trained.served_name}]"]
            words += [f"questions={trained.questions}", f"run={trained.scores_folder}"]
            jobs.run("evaluate", words)


def read_all_scores(plan: StudyPlan) -> dict[tuple[str, int], list[Score]]:
    """(arm, seed) -> scores. Raises UserError where one is missing."""
    missing = [
        f"arm {trained.arm}, seed {trained.seed}"
        for trained in plan.trained
        if not exists(trained.scores)
    ]
    if missing:
        raise UserError(
            f"no scores of {'; '.join(missing)}: run the same command again to finish the study"
        )
    return {(trained.arm, trained.seed): read_scores(trained.scores) for trained in plan.trained}
