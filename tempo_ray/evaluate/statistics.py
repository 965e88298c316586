"""Right and wrong answers -> accuracies with intervals, and paired comparisons of two models on the same questions."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

Z95 = 1.959963984540054


@dataclass(frozen=True)
class Accuracy:
    """Share right of `questions`, with its 95% Wilson interval."""

    value: float
    low: float
    high: float
    questions: int


@dataclass(frozen=True)
class Difference:
    """Second accuracy minus first, its 95% bootstrap interval, and McNemar's exact p. `videos` is the number of clusters."""

    first: float
    second: float
    difference: float
    low: float
    high: float
    p: float
    questions: int
    videos: int


def wilson(right: int, questions: int) -> Accuracy:
    """Wilson's score interval (Wilson 1927): it stays within 0 and 1, and holds for small counts."""
    share = right / questions
    spread = Z95**2 / questions
    center = (share + spread / 2) / (1 + spread)
    half = (
        Z95 / (1 + spread) * math.sqrt(share * (1 - share) / questions + spread / (4 * questions))
    )
    return Accuracy(share, max(0.0, center - half), min(1.0, center + half), questions)


def mcnemar(first_only: int, second_only: int) -> float:
    """Two-sided exact p (McNemar 1947): how likely the answers on which the models disagree split so unevenly by chance."""
    disagree = first_only + second_only
    tail = sum(math.comb(disagree, count) for count in range(min(first_only, second_only) + 1))
    return min(1.0, 2 * tail / 2**disagree)


def bootstrap_interval(
    differences: np.ndarray, clusters: np.ndarray, resamples: int, seed: int
) -> tuple[float, float]:
    """95% percentile interval of the mean of `differences` (questions,), whole clusters (questions,) drawn with replacement.

    The questions about one video share what the model saw of it, so videos are drawn, not questions.
    """
    _, index = np.unique(clusters, return_inverse=True)
    sums = np.bincount(index, weights=differences)
    counts = np.bincount(index).astype(float)
    rng = np.random.default_rng(seed)
    means = np.empty(resamples)
    step = max(1, 4_000_000 // len(sums))  # bounds the memory of one draw
    for start in range(0, resamples, step):
        drawn = rng.integers(len(sums), size=(min(step, resamples - start), len(sums)))
        means[start : start + len(drawn)] = sums[drawn].sum(1) / counts[drawn].sum(1)
    low, high = np.percentile(means, [2.5, 97.5])
    return float(low), float(high)


def compare(
    first: Sequence[bool], second: Sequence[bool], videos: Sequence[str], resamples: int, seed: int
) -> Difference:
    """Two models' answers to the same questions, in the same order; `videos` says which video each is about."""
    one, other = np.asarray(first, dtype=float), np.asarray(second, dtype=float)
    low, high = bootstrap_interval(other - one, np.asarray(videos), resamples, seed)
    p = mcnemar(int(((one == 1) & (other == 0)).sum()), int(((one == 0) & (other == 1)).sum()))
    means = float(one.mean()), float(other.mean())
    return Difference(*means, means[1] - means[0], low, high, p, len(one), len(set(videos)))
