"""A call -> the same call in a process of its own, which may crash, hang or swell without harm to its caller.

Codecs are C code fed with strangers' files: one that kills its process must cost one file, not the actor that would be
started again with the same file for ever.
"""

import ctypes
import multiprocessing
import os
import resource
import signal
import sys
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import Any, TypeVar

Given = TypeVar("Given")
Made = TypeVar("Made")

PR_SET_PDEATHSIG = 1


class Crashed(RuntimeError):
    """The process died, or took more memory than it may; the message says which."""


class TookTooLong(RuntimeError):
    """The process was ended at its limit of time."""


@dataclass(frozen=True)
class Limits:
    seconds: float
    """For one call."""
    memory_bytes: int
    """Private memory that calls may add to what the process has once its code is loaded."""


def _die_with_parent() -> None:
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


def _data_bytes() -> int:
    """What RLIMIT_DATA counts, as it stands."""
    with open("/proc/self/status") as status:
        return next(1024 * int(line.split()[1]) for line in status if line.startswith("VmData:"))


def _work(limits: Limits, pipe: Connection) -> None:
    _die_with_parent()
    os.nice(5)  # on a node that they share, a decoder gives way to an engine
    pipe.send(None)  # it is up
    limited = False
    while True:
        try:
            function, given = pipe.recv()  # imports the function's module
        except EOFError:
            return
        if not limited:
            most = _data_bytes() + limits.memory_bytes
            resource.setrlimit(resource.RLIMIT_DATA, (most, most))
            limited = True
        try:
            made: tuple[Any, Exception | None] = (function(given), None)
        except Exception as error:  # noqa: BLE001, it belongs to the caller
            made = (None, error)
        pipe.send(made)


class Isolated:
    """Calls module-level functions in one child process, started again after it died. Not for two threads at once."""

    START_SECONDS = 120.0

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._context = multiprocessing.get_context("spawn")
        self._start()

    def _start(self) -> None:
        self._pipe, theirs = self._context.Pipe()
        self._process = self._context.Process(
            target=_work, args=(self._limits, theirs), daemon=True
        )
        self._process.start()
        theirs.close()
        self._up = False

    def _wait_until_up(self) -> None:
        """At the first call and not before: whoever makes this has other things to load meanwhile."""
        if not self._pipe.poll(self.START_SECONDS):
            raise RuntimeError(f"a child process did not start within {self.START_SECONDS:.0f} s")
        self._pipe.recv()
        self._up = True

    @property
    def pid(self) -> int | None:
        return self._process.pid

    def __call__(self, function: Callable[[Given], Made], given: Given) -> Made:
        """Raises what the function raises, Crashed, and TookTooLong."""
        if not self._process.is_alive():  # ended from outside while it was idle
            self._restart()
        try:
            if not self._up:
                self._wait_until_up()
            self._pipe.send((function, given))
            if not self._pipe.poll(self._limits.seconds):
                raise TookTooLong(f"took longer than {self._limits.seconds:g} s")
            made, error = self._pipe.recv()
        except (EOFError, ConnectionResetError, BrokenPipeError):
            self._process.join(10)
            code = self._process.exitcode
            how = signal.Signals(-code).name if code is not None and code < 0 else f"status {code}"
            self._restart()
            raise Crashed(f"the decoder's process ended with {how}") from None
        except TookTooLong:
            self._restart()
            raise
        if isinstance(error, MemoryError):
            raise Crashed(f"took more than {self._limits.memory_bytes / 1e9:.1f} GB of memory")
        if error is not None:
            raise error
        return made

    def _restart(self) -> None:
        self.close()
        self._start()

    def close(self) -> None:
        self._pipe.close()
        self._process.kill()
        self._process.join()
