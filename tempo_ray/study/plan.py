"""A study's config -> the jobs that it takes, each once, and what each waits for.

What two arms have in common is one job: the folder of a job is named after its resolved config, so
that arms with the same settings share it, and a second study in the same storage too.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from tempo_ray.config import (
    EvaluateConfig,
    GeneratePairsConfig,
    MakeShapeworldConfig,
    ServeConfig,
    StudyConfig,
    TrainConfig,
)
from tempo_ray.config.base import Config, flatten
from tempo_ray.config.load import load_config
from tempo_ray.config.study import ArmConfig
from tempo_ray.errors import UserError
from tempo_ray.paths import RunPaths
from tempo_ray.storage import join

CONFIGS: Mapping[str, type[Config]] = {
    "make-shapeworld": MakeShapeworldConfig,
    "generate-pairs": GeneratePairsConfig,
    "train": TrainConfig,
    "evaluate": EvaluateConfig,
    "serve": ServeConfig,
}


@dataclass(frozen=True)
class JobStep:
    """A job to run. It is done when the file `done` exists and, if it is a job's summary, says
    so."""

    job: str
    folder: str
    words: tuple[str, ...]
    done: str
    needs: tuple[str, ...] = ()
    """Folders of the jobs that must be done before."""


@dataclass(frozen=True)
class Trained:
    """The model of one arm and seed."""

    arm: str
    seed: int
    folder: str
    """The run that trains it."""
    questions: str
    scores_folder: str
    """The run that asks it."""

    @property
    def model(self) -> str:
        return RunPaths(self.folder).model

    @property
    def served_name(self) -> str:
        """The folder's name, which no other model of the study has."""
        return self.folder.rsplit("/", 1)[-1]

    @property
    def scores(self) -> str:
        return RunPaths(self.scores_folder).scores(self.served_name)


@dataclass(frozen=True)
class StudyPlan:
    steps: tuple[JobStep, ...]
    """In an order in which each comes after what it needs."""
    trained: tuple[Trained, ...]


@dataclass
class _Planner:
    config: StudyConfig
    steps: dict[str, JobStep] = field(default_factory=dict)

    def resolve(self, job: str, words: Sequence[str]) -> dict[str, Any]:
        """The config that the job would run with. Raises UserError."""
        file = None if job == "make-shapeworld" else self.config.config
        section = job.replace("-", "_")
        return load_config(CONFIGS[job], file, list(words), section).model_dump(mode="json")

    def folder(self, job: str, *configs: dict[str, Any]) -> str:
        text = json.dumps([job, *configs], sort_keys=True)
        name = f"{job}-{hashlib.sha256(text.encode()).hexdigest()[:10]}"
        return join(self.config.storage or self.config.run, "runs", name)

    def add(self, job: str, words: Sequence[str], needs: Sequence[str] = ()) -> str:
        """The folder of a job; plans it if it is not planned yet. Raises UserError."""
        output = "output" if job == "make-shapeworld" else "run"
        folder = self.folder(job, self.resolve(job, [*words, f"{output}=/nowhere"]))
        done = join(folder, "instructions.jsonl")
        if output == "run":
            done = RunPaths(folder).summary(job.replace("-", "_"))
        step = JobStep(job, folder, (*words, f"{output}={folder}"), done, tuple(needs))
        self.steps.setdefault(folder, step)
        return folder


def make_plan(config: StudyConfig) -> StudyPlan:
    """Raises UserError, naming the arm, where a job would refuse its keys or two arms are the
    same."""
    planner = _Planner(config)
    trained = []
    for seed in config.seeds:
        arms: dict[str, str] = {}
        for name, arm in config.arms.items():
            try:
                trained.append(_plan_arm(planner, name, arm, seed))
            except UserError as error:
                raise UserError(f"arms.{name}: {error}") from error
            same = arms.setdefault(trained[-1].folder, name)
            if same != name:
                raise UserError(f"arms {same} and {name} are the same: remove one of them")
    return StudyPlan(tuple(planner.steps.values()), tuple(trained))


def words_of(keys: dict[str, Any]) -> list[str]:
    """Nested keys -> `key=value` words, whose values are JSON, and so YAML."""
    return [f"{key}={json.dumps(value)}" for key, value in flatten(keys).items()]


def _plan_arm(planner: _Planner, name: str, arm: ArmConfig, seed: int) -> Trained:
    videos, instructions, questions, needs = _data(planner, arm, seed)
    words = [*words_of(arm.train), f"seed={seed}", f"sft.data={instructions}"]
    resolved = planner.resolve("train", [*words, "run=/nowhere"])
    sources: list[str] = []
    if resolved["recipe"] != "sft":
        for keys in arm.pairs:
            of_pairs = [*words_of(keys), f"seed={seed}", f"videos.input={videos}"]
            sources.append(planner.add("generate-pairs", of_pairs, needs))
        words.append(f"pairs={json.dumps([RunPaths(source).pairs for source in sources])}")
    folder = planner.add("train", words, (*needs, *sources))
    asked = planner.resolve(
        "evaluate", [f"questions={questions}", "run=/nowhere", "models=[model]"]
    )
    served = planner.resolve("serve", [f"models=[{{name: model, path: {json.dumps(folder)}}}]"])
    return Trained(name, seed, folder, questions, planner.folder("evaluate", asked, served))


def _data(planner: _Planner, arm: ArmConfig, seed: int) -> tuple[str, str, str, tuple[str, ...]]:
    """Videos, instructions, questions, and the folders of the jobs that draw them."""
    given, drawn = planner.config.given, planner.config.drawn
    if given is not None:
        return given.videos, given.instructions, given.questions, ()
    world = drawn.world.model_dump(mode="json")

    def draw(split: str, videos: int, order_share: float) -> str:
        keys = {"split": split, "videos": videos, "seed": seed, "world": world}
        return planner.add("make-shapeworld", words_of(keys | {"order_share": order_share}))

    # corpora of one seed and split differ in their instructions alone
    videos = draw("train", drawn.train_videos, 0.0)
    instructions = draw("train", drawn.train_videos, arm.order_share)
    test = draw("test", drawn.test_videos, 0.0)
    return (
        join(videos, "videos"),
        join(instructions, "instructions.jsonl"),
        join(test, "questions.jsonl"),
        tuple(dict.fromkeys((videos, instructions, test))),
    )
