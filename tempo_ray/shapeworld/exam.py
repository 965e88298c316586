"""A tiny model's folder -> its held-out evaluation, answered through vLLM.

Tested in tests/shapeworld/test_exam.py and tests/integration/test_models.py.
"""

import itertools
import re
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from tempo_ray.config import EngineConfig, SamplingConfig
from tempo_ray.data.prompts import read_caption
from tempo_ray.models.engine import Engine, Request, completions
from tempo_ray.models.vlm import load_model_config
from tempo_ray.shapeworld.language import LETTERS
from tempo_ray.shapeworld.record import ClipAccuracy, Examination, Retelling, SampledRetelling
from tempo_ray.shapeworld.story import COLORS, SHAPES
from tempo_ray.shapeworld.tasks import ASK, Example, Exchange, Medium, Tasks, random_story

ENGINE = EngineConfig(
    dtype="float32",
    max_model_len=2048,
    max_num_seqs=64,
    kv_cache_bytes=300_000_000,
    enforce_eager=True,
    in_process=True,
)
MAX_TOKENS = 200
MEDIA: tuple[Medium, ...] = ("words", "clips", "video")
EVENTS = (4, 12)
"""Fewest and most events of a story."""
GREEDY = SamplingConfig(temperature=0.0, repetition_penalty=1.0)
SAMPLED = SamplingConfig()
_EVENT = re.compile(rf"an? ((?:{'|'.join(COLORS)}) (?:{'|'.join(SHAPES)}) [a-z ]+?)(?=[.,;]|$)")


def examine(folder: Path, stories: int = 200, seed: int = 0) -> Examination:
    """Each figure on `stories` held-out examples of 4 to 12 events, answered greedily, and
    descriptions of whole videos sampled as well."""
    model_type: str = load_model_config(str(folder)).model_type
    tasks = Tasks(model_type, "heldout", shuffled_share=0.0)
    with closing(Engine(str(folder), ENGINE, SAMPLED)) as engine:
        sampled = _Examiner(engine, tasks, stories, seed).retelling("video")
    with closing(Engine(str(folder), ENGINE, GREEDY)) as engine:
        examiner = _Examiner(engine, tasks, stories, seed)
        replies = {medium: examiner.questions(medium) for medium in MEDIA}
        return Examination(
            stories=stories,
            first_clip=examiner.clip_accuracy(Tasks.first_clip),
            next_clip=examiner.clip_accuracy(Tasks.next_clip),
            retelling={medium: examiner.retelling(medium) for medium in MEDIA},
            sampled_description=SampledRetelling(
                **asdict(sampled), temperature=SAMPLED.temperature
            ),
            questions={medium: _by_kind(replies[medium], _is_right) for medium in MEDIA},
            blind=_by_kind(replies["words"], lambda reply: 1 / len(_allowed(reply.exchange))),
            valid=_mean(
                [
                    reply.text in _allowed(reply.exchange)
                    for medium in MEDIA
                    for reply in replies[medium]
                ]
            ),
        )


@dataclass(frozen=True)
class _Reply:
    exchange: Exchange
    text: str


def _is_right(reply: _Reply) -> bool:
    return reply.text == reply.exchange.answer


def _allowed(exchange: Exchange) -> Sequence[str]:
    """What may be answered: the letters of the options, or yes or no."""
    letters = [letter for letter in LETTERS if f"\n{letter}. " in exchange.text]
    return letters or ("yes", "no")


def _mean(shares: Sequence[float]) -> float:
    return round(float(np.mean(shares)), 4)


def _by_kind(replies: Sequence[_Reply], figure: Callable[[_Reply], float]) -> dict[str, float]:
    kinds = dict.fromkeys(reply.exchange.kind for reply in replies)
    return {
        kind: _mean([figure(reply) for reply in replies if reply.exchange.kind == kind])
        for kind in kinds
    }


@dataclass(frozen=True)
class _Examiner:
    """A model in an engine, and the examples that it is given."""

    engine: Engine
    tasks: Tasks
    stories: int
    seed: int

    def clip_accuracy(self, task: Callable[[Tasks, np.random.Generator], Example]) -> ClipAccuracy:
        rng = np.random.default_rng(self.seed)
        replies = self._replies([task(self.tasks, rng) for _ in range(self.stories)])
        rows = [_attributes(read_caption(reply.text), reply.exchange.answer) for reply in replies]
        return ClipAccuracy(*np.mean(rows, axis=0).round(4).tolist())

    def retelling(self, medium: Medium) -> Retelling:
        replies = self._replies(self._about_stories(medium, ["retelling"]))
        return compare(
            [(events_in(reply.text), events_in(reply.exchange.answer)) for reply in replies]
        )

    def questions(self, medium: Medium) -> list[_Reply]:
        """Replies to a question of each kind about each story."""
        return self._replies(self._about_stories(medium, [*ASK, "content"]))

    def _about_stories(self, medium: Medium, kinds: Sequence[str]) -> list[Example]:
        rng = np.random.default_rng(self.seed)
        stories = [random_story(rng, self.tasks.split, *EVENTS) for _ in range(self.stories)]
        return [self.tasks.about(story, medium, kinds, rng) for story in stories]

    def _replies(self, examples: Sequence[Example]) -> list[_Reply]:
        asked = [(example, exchange) for example in examples for exchange in example.exchanges]
        requests = [
            Request((*example.shown, exchange.text), example.videos, MAX_TOKENS, number)
            for number, (example, exchange) in enumerate(asked)
        ]
        answers = completions(self.engine.generate(requests))
        return [
            _Reply(exchange, answer.text)
            for (_, exchange), answer in zip(asked, answers, strict=True)
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
