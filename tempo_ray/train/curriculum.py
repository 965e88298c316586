"""Pairs -> stages of groups, and a stage's groups -> the groups of every optimiser step on every worker.

Pure but for `read_pairs`. A group is one video and one prompt with its chosen and all its rejected answers: it becomes
one sequence, in which the video stands once.
"""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow.parquet as pq

from tempo_ray.config import CurriculumConfig
from tempo_ray.paths import resolve

COLUMNS = ("uri", "prompt", "chosen", "rejected", "strength", "order_distance")


@dataclass(frozen=True)
class Pair:
    """The columns of schema.PAIR that training needs."""

    uri: str
    prompt: str
    chosen: str
    rejected: str
    strength: int
    order_distance: float | None


@dataclass(frozen=True)
class Group:
    """`parts` is the user's message, None standing for the video. Without a rejected answer it is a fine-tuning example, and
    `later` may hold further questions and answers of its conversation."""

    uri: str
    parts: tuple[str | None, ...]
    chosen: str
    rejected: tuple[str, ...] = ()
    system: str | None = None
    later: tuple[tuple[str, str], ...] = ()

    @property
    def size(self) -> int:
        """What it counts for in a batch: its pairs, or 1."""
        return max(1, len(self.rejected))


@dataclass(frozen=True)
class Stage:
    """One step of the curriculum. `difficulty` is the mean order distance of its pairs: the smaller, the harder."""

    name: str
    groups: tuple[Group, ...]
    difficulty: float | None
    identical: int
    """Pairs left out because rejected equals chosen."""
    duplicated: int
    """Pairs left out because the group has the same rejected answer already."""

    @property
    def pairs(self) -> int:
        return sum(group.size for group in self.groups)

    @property
    def videos(self) -> int:
        return len({group.uri for group in self.groups})


Step = tuple[tuple[int, ...], ...]
"""For each worker, the indices of its groups."""


def read_pairs(uri: str) -> list[Pair]:
    """All pairs of a folder of Parquet files. Raises FileNotFoundError where there is no such folder."""
    filesystem, path = resolve(uri)
    rows = pq.read_table(path, filesystem=filesystem, columns=list(COLUMNS)).to_pylist()
    return [Pair(**row) for row in rows]


def stage_strengths(config: CurriculumConfig) -> list[tuple[str, tuple[int, ...]]]:
    """Stage names in the order of training, each with the nominal strengths whose pairs it takes."""
    strengths = sorted(set(config.strengths), reverse=True)
    if config.order == "mixed":
        return [("align-mixed", tuple(strengths))]
    if config.order == "hard_to_easy":
        strengths.reverse()
    return [(f"align-{strength}", (strength,)) for strength in strengths]


def make_stage(name: str, strengths: Iterable[int], pairs: Sequence[Pair]) -> Stage:
    """The stage's pairs, grouped by video, prompt and chosen answer; in the order in which they come."""
    wanted = set(strengths)
    rejected: dict[tuple[str, str, str], dict[str, None]] = {}
    dropped: Counter[str] = Counter()
    distances = []
    for pair in pairs:
        if pair.strength not in wanted:
            continue
        if pair.rejected == pair.chosen:
            dropped["identical"] += 1
            continue
        answers = rejected.setdefault((pair.uri, pair.prompt, pair.chosen), {})
        if pair.rejected in answers:
            dropped["duplicated"] += 1
            continue
        answers[pair.rejected] = None
        if pair.order_distance is not None:
            distances.append(pair.order_distance)
    groups = tuple(Group(uri, (None, prompt), chosen, tuple(answers)) for (uri, prompt, chosen), answers in rejected.items())
    difficulty = float(np.mean(distances)) if distances else None
    return Stage(name, groups, difficulty, dropped["identical"], dropped["duplicated"])


def table(stages: Sequence[Stage]) -> str:
    """What is trained in which order, for a person to read."""
    lines = [f"{'stage':<12} {'pairs':>7} {'groups':>7} {'videos':>7} {'order distance':>15} {'left out':>9}"]
    for stage in stages:
        distance = "" if stage.difficulty is None else f"{stage.difficulty:.3f}"
        left_out = stage.identical + stage.duplicated
        lines.append(f"{stage.name:<12} {stage.pairs:>7} {len(stage.groups):>7} {stage.videos:>7} {distance:>15} {left_out:>9}")
    return "\n".join(lines)


def plan_steps(sizes: Sequence[int], batch: int, workers: int, epochs: int, seed: int) -> list[Step]:
    """Group sizes -> who trains on which group in which step; the same for the same arguments.

    A step takes whole groups while their sizes add up to at most `batch` (a group over `batch` is a step of its own),
    and deals them out so that the workers have about as much each; a worker may have none.
    """
    steps = []
    for epoch in range(epochs):
        chosen: list[int] = []
        total = 0
        for index in np.random.default_rng((seed, epoch)).permutation(len(sizes)).tolist():
            if chosen and total + sizes[index] > batch:
                steps.append(_deal(chosen, sizes, workers))
                chosen, total = [], 0
            chosen.append(index)
            total += sizes[index]
        if chosen:
            steps.append(_deal(chosen, sizes, workers))
    return steps


def _deal(indices: Sequence[int], sizes: Sequence[int], workers: int) -> Step:
    """Largest first, each to the worker who has least."""
    hands: list[list[int]] = [[] for _ in range(workers)]
    loads = [0] * workers
    for index in sorted(indices, key=lambda one: -sizes[one]):
        worker = loads.index(min(loads))
        hands[worker].append(index)
        loads[worker] += sizes[index]
    return tuple(tuple(hand) for hand in hands)
