"""What every benchmark prints: one JSON object, with the machine and the versions, as its last line."""

import json
import os
import platform
import time
from collections.abc import Callable
from importlib.metadata import version
from statistics import median
from typing import Any

import psutil


def seconds(call: Callable[[], Any]) -> float:
    began = time.perf_counter()
    call()
    return time.perf_counter() - began


def in_turns(
    one: Callable[[], Any], other: Callable[[], Any], rounds: int
) -> tuple[list[float], list[float]]:
    """Times of both, taken in turns, so that a slow minute of the machine falls on both."""
    times: tuple[list[float], list[float]] = ([], [])
    for _ in range(rounds):
        times[0].append(seconds(one))
        times[1].append(seconds(other))
    return times


def ratios(numerators: list[float], denominators: list[float]) -> dict[str, float]:
    """Of the pairs taken in one turn: the median, the least and the greatest."""
    each = sorted(one / other for one, other in zip(numerators, denominators, strict=True))
    return {
        "ratio": round(median(each), 3),
        "least": round(each[0], 3),
        "greatest": round(each[-1], 3),
    }


def report(name: str, packages: tuple[str, ...], **facts: Any) -> None:
    machine = {
        "cores": os.cpu_count(),
        "memory_gb": round(psutil.virtual_memory().total / 1e9, 1),
        "architecture": platform.machine(),
        "python": platform.python_version(),
    }
    versions = {package: version(package) for package in packages}
    print(
        json.dumps(
            {
                "benchmark": name,
                **facts,
                "machine": machine,
                "versions": versions,
                "date": time.strftime("%Y-%m-%d"),
            }
        )
    )
