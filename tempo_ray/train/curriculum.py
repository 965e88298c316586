"""Pairs -> stages of groups, and a stage's groups -> the groups of every optimiser step on every worker.

Pure but for `read_pairs`. A group is one video with all its pairs of the stage, whatever their prompts: it becomes one
sequence, in which the video stands once.
"""

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds

from tempo_ray.config import CurriculumConfig
from tempo_ray.paths import resolve
from tempo_ray.schema import PAIR

COLUMNS = (
    "uri",
    "prompt",
    "chosen",
    "rejected",
    "strength",
    "order_distance",
    "kept_share",
    "text_distance",
)


@dataclass(frozen=True)
class Pair:
    """The columns of schema.PAIR that training needs."""

    uri: str
    prompt: str
    chosen: str
    rejected: str
    strength: int
    order_distance: float | None
    kept_share: float | None = None
    text_distance: float | None = None

    @property
    def order_lost(self) -> float | None:
        """How much of the clean order rejected was not shown: clips left out, or turned round; 0 to 1, larger is easier."""
        if self.order_distance is None:
            return None
        return 1 - (1.0 if self.kept_share is None else self.kept_share) * (1 - self.order_distance)


@dataclass(frozen=True)
class Group:
    """`parts` is the user's message, None standing for the video. Without a rejected answer it is a fine-tuning example, and
    `later` may hold further questions and answers of its conversation. `more` holds other prompts about the same video, each
    with its own chosen and rejected answers."""

    uri: str
    parts: tuple[str | None, ...]
    chosen: str
    rejected: tuple[str, ...] = ()
    system: str | None = None
    later: tuple[tuple[str, str], ...] = ()
    more: tuple["Group", ...] = ()

    @property
    def prompts(self) -> tuple["Group", ...]:
        """Each prompt by itself."""
        return (replace(self, more=()), *self.more)

    @property
    def pairs(self) -> int:
        return sum(len(one.rejected) for one in self.prompts)

    @property
    def size(self) -> int:
        """What it counts for in a batch: its pairs, or 1."""
        return max(1, self.pairs)


@dataclass(frozen=True)
class Stage:
    """One step of the curriculum. `difficulty` is the mean share of the order that its pairs lost: the smaller, the harder."""

    name: str
    groups: tuple[Group, ...]
    difficulty: float | None
    identical: int = 0
    """Pairs left out because rejected equals chosen."""
    duplicated: int = 0
    """Pairs left out because the group has the same rejected answer already."""
    replayed: int = 0
    """Pairs of earlier stages among its own."""

    @property
    def pairs(self) -> int:
        return sum(group.size for group in self.groups)

    @property
    def videos(self) -> int:
        return len({group.uri for group in self.groups})


Step = tuple[tuple[int, ...], ...]
"""For each worker, the indices of its groups."""


class BadPairs(ValueError):
    """The files do not hold pairs that can be trained on; the message says why."""


def read_pairs(uri: str) -> list[Pair]:
    """All pairs of a folder of Parquet files. Raises BadPairs, FileNotFoundError where there is no such folder, and ArrowInvalid
    where its files are no Parquet."""
    filesystem, path = resolve(uri)
    files = ds.dataset(path, filesystem=filesystem, format="parquet")
    if not files.files:
        raise BadPairs("no Parquet files in it")
    missing = [name for name in COLUMNS if name not in files.schema.names]
    if missing:
        raise BadPairs(
            f"no column {', '.join(missing)}; a pair has {', '.join(COLUMNS)}, the last three may be null"
        )
    table = files.to_table(columns=list(COLUMNS))
    for name in COLUMNS:
        column, wanted = table[name], PAIR.field(name).type
        try:
            column = column.cast(wanted)
        except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
            raise BadPairs(f"column {name} is {column.type}, not {wanted}: {error}") from error
        table = table.set_column(table.schema.get_field_index(name), name, column)
        empty = pc.is_null(column)
        if wanted == pa.string():
            empty = pc.or_(empty, pc.fill_null(pc.equal(column, ""), fill_value=False))
        rows = pc.indices_nonzero(empty).to_pylist()
        if rows and name not in COLUMNS[-3:]:
            raise BadPairs(
                f"{len(rows)} of {len(table)} pairs have no {name}, row {rows[0]} for one: leave them out"
            )
    return [Pair(**row) for row in table.to_pylist()]


def _by_strength(pairs: Sequence[Pair], strengths: Iterable[int]) -> list[tuple[str, list[Pair]]]:
    """Easiest first: a part for each nominal strength."""
    wanted = sorted(set(strengths), reverse=True)
    return [
        (f"align-{strength}", [pair for pair in pairs if pair.strength == strength])
        for strength in wanted
    ]


