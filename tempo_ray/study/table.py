"""The scores of arms and seeds -> accuracies, paired differences, their intervals and p-values."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from tempo_ray.errors import UserError
from tempo_ray.evaluate.breakdown import group_names, in_group
from tempo_ray.evaluate.scores import same_questions
from tempo_ray.records import Score, StudyRow

POWER = 0.8

Scores = Mapping[tuple[str, int], Sequence[Score]]
"""(arm, seed) -> one score per question."""


@dataclass(frozen=True)
class Estimate:
    """A mean over seeds, with its standard error and the degrees of freedom."""

    mean: float
    error: float
    freedom: float

    @property
    def interval(self) -> tuple[float, float]:
        """95%, by Student's t."""
        half = float(stats.t.ppf(0.975, self.freedom)) * self.error
        return self.mean - half, self.mean + half

    @property
    def p(self) -> float:
        if self.error == 0:
            return 1.0 if self.mean == 0 else 0.0
        return float(2 * stats.t.sf(abs(self.mean) / self.error, self.freedom))

    @property
    def detectable(self) -> float:
        quantiles = stats.t.ppf(0.975, self.freedom) + stats.t.ppf(POWER, self.freedom)
        return float(quantiles) * self.error


def study_rows(scores: Scores, baseline: str) -> list[StudyRow]:
    """Every arm but the baseline, on every group of questions that two seeds or more have.

    Raises UserError where an arm and the baseline were not asked the same questions.
    """
    arms = list(dict.fromkeys(arm for arm, _ in scores))
    seeds = list(dict.fromkeys(seed for _, seed in scores))
    groups = group_names([score for of_arm in scores.values() for score in of_arm])
    rows = []
    for arm in arms:
        if arm == baseline:
            continue
        paired = [_paired(scores, baseline, arm, seed) for seed in seeds]
        of_groups = [_row(arm, baseline, group, paired) for group in groups]
        rows += [row for row in of_groups if row is not None]
    return _with_holm(rows)


def _paired(scores: Scores, baseline: str, arm: str, seed: int) -> tuple[list[Score], list[Score]]:
    try:
        return same_questions(scores[baseline, seed], scores[arm, seed])
    except UserError as error:
        raise UserError(f"seed {seed}, {baseline} and {arm}: {error}") from error


def _row(
    arm: str, baseline: str, group: str, paired: Sequence[tuple[list[Score], list[Score]]]
) -> StudyRow | None:
    """None where fewer than two seeds have such questions."""
    in_seeds = [
        [(a, b) for a, b in zip(first, second, strict=True) if in_group(a, group)]
        for first, second in paired
    ]
    members = [pairs for pairs in in_seeds if pairs]
    if len(members) < 2:
        return None
    differences = [
        np.array([float(b.correct) - float(a.correct) for a, b in pairs]) for pairs in members
    ]
    videos = [np.array([a.video for a, _ in pairs]) for pairs in members]
    shared = len({tuple(sorted(a.question_id for a, _ in pairs)) for pairs in members}) == 1
    estimate = estimate_over_seeds(differences, videos, shared)
    low, high = estimate.interval
    return StudyRow(
        arm=arm,
        baseline=baseline,
        group=group,
        seeds=len(members),
        questions=sum(map(len, members)),
        accuracy=float(np.mean([np.mean([b.correct for _, b in pairs]) for pairs in members])),
        baseline_accuracy=float(
            np.mean([np.mean([a.correct for a, _ in pairs]) for pairs in members])
        ),
        chance=float(np.mean([a.chance for pairs in members for a, _ in pairs])),
        difference=estimate.mean,
        low=low,
        high=high,
        p=estimate.p,
        p_holm=None,
        detectable=estimate.detectable,
    )


def estimate_over_seeds(
    differences: Sequence[NDArray[np.float64]],
    videos: Sequence[NDArray[np.str_]],
    shared_questions: bool,
) -> Estimate:
    """The mean difference of two arms, from one array (questions,) of differences per seed.

    A seed is one replicate: it draws its own data order, pairs and, unless the questions are
    shared, videos and questions. The spread of the seeds' means then holds all of it. Where all
    seeds are asked the same questions, their choice is one draw more, which the spread does not
    show: the variance of the mean over videos (clusters) is added, with the degrees of freedom of
    Satterthwaite (1946).
    """
    means = np.array([difference.mean() for difference in differences])
    seeds = len(means)
    of_seeds = float(means.var(ddof=1)) / seeds
    if not shared_questions:
        return Estimate(float(means.mean()), math.sqrt(of_seeds), seeds - 1)
    of_videos = _variance_over_videos(np.mean(differences, axis=0), videos[0])
    variance, clusters = of_seeds + of_videos, len(np.unique(videos[0]))
    spread = of_seeds**2 / (seeds - 1) + of_videos**2 / max(1, clusters - 1)
    freedom = variance**2 / spread if spread else seeds - 1
    return Estimate(float(means.mean()), math.sqrt(variance), freedom)


def _variance_over_videos(differences: NDArray[np.float64], videos: NDArray[np.str_]) -> float:
    """Of the mean of `differences` (questions,), with the questions of a video as one cluster."""
    _, index = np.unique(videos, return_inverse=True)
    residuals = np.bincount(index, weights=differences - differences.mean())
    clusters = len(residuals)
    if clusters < 2:
        return 0.0
    total = float((residuals**2).sum()) * clusters / (clusters - 1)
    return total / len(differences) ** 2


def _with_holm(rows: Sequence[StudyRow]) -> list[StudyRow]:
    tested = [number for number, row in enumerate(rows) if ":" not in row.group]
    corrected = dict(zip(tested, holm([rows[number].p for number in tested]), strict=True))
    return [replace(row, p_holm=corrected.get(number)) for number, row in enumerate(rows)]


def holm(ps: Sequence[float]) -> list[float]:
    """The step-down correction of Holm (1979) for several tests."""
    order = np.argsort(ps, kind="stable")
    corrected = [0.0] * len(ps)
    largest = 0.0
    for rank, number in enumerate(order):
        largest = max(largest, min(1.0, (len(ps) - rank) * ps[number]))
        corrected[number] = largest
    return corrected
