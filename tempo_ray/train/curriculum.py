"""Pairs -> stages of examples; a stage's examples -> each rank's examples of every optimiser step.

Pure: the same for the same arguments.
"""

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np

from tempo_ray.config import CurriculumConfig
from tempo_ray.train.examples import Example, PromptPairs, VideoPairs
from tempo_ray.train.pairs import TrainingPair

AnyExample = TypeVar("AnyExample", bound=Example)
NamedPairs = tuple[str, list[TrainingPair]]
"""A stage's name, and its own pairs."""
Assignment = tuple[tuple[int, ...], ...]
"""For each rank, the indices of its examples in one optimiser step."""


@dataclass(frozen=True)
class Stage:
    """One stage of the curriculum."""

    name: str
    examples: tuple[VideoPairs, ...]
    order_lost: float | None
    """Mean share of the clean order that its pairs lost; the smaller, the harder."""
    identical: int = 0
    """Pairs left out because rejected equals chosen."""
    duplicated: int = 0
    """Pairs left out because their prompt already has this rejected answer."""
    replayed: int = 0
    """Pairs of earlier stages among its own."""

    @property
    def pairs(self) -> int:
        return sum(example.pairs for example in self.examples)

    @property
    def videos(self) -> int:
        return len({example.uri for example in self.examples})


def divide_pairs(pairs: Sequence[TrainingPair], config: CurriculumConfig) -> list[NamedPairs]:
    """The stages in the order of training, each with its own pairs."""
    if config.difficulty == "strength":
        parts = _by_strength(pairs, config.strengths)
    else:
        parts = _by_quantiles(pairs, config)
    if config.schedule == "mixed":
        return [("align-mixed", [pair for _, part in parts for pair in part])]
    return parts[::-1] if config.schedule == "hard_to_easy" else parts


def _by_strength(pairs: Sequence[TrainingPair], strengths: Iterable[int]) -> list[NamedPairs]:
    """Easiest first: a stage per nominal strength."""
    return [
        (f"align-{strength}", [pair for pair in pairs if pair.strength == strength])
        for strength in sorted(set(strengths), reverse=True)
    ]


def _by_quantiles(pairs: Sequence[TrainingPair], config: CurriculumConfig) -> list[NamedPairs]:
    """Easiest first: about as many pairs in each stage. Pairs of equal difficulty stay together;
    pairs without a measure are in no stage."""
    measured: list[tuple[TrainingPair, float]] = []
    for pair in pairs:
        distance = pair.order_lost if config.difficulty == "order" else pair.text_distance
        if distance is not None and not math.isnan(distance):
            measured.append((pair, float(distance)))
    if not measured:
        return []
    count = config.quantiles
    edges = np.quantile(
        [distance for _, distance in measured], [part / count for part in range(1, count)]
    )
    parts: list[list[TrainingPair]] = [[] for _ in range(count)]
    for pair, distance in measured:
        parts[count - 1 - int(np.searchsorted(edges, distance, side="right"))].append(pair)
    return [(f"align-q{number}", part) for number, part in enumerate(parts, 1)]


def make_stages(pairs: Sequence[TrainingPair], config: CurriculumConfig, seed: int) -> list[Stage]:
    """The curriculum, in the order of training.

    With `replay`, a stage also has pairs drawn from the stages before it, as many as that share of
    its own.
    """
    stages = []
    earlier: list[TrainingPair] = []
    for number, (name, part) in enumerate(divide_pairs(pairs, config)):
        count = min(len(earlier), round(config.replay * len(part)))
        drawn: list[int] = []
        if count:
            rng = np.random.default_rng((seed, number))
            drawn = sorted(rng.choice(len(earlier), count, replace=False).tolist())
        stages.append(make_stage(name, part, [earlier[index] for index in drawn]))
        earlier += part
    return stages


