"""When training stops, and when a stage has reached a plateau."""

import math

import pytest

from tempo_ray.config import AdaptiveConfig, HealthConfig
from tempo_ray.records import StepMetrics
from tempo_ray.train.stage.health import find_problem, plateaued, too_many_skipped

LIMITS = HealthConfig(window=3, max_chosen_drop=0.5, max_margin=10.0, max_length_ratio=2.2)
HEALTHY = {
    "loss": 0.5,
    "grad_norm": 1.0,
    "chosen_logratio_per_token": 0.1,
    "accuracy": 0.9,
    "margin": 3.0,
    "length_ratio": 1.1,
}


def history(*steps: StepMetrics) -> list[StepMetrics]:
    return [HEALTHY | {"step": number} | step for number, step in enumerate(steps, 1)]


def test_a_healthy_run_continues() -> None:
    assert find_problem(history({}, {}, {}, {}), LIMITS) is None
    unreadable = {"step": 1, "pairs": 0, "lr": 0.1}
    assert find_problem([unreadable], LIMITS) is None, "a step without a readable example"


@pytest.mark.parametrize(
    ("metrics", "message"),
    [
        ({"chosen_logratio_per_token": -0.6}, "lost 0.60 nats per token"),
        ({"accuracy": 1.0, "margin": 12.0}, "nothing left to learn"),
        ({"length_ratio": 2.5}, "2.50 times as long"),
        ({"length_ratio": 0.4}, "0.40 times as long"),
    ],
)
def test_an_unhealthy_run_stops_after_its_window_and_says_why(
    metrics: StepMetrics, message: str
) -> None:
    assert find_problem(history(metrics, metrics), LIMITS) is None
    assert find_problem(history({}, metrics, metrics), LIMITS) is None
    problem = find_problem(history({}, metrics, metrics, metrics), LIMITS)
    assert problem is not None
    assert message in problem
    assert "health." in problem
    off = HealthConfig(window=3, max_chosen_drop=None, max_margin=None, max_length_ratio=None)
    assert find_problem(history(metrics, metrics, metrics), off) is None


@pytest.mark.parametrize("name", ["loss", "grad_norm"])
@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_value_that_is_not_finite_stops_training_at_once(name: str, value: float) -> None:
    problem = find_problem(history({}, {name: value}), LIMITS)
    assert problem is not None
    assert f"the {name.replace('_', ' ')} of step 2 is {value}" in problem


def test_a_large_margin_is_healthy_while_some_pairs_are_wrong() -> None:
    assert find_problem(history(*[{"margin": 100.0}] * 4), LIMITS) is None


def test_skipped_examples_are_judged_once_enough_were_tried_or_at_the_end() -> None:
    limits = HealthConfig(max_skipped=0.1, min_examples=20)
    assert too_many_skipped(5, 10, limits, last=False) is None, "too few to judge"
    assert too_many_skipped(2, 20, limits, last=False) is None
    assert "3 of the 20 examples" in (too_many_skipped(3, 20, limits, last=False) or "")
    assert too_many_skipped(5, 10, limits, last=True) is not None


def evaluations(*values: tuple[float, float]) -> list[StepMetrics]:
    return [
        {"step": 10 * number, "held_out_accuracy": accuracy, "held_out_margin": margin}
        for number, (accuracy, margin) in enumerate(values, 1)
    ]


def test_a_plateau_is_patience_evaluations_without_gain_in_either() -> None:
    config = AdaptiveConfig(patience=2, accuracy_gain=0.01, margin_gain=0.1, min_steps=0)
    flat = evaluations((0.5, 0.0), (0.6, 0.1), (0.6, 0.1), (0.605, 0.15))
    assert not plateaued(evaluations((0.5, 0.0)), config)
    assert not plateaued(flat[:3], config)
    assert plateaued(flat, config)
    growing = evaluations((0.5, 0.0), (0.6, 0.1), (0.6, 0.3), (0.6, 0.5))
    assert not plateaued(growing, config), "the margin still grows"
    late = config.model_copy(update={"min_steps": 100})
    assert not plateaued(evaluations((0.5, 0.0), (0.5, 0.0), (0.5, 0.0)), late)
