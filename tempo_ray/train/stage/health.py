"""A stage's history -> why training must stop, or whether it has reached a plateau. Pure.

The history has the metrics of each step, means over all ranks; train/loss.py defines them.
"""

import math
from collections.abc import Sequence

from tempo_ray.config import AdaptiveConfig, HealthConfig
from tempo_ray.records import StepMetrics


def find_problem(history: Sequence[StepMetrics], limits: HealthConfig) -> str | None:
    """Why training must stop after the last step; None if it is healthy."""
    return (
        _not_finite(history[-1])
        or _unlearned_chosen(history, limits)
        or _runaway_margin(history, limits)
        or _unequal_lengths(history, limits)
    )


def _not_finite(metrics: StepMetrics) -> str | None:
    for name in ("loss", "grad_norm"):
        if not math.isfinite(metrics.get(name, 0.0)):
            return (
                f"the {name.replace('_', ' ')} of step {int(metrics['step'])} is {metrics[name]}: "
                "lower the learning rate, or train in float32 (deepspeed.dtype)"
            )
    return None


def _unlearned_chosen(history: Sequence[StepMetrics], limits: HealthConfig) -> str | None:
    logratio = _mean(history, "chosen_logratio_per_token", limits.window)
    limit = limits.max_chosen_drop
    if limit is not None and logratio is not None and logratio < -limit:
        return (
            f"{_over_window(history, limits)} chosen answers have lost {-logratio:.2f} nats per "
            f"token against the reference (health.max_chosen_drop {limit:g}): the model unlearns "
            "the answers that it should prefer; lower the learning rate, or raise "
            "align.loss.nll_weight"
        )
    return None


def _runaway_margin(history: Sequence[StepMetrics], limits: HealthConfig) -> str | None:
    accuracy = _mean(history, "accuracy", limits.window)
    margin = _mean(history, "margin", limits.window)
    limit = limits.max_margin
    if limit is not None and accuracy == 1.0 and margin is not None and margin > limit:
        return (
            f"{_over_window(history, limits)} reward accuracy is 1 and the margin is {margin:.1f} "
            f"(health.max_margin {limit:g}): there is nothing left to learn from these pairs; "
            "train for fewer epochs, or raise align.loss.beta"
        )
    return None


def _unequal_lengths(history: Sequence[StepMetrics], limits: HealthConfig) -> str | None:
    ratio = _mean(history, "length_ratio", limits.window)
    limit = limits.max_length_ratio
    if limit is not None and ratio is not None and not 1 / limit <= ratio <= limit:
        return (
            f"{_over_window(history, limits)} rejected answers are {ratio:.2f} times as long as "
            f"chosen ones (health.max_length_ratio {limit:g}, either way): the model would learn "
            "length; see pairs.max_length_ratio"
        )
    return None


def _mean(history: Sequence[StepMetrics], name: str, window: int) -> float | None:
    """Over the last `window` steps; None unless all of them have the metric."""
    values = [metrics[name] for metrics in history[-window:] if name in metrics]
    return sum(values) / window if len(values) == window else None


def _over_window(history: Sequence[StepMetrics], limits: HealthConfig) -> str:
    return f"over the last {limits.window} steps, up to step {int(history[-1]['step'])},"


def too_many_skipped(skipped: int, examples: int, limits: HealthConfig, last: bool) -> str | None:
    """Why training must stop if too large a share of the `examples` so far was skipped; judged once
    enough were tried, or after the last step."""
    if skipped <= limits.max_skipped * examples:
        return None
    if examples < limits.min_examples and not last:
        return None
    return (
        f"{skipped} of the {examples} examples so far could not be trained on, more than the share "
        f"of {limits.max_skipped:g} (health.max_skipped)"
    )


def plateaued(history: Sequence[StepMetrics], config: AdaptiveConfig) -> bool:
    """Whether held-out accuracy and margin have stopped improving."""
    if history[-1]["step"] < config.min_steps:
        return False
    best_accuracy = best_margin = -math.inf
    without_gain = 0
    for metrics in history:
        if "held_out_accuracy" not in metrics:
            continue
        accuracy, margin = metrics["held_out_accuracy"], metrics["held_out_margin"]
        improved = (
            accuracy > best_accuracy + config.accuracy_gain
            or margin > best_margin + config.margin_gain
        )
        best_accuracy, best_margin = max(best_accuracy, accuracy), max(best_margin, margin)
        without_gain = 0 if improved else without_gain + 1
    return without_gain >= config.patience