def _by_quantiles(pairs: Sequence[Pair], measure: str, parts: int) -> list[tuple[str, list[Pair]]]:
    """Easiest first: as many pairs in each part, but that those of one difficulty stay together."""
    measured = [(pair, getattr(pair, _MEASURES[measure])) for pair in pairs]
    known = [
        (pair, float(far)) for pair, far in measured if far is not None and not math.isnan(far)
    ]
    if not known:
        return []
    edges = np.quantile([far for _, far in known], [part / parts for part in range(1, parts)])
    number = {
        id(pair): parts - int(np.searchsorted(edges, far, side="right")) for pair, far in known
    }
    return [
        (f"align-q{part}", [pair for pair, _ in known if number[id(pair)] == part])
        for part in range(1, parts + 1)
    ]


_MEASURES = {"order": "order_lost", "text": "text_distance"}


def parted(pairs: Sequence[Pair], config: CurriculumConfig) -> list[tuple[str, list[Pair]]]:
    """Stage names in the order of training, each with its own pairs."""
    if config.by == "strength":
        parts = _by_strength(pairs, config.strengths)
    else:
        parts = _by_quantiles(pairs, config.by, config.quantiles)
    if config.order == "mixed":
        return [("align-mixed", [pair for _, part in parts for pair in part])]
    return parts[::-1] if config.order == "hard_to_easy" else parts


def make_stages(pairs: Sequence[Pair], config: CurriculumConfig, seed: int) -> list[Stage]:
    """The curriculum, in the order of training; the same for the same arguments.

    With `replay`, a stage also has that share of its own pairs' number drawn from the pairs of the stages before it.
    """
    stages = []
    before: list[Pair] = []
    for number, (name, part) in enumerate(parted(pairs, config)):
        drawn = min(len(before), round(config.replay * len(part)))
        picked = (
            np.random.default_rng((seed, number)).choice(len(before), drawn, replace=False)
            if drawn
            else ()
        )
        stages.append(make_stage(name, part, [before[index] for index in sorted(picked)]))
        before += part
    return stages


def make_stage(name: str, pairs: Sequence[Pair], replayed: Sequence[Pair] = ()) -> Stage:
    """Pairs, grouped by video, and in it by prompt and chosen answer; in the order in which they come."""
    rejected: dict[tuple[str, str, str], dict[str, None]] = {}
    dropped: Counter[str] = Counter()
    lost = []
    for pair in (*pairs, *replayed):
        if pair.rejected == pair.chosen:
            dropped["identical"] += 1
            continue
        answers = rejected.setdefault((pair.uri, pair.prompt, pair.chosen), {})
        if pair.rejected in answers:
            dropped["duplicated"] += 1
            continue
        answers[pair.rejected] = None
        if pair.order_lost is not None and not math.isnan(pair.order_lost):
            lost.append(pair.order_lost)
    videos: dict[str, list[Group]] = {}
    for (uri, prompt, chosen), answers in rejected.items():
        videos.setdefault(uri, []).append(Group(uri, (None, prompt), chosen, tuple(answers)))
    groups = tuple(replace(first, more=tuple(others)) for first, *others in videos.values())
    difficulty = float(np.mean(lost)) if lost else None
    return Stage(
        name, groups, difficulty, dropped["identical"], dropped["duplicated"], len(replayed)
    )


def hold_out(groups: Sequence[Group], share: float, seed: int) -> tuple[list[Group], list[Group]]:
    """Groups to train on, and the groups of about that share of the videos, one at least, to watch."""
    videos = sorted({group.uri for group in groups})
    count = max(1, round(share * len(videos)))
    if count >= len(videos):
        raise ValueError(f"{len(videos)} videos are too few to hold {count} of them out")
    watched = {
        videos[index]
        for index in np.random.default_rng((seed, 1)).choice(len(videos), count, replace=False)
    }
    return [group for group in groups if group.uri not in watched], [
        group for group in groups if group.uri in watched
    ]


def table(stages: Sequence[Stage]) -> str:
    """What is trained in which order, for a person to read."""
    lines = [
        f"{'stage':<12} {'pairs':>7} {'groups':>7} {'videos':>7} {'order lost':>11} {'replayed':>9} {'left out':>9}"
    ]
    for stage in stages:
        lost = "" if stage.difficulty is None else f"{stage.difficulty:.3f}"
        counts = f"{stage.pairs:>7} {len(stage.groups):>7} {stage.videos:>7}"
        lines.append(
            f"{stage.name:<12} {counts} {lost:>11} {stage.replayed:>9} {stage.identical + stage.duplicated:>9}"
        )
    return "\n".join(lines)


def plan_steps(
    sizes: Sequence[int], batch: int, workers: int, epochs: int, seed: int
) -> list[Step]:
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
