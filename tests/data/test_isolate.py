"""A child process that crashes, hangs or swells costs one call."""

import ctypes
import os
import time

import pytest

from tempo_ray.data.isolate import Crashed, Isolated, Limits, TookTooLong
from tempo_ray.retry import Passing, patiently


def misbehave(how: str) -> int:
    if how == "segfault":
        ctypes.string_at(0)
    if how == "hang":
        time.sleep(600)
    if how == "swell":
        return len(bytearray(1 << 34))
    if how == "raise":
        raise KeyError("mine")
    return os.getpid()


@pytest.fixture(scope="module")
def isolated() -> Isolated:
    return Isolated(Limits(seconds=3.0, memory_bytes=1 << 30))


@pytest.mark.parametrize(
    ("how", "message"),
    [("segfault", "SIGSEGV"), ("hang", "longer than 3 s"), ("swell", "more than 1.1 GB of memory")],
)
def test_a_bad_call_is_told_and_the_next_one_works(
    isolated: Isolated, how: str, message: str
) -> None:
    assert isolated(misbehave, "work") != os.getpid()
    with pytest.raises((Crashed, TookTooLong), match=message):
        isolated(misbehave, how)
    assert isolated(misbehave, "work") != os.getpid()


def test_errors_of_the_function_pass_through(isolated: Isolated) -> None:
    before = isolated(misbehave, "work")
    with pytest.raises(KeyError, match="mine"):
        isolated(misbehave, "raise")
    assert isolated(misbehave, "work") == before


def test_a_process_that_was_ended_from_outside_is_started_again(isolated: Isolated) -> None:
    before = isolated(misbehave, "work")
    os.kill(before, 9)
    time.sleep(0.2)
    assert isolated(misbehave, "work") != before


def test_patience() -> None:
    pauses: list[float] = []
    left = [OSError("no"), OSError("no")]

    def call() -> str:
        if left:
            raise left.pop()
        return "made"

    assert patiently(call, 3, OSError, pauses=pauses.append) == "made"
    assert 0.5 <= pauses[0] <= 1.0 <= pauses[1] <= 2.0
    left.extend([OSError("no"), OSError("still no")])
    with pytest.raises(Passing, match="OSError: no"):
        patiently(call, 2, OSError, pauses=pauses.append)
    with pytest.raises(KeyError):
        patiently(lambda: {}["x"], 3, OSError, pauses=pauses.append)