def make_stage(
    name: str, pairs: Sequence[TrainingPair], replayed: Sequence[TrainingPair] = ()
) -> Stage:
    """The pairs by video, in it by prompt and chosen answer, all in the order of the pairs."""
    rejected: dict[tuple[str, str, str], dict[str, None]] = {}
    left_out: Counter[str] = Counter()
    order_lost = []
    for pair in (*pairs, *replayed):
        if pair.rejected == pair.chosen:
            left_out["identical"] += 1
            continue
        answers = rejected.setdefault((pair.uri, pair.prompt, pair.chosen), {})
        if pair.rejected in answers:
            left_out["duplicated"] += 1
            continue
        answers[pair.rejected] = None
        if pair.order_lost is not None and not math.isnan(pair.order_lost):
            order_lost.append(pair.order_lost)
    videos: dict[str, list[PromptPairs]] = {}
    for (uri, prompt, chosen), answers in rejected.items():
        videos.setdefault(uri, []).append(PromptPairs(prompt, chosen, tuple(answers)))
    return Stage(
        name=name,
        examples=tuple(VideoPairs(uri, tuple(prompts)) for uri, prompts in videos.items()),
        order_lost=float(np.mean(order_lost)) if order_lost else None,
        identical=left_out["identical"],
        duplicated=left_out["duplicated"],
        replayed=len(replayed),
    )


def hold_out(
    examples: Sequence[AnyExample], share: float, seed: int
) -> tuple[list[AnyExample], list[AnyExample]]:
    """Examples to train on, and the held-out examples: those of about `share` of the videos, at
    least one. Raises ValueError where no video would be left to train on."""
    videos = sorted({example.uri for example in examples})
    count = max(1, round(share * len(videos)))
    if count >= len(videos):
        raise ValueError(f"{len(videos)} videos are too few to hold out {count}")
    drawn = np.random.default_rng((seed, 1)).choice(len(videos), count, replace=False)
    held_out = {videos[index] for index in drawn}
    return (
        [example for example in examples if example.uri not in held_out],
        [example for example in examples if example.uri in held_out],
    )


def assign_examples(
    sizes: Sequence[int], step_size: int, ranks: int, epochs: int, seed: int
) -> list[Assignment]:
    """The size of each example -> each rank's examples, step by step.

    A step takes whole examples while their sizes add up to at most `step_size` (a larger example is
    a step by itself) and assigns them so that all ranks have about as much; a rank may have none.
    """
    assignments = []
    for epoch in range(epochs):
        step: list[int] = []
        total = 0
        for index in np.random.default_rng((seed, epoch)).permutation(len(sizes)).tolist():
            if step and total + sizes[index] > step_size:
                assignments.append(_assign(step, sizes, ranks))
                step, total = [], 0
            step.append(index)
            total += sizes[index]
        if step:
            assignments.append(_assign(step, sizes, ranks))
    return assignments


def _assign(indices: Sequence[int], sizes: Sequence[int], ranks: int) -> Assignment:
    """Largest first, each to the rank that has least."""
    assigned: list[list[int]] = [[] for _ in range(ranks)]
    loads = [0] * ranks
    for index in sorted(indices, key=lambda index: -sizes[index]):
        rank = loads.index(min(loads))
        assigned[rank].append(index)
        loads[rank] += sizes[index]
    return tuple(tuple(examples) for examples in assigned)


def curriculum_table(stages: Sequence[Stage]) -> str:
    """Human-readable: what is trained, in which order."""
    header = ("pairs", "examples", "videos", "order lost", "replayed", "left out")
    lines = [_row("stage", *header)]
    for stage in stages:
        order_lost = "" if stage.order_lost is None else f"{stage.order_lost:.3f}"
        counts = (stage.pairs, len(stage.examples), stage.videos)
        left_out = stage.identical + stage.duplicated
        lines.append(_row(stage.name, *counts, order_lost, stage.replayed, left_out))
    return "\n".join(lines)


def _row(name: str, *cells: object) -> str:
    return f"{name:<12}" + "".join(f" {cell!s:>10}" for cell in cells)
