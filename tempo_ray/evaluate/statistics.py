"""Right and wrong answers -> intervals, and a paired comparison of two models."""

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from tempo_ray.records import GroupComparison

Z95 = 1.959963984540054
"""Quantile of the standard normal distribution: 95% lie within plus or minus this."""
DRAWS_IN_MEMORY = 4_000_000
"""Clusters drawn at a time by the bootstrap; bounds its memory."""


def wilson_interval(right: int, questions: int) -> tuple[float, float]:
    """95% interval of the accuracy `right / questions`, as shares from 0 to 1.

    The score interval of Wilson (1927), which stays within 0 and 1 and holds for small counts.
    """
    share = right / questions
    spread = Z95**2 / questions
    center = (share + spread / 2) / (1 + spread)
    half = (
        Z95 / (1 + spread) * math.sqrt(share * (1 - share) / questions + spread / (4 * questions))
    )
    return max(0.0, center - half), min(1.0, center + half)


def mcnemar(first_only: int, second_only: int) -> float:
    """Two-sided exact p of McNemar (1947).

    The probability that the questions which only one of two equally good models answers are divided
    between them at least as unevenly as `first_only` to `second_only`.
    """
    discordant = first_only + second_only
    tail = sum(math.comb(discordant, count) for count in range(min(first_only, second_only) + 1))
    p: float = 2 * tail / 2**discordant
    return min(1.0, p)


def bootstrap_interval(
    differences: NDArray[np.float64], clusters: NDArray[np.generic], resamples: int, seed: int
) -> tuple[float, float]:
    """95% percentile interval of the mean of `differences` (questions,), drawing whole clusters
    with replacement.

    `clusters` (questions,) is the video of each question: the questions about one video share what
    the model saw of it, so that videos are drawn, not questions.
    """
    _, index = np.unique(clusters, return_inverse=True)
    sums = np.bincount(index, weights=differences)
    counts = np.bincount(index).astype(float)
    rng = np.random.default_rng(seed)
    means = np.empty(resamples)
    chunk = max(1, DRAWS_IN_MEMORY // len(sums))
    for start in range(0, resamples, chunk):
        drawn = rng.integers(len(sums), size=(min(chunk, resamples - start), len(sums)))
        means[start : start + len(drawn)] = sums[drawn].sum(1) / counts[drawn].sum(1)
    low, high = np.percentile(means, [2.5, 97.5])
    return float(low), float(high)


def compare(
    first: Sequence[bool] | NDArray[np.bool_],
    second: Sequence[bool] | NDArray[np.bool_],
    videos: Sequence[str] | NDArray[np.str_],
    resamples: int,
    seed: int,
) -> GroupComparison:
    """Two models' answers to the same questions, right or wrong, in the same order.

    All three are (questions,); `videos` names the video that each question is about.
    """
    first_right, second_right = np.asarray(first, dtype=bool), np.asarray(second, dtype=bool)
    names = np.asarray(videos)
    differences = second_right.astype(float) - first_right.astype(float)
    low, high = bootstrap_interval(differences, names, resamples, seed)
    first_accuracy, second_accuracy = float(first_right.mean()), float(second_right.mean())
    return GroupComparison(
        first=first_accuracy,
        second=second_accuracy,
        difference=second_accuracy - first_accuracy,
        low=low,
        high=high,
        p=mcnemar(
            int((first_right & ~second_right).sum()), int((second_right & ~first_right).sum())
        ),
        questions=len(names),
        videos=len(np.unique(names)),
    )
