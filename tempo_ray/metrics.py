"""The metrics of every job, which Ray exports to Prometheus: docs/metrics.md is their table.

Ray puts `ray_` before each name, and `_total` after a counter's. A process records a metric by
`add`, `set` or `observe`; a metric that is not declared here is none.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from typing import Any, Literal

from ray.util import metrics

REQUEST_SECONDS = (0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0)
"""Upper bounds of the histogram of request times."""


@dataclass(frozen=True)
class Metric:
    name: str
    kind: Literal["counter", "gauge", "histogram"]
    unit: str
    moves: str
    """When, and what it says then."""
    tags: tuple[str, ...] = ()

    @property
    def exported(self) -> str:
        """The name in Prometheus; a histogram has `_bucket`, `_sum` and `_count` after it."""
        return f"ray_{self.name}" + ("_total" if self.kind == "counter" else "")

    def add(self, value: float, **tags: str) -> None:
        """To a counter; nothing to add leaves no sample."""
        if value > 0:
            _recorder(self).inc(value, tags)

    def set(self, value: float, **tags: str) -> None:
        """Of a gauge."""
        _recorder(self).set(value, tags)

    def observe(self, value: float, **tags: str) -> None:
        """By a histogram."""
        _recorder(self).observe(value, tags)


@cache
def _recorder(metric: Metric) -> Any:
    """Ray's metric of this process."""
    if metric.kind == "counter":
        return metrics.Counter(metric.name, metric.moves, metric.tags)
    if metric.kind == "gauge":
        return metrics.Gauge(metric.name, metric.moves, metric.tags)
    return metrics.Histogram(metric.name, metric.moves, list(REQUEST_SECONDS), metric.tags)


VIDEOS = Metric(
    "tempo_videos",
    "counter",
    "videos",
    "a video is decided: dropped or failed by selection, or kept or failed by answering",
    ("operator", "outcome", "reason"),
)
VIDEO_SECONDS = Metric(
    "tempo_video_seconds",
    "counter",
    "seconds of video",
    "a video has been decoded for selection, or answered",
    ("operator",),
)
VIDEOS_LEFT = Metric(
    "tempo_videos_left", "gauge", "videos", "of the run: those not decided yet", ("run",)
)
VIDEOS_WAITING = Metric(
    "tempo_videos_waiting",
    "gauge",
    "videos",
    "of the run: those that selection has kept and no engine has answered yet",
    ("run",),
)
ENGINE_STARTS = Metric(
    "tempo_engine_starts",
    "counter",
    "starts",
    "an engine is ready; more than there are engines: some have died",
    ("run",),
)
ENGINE_GPUS = Metric(
    "tempo_engine_gpus", "gauge", "GPUs", "an engine is ready: those that it holds", ("model",)
)
ENGINE_BUSY = Metric(
    "tempo_engine_busy_seconds",
    "counter",
    "seconds",
    "every 5 s: time in which the engine had a request",
    ("model",),
)
ENGINE_REQUESTS = Metric(
    "tempo_engine_requests",
    "gauge",
    "requests",
    "every 5 s: those that the engine runs, and those that wait in it",
    ("model", "state"),
)
GENERATED_TOKENS = Metric(
    "tempo_generated_tokens",
    "counter",
    "tokens",
    "every 5 s: tokens of captions and answers",
    ("model",),
)
PROMPT_TOKENS = Metric(
    "tempo_prompt_tokens", "counter", "tokens", "every 5 s: tokens of prompts", ("model",)
)
MEDIA_CACHE_HIT_RATE = Metric(
    "tempo_media_cache_hit_rate",
    "gauge",
    "share",
    "every 5 s: of all media shown to the engine, those that it had in its cache",
    ("model",),
)
TEXTS = Metric(
    "tempo_texts",
    "counter",
    "captions or answers",
    "a batch of videos is answered",
    ("model", "kind"),
)
REQUESTS = Metric(
    "tempo_requests",
    "counter",
    "requests",
    "the endpoint has answered one: by HTTP status, 0 where the client left first",
    ("status",),
)
REQUEST_TIME = Metric(
    "tempo_request_seconds",
    "histogram",
    "seconds",
    "the endpoint has answered a POST: time from its headers to the end of the answer",
    ("status",),
)

_TRAIN = {
    "step": ("steps", "optimiser steps of the stage so far"),
    "lr": ("", "learning rate"),
    "loss": ("nats", "what is minimised; per pair, or per answer token for SFT"),
    "preference_loss": ("nats", "the loss without its NLL term"),
    "nll": ("nats per token", "negative log-likelihood of the chosen answers"),
    "accuracy": ("share", "pairs whose chosen answer has the higher reward"),
    "margin": ("", "reward of chosen less that of rejected"),
    "chosen_reward": ("", "implicit reward of the chosen answers"),
    "rejected_reward": ("", "implicit reward of the rejected answers"),
    "chosen_logp": ("nats", "log-prob of the chosen answers"),
    "rejected_logp": ("nats", "log-prob of the rejected answers"),
    "chosen_logratio_per_token": ("nats per token", "chosen: policy against reference"),
    "length_ratio": ("", "tokens of rejected answers by those of chosen ones"),
    "kl": ("nats per token", "estimate of the divergence from the reference (k3)"),
    "grad_norm": ("", "norm of the gradient before clipping"),
    "held_out_loss": ("nats", "loss on held-out videos"),
    "held_out_accuracy": ("share", "accuracy on held-out videos"),
    "held_out_margin": ("", "margin on held-out videos"),
    "pairs": ("pairs", "in the step, over all ranks"),
    "answer_tokens": ("tokens", "that the loss counts in the step, over all ranks"),
    "seconds": ("seconds", "wall time of the step, its wait for data included"),
    "data_seconds": ("seconds", "of them: wait for data, on the rank that waited longest"),
    "tokens_per_second": ("tokens per second", "all tokens of all ranks by the step's seconds"),
    "pairs_per_second": ("pairs per second", "by the step's seconds"),
    "answer_tokens_per_second": ("tokens per second", "by the step's seconds"),
    "memory_gb": ("GB", "peak of the GPU, or without one of the process"),
    "skipped_share": ("share", "examples skipped so far, of those read"),
}
TRAIN = {
    name: Metric(f"tempo_train_{name}", "gauge", unit, f"a step has ended: {moves}", ("stage",))
    for name, (unit, moves) in _TRAIN.items()
}
"""By the name of the step's metric."""

METRICS = (
    VIDEOS,
    VIDEO_SECONDS,
    VIDEOS_LEFT,
    VIDEOS_WAITING,
    ENGINE_STARTS,
    ENGINE_GPUS,
    ENGINE_BUSY,
    ENGINE_REQUESTS,
    GENERATED_TOKENS,
    PROMPT_TOKENS,
    MEDIA_CACHE_HIT_RATE,
    TEXTS,
    *TRAIN.values(),
    REQUESTS,
    REQUEST_TIME,
)


def markdown_table(rows: Iterable[Metric] = METRICS) -> str:
    """The table of docs/metrics.md."""
    lines = ["| name in Prometheus | kind | unit | tags | when it moves |", "|---|---|---|---|---|"]
    for metric in rows:
        tags = ", ".join(f"`{tag}`" for tag in metric.tags)
        lines.append(
            f"| `{metric.exported}` | {metric.kind} | {metric.unit} | {tags} | {metric.moves} |"
        )
    return "\n".join(lines) + "\n"
