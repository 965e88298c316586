"""A child process that crashes, hangs or runs out of memory costs one call."""

import ctypes
import os
import time

import pytest

from tempo_ray.data.isolate import Crashed, Isolated, Limits, TookTooLong


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
def test_a_bad_call_raises_and_the_next_one_works(
    isolated: Isolated, how: str, message: str
) -> None:
    assert isolated(misbehave, "work") != os.getpid()
    with pytest.raises((Crashed, TookTooLong), match=message):
        isolated(misbehave, how)
    assert isolated(misbehave, "work") != os.getpid()


def test_errors_of_the_function_pass_through(isolated: Isolated) -> None:
    before = isolated(misbehave, "work")
    with pytest.raises(KeyError, match="mine"):
        isolated(misbehave, how="raise")
    assert isolated(misbehave, "work") == before


def test_a_process_that_was_killed_from_outside_is_restarted(isolated: Isolated) -> None:
    before = isolated(misbehave, "work")
    os.kill(before, 9)
    time.sleep(0.2)
    assert isolated(misbehave, "work") != before
