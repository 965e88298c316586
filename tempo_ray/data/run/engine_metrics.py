"""What an engine does -> metrics, every few seconds.

Tested in tests/integration/test_monitoring.py.
"""

import threading
from collections.abc import Mapping

from tempo_ray import metrics
from tempo_ray.models.engine import Engine

INTERVAL_S = 5.0


def report_engine(engine: Engine, gpus: float) -> None:
    """Reports from a thread for as long as this process lives: a batch of videos may take minutes,
    and its engine's figures move meanwhile."""
    metrics.ENGINE_GPUS.set(gpus, model=engine.model)
    thread = threading.Thread(target=_report, args=(engine,), name="engine metrics", daemon=True)
    thread.start()


def _report(engine: Engine) -> None:
    before: Mapping[str, float] = {}
    pause = threading.Event()
    while not pause.wait(INTERVAL_S):
        now = engine.counters()
        _record(engine.model, now, before)
        before = now


def _record(model: str, now: Mapping[str, float], before: Mapping[str, float]) -> None:
    def grown(name: str) -> float:
        return now.get(name, 0.0) - before.get(name, 0.0)

    metrics.ENGINE_BUSY.add(grown("busy_seconds"), model=model)
    metrics.GENERATED_TOKENS.add(grown("generation_tokens"), model=model)
    metrics.PROMPT_TOKENS.add(grown("prompt_tokens"), model=model)
    for state in ("running", "waiting"):
        requests = now.get(f"num_requests_{state}", 0.0)
        metrics.ENGINE_REQUESTS.set(requests, model=model, state=state)
    if shown := now.get("mm_cache_queries"):
        metrics.MEDIA_CACHE_HIT_RATE.set(now.get("mm_cache_hits", 0.0) / shown, model=model)
