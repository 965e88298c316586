"""A stage's history -> why it must stop, or whether it has stopped to improve. Pure.

An entry of the history holds the means of one step over all workers; see loss.pair_losses for what it says.
"""

import math
from collections.abc import Sequence

from tempo_ray.config import AdaptiveConfig, HealthConfig

Entry = dict[str, float]


def _mean(history: Sequence[Entry], name: str, window: int) -> float | None:
    """Over the last `window` entries; None where there are not yet so many."""
    values = [entry[name] for entry in history[-window:] if name in entry]
    return sum(values) / window if len(values) == window else None


def wrong(history: Sequence[Entry], limits: HealthConfig) -> str | None:
    """Why training must stop, in words; None where it may go on."""
    entry = history[-1]
    for name in ("loss", "grad_norm"):
        if not math.isfinite(entry.get(name, 0.0)):
            return (
                f"the {name.replace('_', ' ')} of step {int(entry['step'])} is {entry[name]}: lower the learning rate, "
                "or train in float32 (deepspeed.dtype)"
            )
    drift, accuracy, margin, ratio = (
        _mean(history, name, limits.window)
        for name in ("chosen_drift", "accuracy", "margin", "length_ratio")
    )
    over = f"over the last {limits.window} steps, up to step {int(entry['step'])},"
    if limits.max_chosen_drop is not None and drift is not None and drift < -limits.max_chosen_drop:
        return (
            f"{over} chosen answers have lost {-drift:.2f} nats a token against the reference (health.max_chosen_drop "
            f"{limits.max_chosen_drop:g}): the model unlearns the answers that it should prefer; lower the learning rate, or "
            "raise align.loss.nll_weight"
        )
    if (
        limits.max_margin is not None
        and accuracy == 1.0
        and margin is not None
        and margin > limits.max_margin
    ):
        return (
            f"{over} every pair is told apart and the margin is {margin:.1f} (health.max_margin {limits.max_margin:g}): "
            "there is nothing left to learn from these pairs; train for fewer epochs, or raise align.loss.beta"
        )
    if (
        limits.max_length_ratio is not None
        and ratio is not None
        and not _within(ratio, limits.max_length_ratio)
    ):
        return (
            f"{over} rejected answers are {ratio:.2f} times as long as chosen ones (health.max_length_ratio "
            f"{limits.max_length_ratio:g}, either way): the model would learn length; see pairs.max_length_ratio"
        )
    return None


def _within(ratio: float, most: float) -> bool:
    return 1 / most <= ratio <= most


def too_many_skipped(skipped: int, seen: int, limits: HealthConfig, last: bool) -> str | None:
    """Why training must stop, where more groups than may be could not be read; judged once enough were tried, or at the end."""
    if skipped <= limits.max_skipped * seen or not (last or seen >= limits.skipped_after):
        return None
    return (
        f"{skipped} of the {seen} groups so far could not be trained on, more than the share of {limits.max_skipped:g} "
        "(health.max_skipped)"
    )


def plateaued(history: Sequence[Entry], config: AdaptiveConfig) -> bool:
    """Whether accuracy and margin on what is held out have stopped to improve."""
    if history[-1]["step"] < config.min_steps:
        return False
    looks = [
        (entry["held_out_accuracy"], entry["held_out_margin"])
        for entry in history
        if "held_out_accuracy" in entry
    ]
    best_accuracy = best_margin = -math.inf
    waited = 0
    for accuracy, margin in looks:
        improved = (
            accuracy > best_accuracy + config.accuracy_gain
            or margin > best_margin + config.margin_gain
        )
        best_accuracy, best_margin = max(best_accuracy, accuracy), max(best_margin, margin)
        waited = 0 if improved else waited + 1
    return waited >= config.patience
