"""A study's config -> the jobs that it takes, each once, and what each waits for.

What two arms have in common is one job: the folder of a job is named after all that decides what it
makes, so that arms with the same settings share it, and a second study in the same storage too.
"""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from tempo_ray.config import GeneratePairsConfig, StudyConfig, TrainConfig
from tempo_ray.config.base import flatten
from tempo_ray.config.load import load_config
from tempo_ray.config.study import ArmConfig
from tempo_ray.errors import UserError
from tempo_ray.paths import RunPaths
from tempo_ray.storage import join


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

    @property
    def model(self) -> str:
        return RunPaths(self.folder).model


@dataclass(frozen=True)
class StudyPlan:
    steps: tuple[JobStep, ...]
    """In an order in which each comes after what it needs."""
    trained: tuple[Trained, ...]


@dataclass
class _Planner:
    config: StudyConfig
    steps: dict[str, JobStep] = field(default_factory=dict)

    def add(self, kind: str, facts: Any, step: "_Step") -> str:
        """The folder of a job that depends on `facts` alone; planned if it is not yet."""
        text = json.dumps([self.config.config, kind, facts], sort_keys=True)
        name = f"{step.job}-{hashlib.sha256(text.encode()).hexdigest()[:10]}"
        folder = join(self.config.storage or self.config.run, "runs", name)
        if folder not in self.steps:
            words = (*step.words, f"{step.output}={folder}")
            done = join(folder, step.done)
            self.steps[folder] = JobStep(step.job, folder, words, done, step.needs)
        return folder


@dataclass(frozen=True)
class _Step:
    job: str
    output: str
    """The key that takes the folder."""
    words: tuple[str, ...]
    done: str
    needs: tuple[str, ...] = ()


def make_plan(config: StudyConfig) -> StudyPlan:
    """Raises UserError, naming the arm, where a job would refuse its keys."""
    for name, arm in config.arms.items():
        _check_keys(config, name, arm)
    planner = _Planner(config)
    trained = []
    for seed in config.seeds:
        for name, arm in config.arms.items():
            videos, instructions, questions, needs = _data(planner, arm, seed)
            folder = _train(planner, arm, seed, videos, instructions, needs)
            trained.append(Trained(name, seed, folder, questions))
    return StudyPlan(tuple(planner.steps.values()), tuple(trained))


def _check_keys(config: StudyConfig, name: str, arm: ArmConfig) -> None:
    file = config.config
    try:
        for number, source in enumerate(arm.pairs):
            where = f"arms.{name}.pairs[{number}]"
            words = [*words_of(source), "run=/r", "videos.input=/v"]
            load_config(GeneratePairsConfig, file, words, section="generate_pairs")
        where = f"arms.{name}.train"
        load_config(
            TrainConfig, file, [*words_of(arm.train), "run=/r", "sft.data=/s"], section="train"
        )
    except UserError as error:
        raise UserError(f"{where}: {error}") from error


def words_of(keys: dict[str, Any]) -> list[str]:
    """Nested keys -> `key=value` words, whose values are JSON, and so YAML."""
    return [f"{key}={json.dumps(value)}" for key, value in flatten(keys).items()]


def _data(planner: _Planner, arm: ArmConfig, seed: int) -> tuple[str, str, str, tuple[str, ...]]:
    """Videos, instructions, questions, and the folders of the jobs that draw them."""
    given, drawn = planner.config.given, planner.config.drawn
    if given is not None:
        return given.videos, given.instructions, given.questions, ()
    world = drawn.world.model_dump(mode="json")

    def draw(split: str, videos: int, order_share: float) -> str:
        keys = {"split": split, "videos": videos, "seed": seed, "world": world}
        # two corpora of one seed differ in their instructions alone
        keys["order_share"] = order_share
        words = tuple(words_of(keys))
        step = _Step("make-shapeworld", "output", words, "instructions.jsonl")
        return planner.add("corpus", keys, step)

    videos = draw("train", drawn.train_videos, 0.0)
    instructions = draw("train", drawn.train_videos, arm.order_share)
    test = draw("test", drawn.test_videos, 0.0)
    needs = tuple(dict.fromkeys((videos, instructions, test)))
    return (
        join(videos, "videos"),
        join(instructions, "instructions.jsonl"),
        join(test, "questions.jsonl"),
        needs,
    )


def _train(
    planner: _Planner,
    arm: ArmConfig,
    seed: int,
    videos: str,
    instructions: str,
    needs: Sequence[str],
) -> str:
    words = [*words_of(arm.train), f"seed={seed}", f"sft.data={instructions}"]
    sources: list[str] = []
    if arm.train.get("recipe") != "sft":
        sources = [_pairs(planner, source, seed, videos, needs) for source in arm.pairs]
        folders = [RunPaths(source).pairs for source in sources]
        words.append(f"pairs={json.dumps(folders if len(folders) > 1 else folders[0])}")
    facts = [flatten(arm.train), seed, instructions, sources]
    step = _Step("train", "run", tuple(words), "summary/train.json", (*needs, *sources))
    return planner.add("train", facts, step)


def _pairs(
    planner: _Planner, source: dict[str, Any], seed: int, videos: str, needs: Sequence[str]
) -> str:
    words = (*words_of(source), f"seed={seed}", f"videos.input={videos}")
    facts = [flatten(source), seed, videos]
    step = _Step("generate-pairs", "run", words, "summary/generate_pairs.json", tuple(needs))
    return planner.add("pairs", facts, step)
