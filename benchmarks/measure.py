"""What every benchmark prints: one JSON object, with machine and versions, as its last line."""

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
    """The wall time of a call."""
    began = time.perf_counter()
    call()
    return time.perf_counter() - began


def in_turns(
    first: Callable[[], Any], second: Callable[[], Any], rounds: int
) -> tuple[list[float], list[float]]:
    """Seconds of both, in turns, so that a slow minute of the machine falls on both."""
    first_times: list[float] = []
    second_times: list[float] = []
    for _ in range(rounds):
        first_times.append(seconds(first))
        second_times.append(seconds(second))
    return first_times, second_times


def ratios(numerators: list[float], denominators: list[float]) -> dict[str, float]:
    """Round by round: the median, the least and the greatest."""
    ordered = sorted(
        numerator / denominator
        for numerator, denominator in zip(numerators, denominators, strict=True)
    )
    return {
        "ratio": round(median(ordered), 3),
        "least": round(ordered[0], 3),
        "greatest": round(ordered[-1], 3),
    }


def report(name: str, packages: tuple[str, ...], **facts: Any) -> None:
    """Prints the result, with the versions of `packages`."""
    machine = {
        "cores": os.cpu_count(),
        "memory_gb": round(psutil.virtual_memory().total / 1e9, 1),
        "architecture": platform.machine(),
        "python": platform.python_version(),
    }
    versions = {package: version(package) for package in packages}
    date = time.strftime("%Y-%m-%d")
    result = {"benchmark": name, **facts, "machine": machine, "versions": versions, "date": date}
    print(json.dumps(result))
