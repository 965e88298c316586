"""Which jobs a study runs, when, and what it does after one fails. The jobs are doubles that write
what theirs would; the real ones have their own tests."""

import json
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tempo_ray.config import StudyConfig
from tempo_ray.errors import UserError
from tempo_ray.evaluate.scores import write_scores
from tempo_ray.job import Log
from tempo_ray.processes import JobFailed, Jobs
from tempo_ray.study.plan import StudyPlan, make_plan
from tempo_ray.study.run import read_all_scores, run_study
from tests.study.test_table import score

FILES = {
    "make-shapeworld": "instructions.jsonl",
    "generate-pairs": "summary/generate_pairs.json",
    "train": "summary/train.json",
}


class Recorded(Jobs):
    """Records the jobs; the one whose number is `fails` ends with an error."""

    def __init__(self, fails: int | None = None) -> None:
        self.ran: list[str] = []
        self.served: list[str] = []
        self.fails = fails
        self.at_once = self.most_at_once = 0
        self.lock = threading.Lock()

    def run(self, name: str, words: Sequence[str], log: Log | None = None) -> None:
        with self.lock:
            self.ran.append(name)
            number = len(self.ran)
            self.at_once += 1
            self.most_at_once = max(self.most_at_once, self.at_once)
        time.sleep(0.01)
        with self.lock:
            self.at_once -= 1
        keys = dict(word.split("=", 1) for word in words)
        folder = Path(keys.get("run") or keys["output"])
        if name == "evaluate":
            model = keys["models"].strip("[]")
            file = folder / "scores" / f"{model}.parquet"
            file.parent.mkdir(parents=True, exist_ok=True)
            write_scores([score(0, number, True) for number in range(8)], str(file), "hash")
            return
        if number == self.fails:
            raise JobFailed("it failed")
        file = folder / FILES[name]
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps({"status": "done"}))

    @contextmanager
    def serving(self, words: Sequence[str]) -> Iterator[str]:
        self.served.append(words[0])
        yield "http://endpoint/v1"


def study(tmp_path: Path, **keys: Any) -> tuple[StudyConfig, StudyPlan]:
    arms = {
        "sft": {"train": {"recipe": "sft"}},
        "tempo": {},
        "align": {"train": {"recipe": "align"}},
    }
    values = {"run": tmp_path, "baseline": "sft", "seeds": (0, 1), "arms": arms} | keys
    values["run"] = str(tmp_path)
    config = StudyConfig.model_validate(values)
    return config, make_plan(config)


def discard(line: str) -> None: ...


def test_every_job_runs_once_and_every_model_is_asked(tmp_path: Path) -> None:
    config, plan = study(tmp_path, at_once=2)
    jobs = Recorded()
    run_study(config, plan, jobs, discard)
    counts = {name: jobs.ran.count(name) for name in (*FILES, "evaluate")}
    assert counts == {"make-shapeworld": 4, "generate-pairs": 2, "train": 6, "evaluate": 6}
    assert jobs.most_at_once == 2
    assert len(jobs.served) == 2, "one endpoint per seed, whose models are asked the same"
    assert len(read_all_scores(plan)) == 6
    again = Recorded()
    run_study(config, plan, again, discard)
    assert (again.ran, again.served) == ([], [])


def test_few_models_are_served_at_a_time(tmp_path: Path) -> None:
    config, plan = study(tmp_path, served_at_once=2)
    jobs = Recorded()
    run_study(config, plan, jobs, discard)
    assert len(jobs.served) == 4


def test_a_failed_job_ends_it_and_the_same_command_resumes(tmp_path: Path) -> None:
    config, plan = study(tmp_path)
    jobs = Recorded(fails=5)
    with pytest.raises(JobFailed):
        run_study(config, plan, jobs, discard)
    assert len(jobs.ran) == 5
    with pytest.raises(UserError, match="no scores of arm sft, seed 0; "):
        read_all_scores(plan)
    resumed = Recorded()
    run_study(config, plan, resumed, discard)
    assert len(resumed.ran) == 12 - 4 + 6
    assert len(read_all_scores(plan)) == 6


def test_a_job_that_did_not_end_well_is_not_done(tmp_path: Path) -> None:
    config, plan = study(tmp_path)
    run_study(config, plan, Recorded(), discard)
    summary = Path(plan.trained[0].folder, "summary", "train.json")
    summary.write_text(json.dumps({"status": "failed"}))
    jobs = Recorded()
    run_study(config, plan, jobs, discard)
    assert jobs.ran == ["train"]


def test_more_jobs_than_memory_are_refused(tmp_path: Path) -> None:
    config, plan = study(tmp_path, at_once=10_000)
    with pytest.raises(UserError, match="lower at_once"):
        run_study(config, plan, Recorded(), discard)
