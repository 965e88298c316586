"""A tiny model's folder -> what it can and cannot do, on stories that it never saw, through vLLM."""

import itertools
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from tempo_ray.config import EngineConfig, SamplingConfig
from tempo_ray.data.prompts import read_caption
from tempo_ray.models.engine import Engine, Request, completions
from tempo_ray.models.vlm import load_model_config
from tempo_ray.shapeworld.pretrain import Example, Tasks
from tempo_ray.shapeworld.story import COLORS, SHAPES

ENGINE = EngineConfig(
    dtype="float32",
    max_model_len=2048,
    max_num_seqs=64,
    kv_cache_bytes=300_000_000,
    enforce_eager=True,
    in_process=True,
)
_EVENT = re.compile(rf"an? ((?:{'|'.join(COLORS)}) (?:{'|'.join(SHAPES)}) [a-z ]+?)(?=[.,;]|$)")


def events_in(text: str) -> list[str]:
    """The events that a text tells, without their articles, in the order of the telling."""
    return _EVENT.findall(text)


def pairs_in_order(told: Sequence[str], true: Sequence[str]) -> tuple[int, int]:
    """Of the pairs of true events that are both told: how many stand in the right order, and how many there are."""
    places = [told.index(event) for event in true if event in told]
    pairs = list(itertools.combinations(places, 2))
    return sum(one < other for one, other in pairs), len(pairs)


def _attributes(told: str, true: str) -> list[bool]:
    """colour, shape, deed of a clip caption."""
    said, is_so = (events_in(text) for text in (told, true))
    one, other = (said or [""])[0].split(" ", 2), is_so[0].split(" ", 2)
    return [len(one) == 3 and one[place] == other[place] for place in range(3)]


def examine(folder: Path, stories: int = 200, seed: int = 0) -> dict[str, Any]:
    """Shares from 0 to 1, each on `stories` held-out examples, answered greedily.

    Descriptions of whole videos are sampled too, as the pipeline samples them: where a model's captions are only weakly tied
    to time, its likeliest one may still be in order.
    """
    tasks = Tasks(load_model_config(str(folder)).model_type, "heldout", shuffled_share=0.0)
    greedy = Engine(str(folder), ENGINE, SamplingConfig(temperature=0.0, repetition_penalty=1.0))

    def asked(name: str, engine: Engine) -> tuple[list[Example], list[str]]:
        rng = np.random.default_rng(seed)
        examples = [getattr(tasks, name)(rng) for _ in range(stories)]
        requests = [
            Request(tuple(one.parts), tuple(one.videos), 160, number)
            for number, one in enumerate(examples)
        ]
        return examples, [done.text for done in completions(engine.generate(requests))]

    figures: dict[str, Any] = {"stories": stories}
    for name in ("first_clip", "next_clip"):
        examples, texts = asked(name, greedy)
        rows = [
            _attributes(read_caption(text), one.answer)
            for one, text in zip(examples, texts, strict=True)
        ]
        figures[name] = dict(
            zip(("colour", "shape", "deed"), np.mean(rows, axis=0).round(4).tolist(), strict=True)
        )
    for name in ("from_captions", "from_clips", "from_video"):
        figures[name] = _told(*asked(name, greedy))
    for name in ("text_question", "clips_question", "video_question", "content_question"):
        examples, texts = asked(name, greedy)
        figures[name] = round(
            float(np.mean([text == one.answer for one, text in zip(examples, texts, strict=True)])),
            4,
        )
    greedy.close()
    sampling = Engine(str(folder), ENGINE, SamplingConfig())
    figures["from_video_sampled"] = _told(*asked("from_video", sampling)) | {
        "temperature": SamplingConfig().temperature
    }
    sampling.close()
    return figures


def _told(examples: Sequence[Example], texts: Sequence[str]) -> dict[str, float]:
    """How many of the true events the texts name, how many pairs of them in the right order, and how many texts tell all."""
    told = [
        (events_in(text), events_in(one.answer)) for one, text in zip(examples, texts, strict=True)
    ]
    right, pairs = np.sum([pairs_in_order(said, true) for said, true in told], axis=0)
    return {
        "events_named": round(
            sum(len(set(said) & set(true)) for said, true in told)
            / sum(len(true) for _, true in told),
            4,
        ),
        "pairs_in_order": round(float(right / max(1, pairs)), 4),
        "all_events_in_order": round(float(np.mean([said == true for said, true in told])), 4),
    }
