"""A tiny model's folder -> its held-out evaluation, answered through vLLM.

Tested in tests/shapeworld/test_exam.py and tests/integration/test_models.py.
"""

import itertools
import re
from collections.abc import Sequence
from contextlib import closing
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from tempo_ray.config import EngineConfig, SamplingConfig
from tempo_ray.data.prompts import read_caption
from tempo_ray.models.engine import Engine, Request, completions
from tempo_ray.models.vlm import load_model_config
from tempo_ray.shapeworld.record import ClipAccuracy, Examination, Retelling, SampledRetelling
from tempo_ray.shapeworld.story import COLORS, SHAPES
from tempo_ray.shapeworld.tasks import TASKS, Example, Tasks

ENGINE = EngineConfig(
    dtype="float32",
    max_model_len=2048,
    max_num_seqs=64,
    kv_cache_bytes=300_000_000,
    enforce_eager=True,
    in_process=True,
)
MAX_TOKENS = 160
GREEDY = SamplingConfig(temperature=0.0, repetition_penalty=1.0)
SAMPLED = SamplingConfig()
_EVENT = re.compile(rf"an? ((?:{'|'.join(COLORS)}) (?:{'|'.join(SHAPES)}) [a-z ]+?)(?=[.,;]|$)")


def examine(folder: Path, stories: int = 200, seed: int = 0) -> Examination:
    """Each task on `stories` held-out examples, answered greedily.

    Descriptions of whole videos are also sampled, as the pipeline samples them: a model whose
    captions are only weakly tied to time may still put its likeliest one in order.
    """
    model_type: str = load_model_config(str(folder)).model_type
    tasks = Tasks(model_type, "heldout", shuffled_share=0.0)
    with closing(Engine(str(folder), ENGINE, SAMPLED)) as engine:
        sampled = _Examiner(engine, tasks, stories, seed).retelling("from_video")
    with closing(Engine(str(folder), ENGINE, GREEDY)) as engine:
        examiner = _Examiner(engine, tasks, stories, seed)
        return Examination(
            stories=stories,
            first_clip=examiner.clip_accuracy("first_clip"),
            next_clip=examiner.clip_accuracy("next_clip"),
            from_captions=examiner.retelling("from_captions"),
            from_clips=examiner.retelling("from_clips"),
            from_video=examiner.retelling("from_video"),
            text_question=examiner.accuracy("text_question"),
            clips_question=examiner.accuracy("clips_question"),
            video_question=examiner.accuracy("video_question"),
            content_question=examiner.accuracy("content_question"),
            from_video_sampled=SampledRetelling(**asdict(sampled), temperature=SAMPLED.temperature),
        )


@dataclass(frozen=True)
class _Reply:
    example: Example
    text: str


@dataclass(frozen=True)
class _Examiner:
    """A model in an engine, and the examples that it is given."""

    engine: Engine
    tasks: Tasks
    stories: int
    seed: int

    def clip_accuracy(self, task: str) -> ClipAccuracy:
        rows = [
            _attributes(read_caption(reply.text), reply.example.answer)
            for reply in self._replies(task)
        ]
        return ClipAccuracy(*np.mean(rows, axis=0).round(4).tolist())

    def retelling(self, task: str) -> Retelling:
        return compare(
            [
                (events_in(reply.text), events_in(reply.example.answer))
                for reply in self._replies(task)
            ]
        )

    def accuracy(self, task: str) -> float:
        """Share of the answers that are word for word right."""
        right = [reply.text == reply.example.answer for reply in self._replies(task)]
        return round(float(np.mean(right)), 4)

    def _replies(self, task: str) -> list[_Reply]:
        rng = np.random.default_rng(self.seed)
        examples = [TASKS[task](self.tasks, rng) for _ in range(self.stories)]
        requests = [
            Request(example.parts, example.videos, MAX_TOKENS, number)
            for number, example in enumerate(examples)
        ]
        answers = completions(self.engine.generate(requests))
        return [
            _Reply(example, answer.text) for example, answer in zip(examples, answers, strict=True)
        ]


def events_in(text: str) -> list[str]:
    """The events that a text tells, without their articles, in the order of the text."""
    return _EVENT.findall(text)


def pairs_in_order(named: Sequence[str], true: Sequence[str]) -> tuple[int, int]:
    """Of the pairs of true events that are both named: how many are in order, and how many there
    are."""
    places = [named.index(event) for event in true if event in named]
    pairs = list(itertools.combinations(places, 2))
    return sum(earlier < later for earlier, later in pairs), len(pairs)


def compare(captions: Sequence[tuple[Sequence[str], Sequence[str]]]) -> Retelling:
    """Per caption, the events that it names and the true ones -> figures over all captions."""
    recalled = sum(len(set(named) & set(true)) for named, true in captions)
    events = sum(len(true) for _, true in captions)
    right, pairs = np.sum([pairs_in_order(named, true) for named, true in captions], axis=0)
    exact = [list(named) == list(true) for named, true in captions]
    return Retelling(
        events_named=round(recalled / events, 4),
        pairs_in_order=round(float(right / max(1, pairs)), 4),
        all_events_in_order=round(float(np.mean(exact)), 4),
    )


def _attributes(caption: str, true_caption: str) -> list[bool]:
    """Whether a clip's caption has the colour, the shape and the deed right."""
    events = events_in(caption) or [""]
    words, true_words = events[0].split(" ", 2), events_in(true_caption)[0].split(" ", 2)
    return [len(words) == 3 and words[place] == true_words[place] for place in range(3)]
