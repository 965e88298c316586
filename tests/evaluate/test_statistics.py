import math

import numpy as np
import pytest

from tempo_ray.evaluate.statistics import bootstrap_interval, compare, mcnemar, wilson_interval


def test_wilson_by_hand():
    # 8 of 10: center (0.8 + 1.9600^2/20) / (1 + 1.9600^2/10) = 0.71674, half width 0.22657
    low, high = wilson_interval(8, 10)
    assert low == pytest.approx(0.4902, abs=1e-4)
    assert high == pytest.approx(0.9433, abs=1e-4)


def test_wilson_stays_within_zero_and_one():
    none_right, all_right = wilson_interval(0, 5), wilson_interval(5, 5)
    assert (none_right[0], all_right[1]) == (0.0, 1.0)
    # 0 of n: the upper end is z^2 / (n + z^2)
    assert none_right[1] == pytest.approx(3.8415 / 8.8415, abs=1e-4)
    assert all_right[0] == pytest.approx(1 - none_right[1])


@pytest.mark.parametrize(
    ("first_only", "second_only", "p"),
    [
        (0, 0, 1.0),
        (5, 5, 1.0),
        (0, 5, 2 / 32),
        (1, 8, 2 * (1 + 9) / 512),
        (8, 1, 2 * (1 + 9) / 512),
        (2, 10, 2 * (1 + 12 + 66) / 4096),
    ],
)
def test_mcnemar_by_hand(first_only, second_only, p):
    assert mcnemar(first_only, second_only) == pytest.approx(p)


def test_mcnemar_of_large_counts():
    assert 0 < mcnemar(400, 800) < 1e-20


def test_bootstrap_of_independent_questions_is_near_the_normal_interval():
    differences = np.array([1.0] * 60 + [0.0] * 100 + [-1.0] * 40)
    low, high = bootstrap_interval(differences, np.arange(200), 20_000, seed=0)
    half = 1.96 * differences.std() / math.sqrt(200)
    assert low == pytest.approx(0.1 - half, abs=0.01)
    assert high == pytest.approx(0.1 + half, abs=0.01)


def test_bootstrap_draws_videos_not_questions():
    # 20 videos of 10 questions, all of a video alike: 200 questions with the interval of 20
    differences = np.repeat([1.0] * 6 + [0.0] * 10 + [-1.0] * 4, 10)
    clustered = bootstrap_interval(differences, np.repeat(np.arange(20), 10), 20_000, seed=0)
    twenty = bootstrap_interval(differences[::10], np.arange(20), 20_000, seed=0)
    single = bootstrap_interval(differences, np.arange(200), 20_000, seed=0)
    assert clustered == pytest.approx(twenty, abs=1e-12)
    assert clustered[1] - clustered[0] > 2.5 * (single[1] - single[0])


def test_bootstrap_weighs_videos_by_their_questions():
    # two videos, of 1 and 3 questions: a draw is the first twice (1.0), the second twice (0.0), or
    # one of each (1/4)
    low, high = bootstrap_interval(
        np.array([1.0, 0.0, 0.0, 0.0]), np.array([0, 1, 1, 1]), 1000, seed=1
    )
    assert (low, high) == (0.0, 1.0)


def test_bootstrap_is_seeded():
    differences, clusters = np.array([1.0, 0.0, -1.0, 1.0, 1.0, 0.0]), np.arange(6)
    assert bootstrap_interval(differences, clusters, 500, seed=3) == bootstrap_interval(
        differences, clusters, 500, seed=3
    )


def test_bootstrap_in_several_chunks_makes_every_draw():
    differences = np.random.default_rng(0).choice([-1.0, 0.0, 1.0], size=3000)
    low, high = bootstrap_interval(differences, np.arange(3000), 2500, seed=0)  # several chunks
    assert low < differences.mean() < high


def test_compare_counts_what_only_one_model_answers():
    first = [True, True, False, False, False, False]
    second = [True, False, True, True, True, False]
    difference = compare(first, second, ["a", "a", "b", "b", "c", "c"], 2000, seed=0)
    assert (difference.first, difference.second) == (pytest.approx(2 / 6), pytest.approx(4 / 6))
    assert difference.difference == pytest.approx(2 / 6)
    assert difference.p == pytest.approx(2 * (1 + 4) / 16)
    assert (difference.questions, difference.videos) == (6, 3)
    assert difference.low <= difference.difference <= difference.high


def test_a_model_compared_with_itself_does_not_differ():
    same = compare([True, False, True], [True, False, True], ["a", "b", "c"], 100, seed=0)
    assert (same.difference, same.low, same.high, same.p) == (0.0, 0.0, 0.0, 1.0)
