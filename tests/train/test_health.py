import math

import pytest

from tempo_ray.config import AdaptiveConfig, HealthConfig
from tempo_ray.train.health import plateaued, too_many_skipped, wrong

LIMITS = HealthConfig(window=3, max_chosen_drop=0.5, max_margin=10.0, max_length_ratio=2.2)
WELL = {
    "loss": 0.5,
    "grad_norm": 1.0,
    "chosen_drift": 0.1,
    "accuracy": 0.9,
    "margin": 3.0,
    "length_ratio": 1.1,
}


def history(*steps: dict[str, float]) -> list[dict[str, float]]:
    return [WELL | {"step": number} | step for number, step in enumerate(steps, 1)]


def test_a_healthy_run_goes_on() -> None:
    assert wrong(history({}, {}, {}, {}), LIMITS) is None
    assert wrong([{"step": 1, "units": 0, "lr": 0.1}], LIMITS) is None, (
        "a step in which nothing could be read"
    )


@pytest.mark.parametrize(
    ("sick", "said"),
    [
        ({"chosen_drift": -0.6}, "lost 0.60 nats a token"),
        ({"accuracy": 1.0, "margin": 12.0}, "nothing left to learn"),
        ({"length_ratio": 2.5}, "2.50 times as long"),
        ({"length_ratio": 0.4}, "0.40 times as long"),
    ],
)
def test_a_sick_one_stops_after_its_window_and_says_why(sick: dict[str, float], said: str) -> None:
    assert wrong(history(sick, sick), LIMITS) is None
    assert wrong(history({}, sick, sick), LIMITS) is None
    reason = wrong(history({}, sick, sick, sick), LIMITS)
    assert reason is not None
    assert said in reason
    assert "health." in reason
    off = HealthConfig(window=3, max_chosen_drop=None, max_margin=None, max_length_ratio=None)
    assert wrong(history(sick, sick, sick), off) is None


@pytest.mark.parametrize("name", ["loss", "grad_norm"])
@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_what_is_no_number_stops_at_once(name: str, value: float) -> None:
    reason = wrong(history({}, {name: value}), LIMITS)
    assert reason is not None
    assert f"the {name.replace('_', ' ')} of step 2 is {value}" in reason


def test_a_large_margin_is_no_sickness_while_pairs_are_mistaken() -> None:
    assert wrong(history(*[{"margin": 100.0}] * 4), LIMITS) is None


def test_skipped_groups() -> None:
    limits = HealthConfig(max_skipped=0.1, skipped_after=20)
    assert too_many_skipped(5, 10, limits, last=False) is None, "too early to tell"
    assert too_many_skipped(2, 20, limits, last=False) is None
    assert "3 of the 20 groups" in (too_many_skipped(3, 20, limits, last=False) or "")
    assert too_many_skipped(5, 10, limits, last=True) is not None


def looks(*seen: tuple[float, float]) -> list[dict[str, float]]:
    return [
        {"step": 10 * at, "held_out_accuracy": one, "held_out_margin": other}
        for at, (one, other) in enumerate(seen, 1)
    ]


def test_a_plateau_is_patience_looks_without_gain_in_either() -> None:
    config = AdaptiveConfig(patience=2, accuracy_gain=0.01, margin_gain=0.1, min_steps=0)
    assert not plateaued(looks((0.5, 0.0)), config)
    assert not plateaued(looks((0.5, 0.0), (0.6, 0.1), (0.6, 0.1)), config)
    assert plateaued(looks((0.5, 0.0), (0.6, 0.1), (0.6, 0.1), (0.605, 0.15)), config)
    assert not plateaued(looks((0.5, 0.0), (0.6, 0.1), (0.6, 0.3), (0.6, 0.5)), config), (
        "the margin still grows"
    )
    assert not plateaued(
        looks((0.5, 0.0), (0.5, 0.0), (0.5, 0.0)), config.model_copy(update={"min_steps": 100})
    )
