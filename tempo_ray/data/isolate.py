"""A call -> the same call in a child process, which may crash, hang or run out of memory without
harm to its caller.

Codecs are C code that parses untrusted input. A file that kills its process must cost one file, not
the actor, which Ray would restart with the same file for ever.
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
from typing import Any, ParamSpec, TypeVar

Args = ParamSpec("Args")
Result = TypeVar("Result")

PR_SET_PDEATHSIG = 1


class Crashed(RuntimeError):
    """The process died, or needed more memory than its limit; the message says which."""


class TookTooLong(RuntimeError):
    """The call reached its time limit and the process was killed."""


@dataclass(frozen=True)
class Limits:
    seconds: float
    """Per call."""
    memory_bytes: int
    """Private memory that calls may allocate on top of what the process has with its code
    loaded."""


def _die_with_parent() -> None:
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


def _data_bytes() -> int:
    """The current value of what RLIMIT_DATA limits."""
    with open("/proc/self/status") as status:
        return next(1024 * int(line.split()[1]) for line in status if line.startswith("VmData:"))


def _serve_calls(limits: Limits, pipe: "Connection[Any, Any]") -> None:
    """The child: receives (function, args, kwargs), sends (result, error)."""
    _die_with_parent()
    os.nice(5)  # where decoders and engines share a node, engines come first
    pipe.send(None)  # started
    limited = False
    while True:
        try:
            function, args, kwargs = pipe.recv()  # imports the function's module
        except EOFError:
            return
        if not limited:
            max_bytes = _data_bytes() + limits.memory_bytes
            resource.setrlimit(resource.RLIMIT_DATA, (max_bytes, max_bytes))
            limited = True
        try:
            reply: tuple[Any, Exception | None] = (function(*args, **kwargs), None)
        except Exception as error:  # noqa: BLE001, it is raised again in the caller
            reply = (None, error)
        pipe.send(reply)


class Isolated:
    """Calls module-level functions in one child process, which is restarted after it died.

    Not thread-safe: one thread at a time.
    """

    START_SECONDS = 120.0

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._context = multiprocessing.get_context("spawn")
        self._start()

    def _start(self) -> None:
        self._pipe, child_pipe = self._context.Pipe()
        self._process = self._context.Process(
            target=_serve_calls, args=(self._limits, child_pipe), daemon=True
        )
        self._process.start()
        child_pipe.close()
        self._started = False

    def _wait_until_started(self) -> None:
        """At the first call rather than in `_start`: the caller has other things to load
        meanwhile."""
        if not self._pipe.poll(self.START_SECONDS):
            raise RuntimeError(f"a child process did not start within {self.START_SECONDS:.0f} s")
        self._pipe.recv()
        self._started = True

    @property
    def pid(self) -> int | None:
        return self._process.pid

    def __call__(
        self, function: Callable[Args, Result], *args: Args.args, **kwargs: Args.kwargs
    ) -> Result:
        """Arguments and result are pickled.

        Raises:
            Crashed: the process died or ran out of memory.
            TookTooLong: the call exceeded its time limit.
            Exception: whatever the function raised.
        """
        if not self._process.is_alive():  # killed from outside while it was idle
            self._restart()
        try:
            if not self._started:
                self._wait_until_started()
            self._pipe.send((function, args, kwargs))
            if not self._pipe.poll(self._limits.seconds):
                raise TookTooLong(f"took longer than {self._limits.seconds:g} s")
            result, error = self._pipe.recv()
        except (EOFError, ConnectionResetError, BrokenPipeError):
            cause = self._cause_of_death()
            self._restart()
            raise Crashed(f"the decoder's process ended with {cause}") from None
        except TookTooLong:
            self._restart()
            raise
        if isinstance(error, MemoryError):
            raise Crashed(f"took more than {self._limits.memory_bytes / 1e9:.1f} GB of memory")
        if error is not None:
            raise error
        return result  # type: ignore[no-any-return]  # unpickled: its type is the function's

    def _cause_of_death(self) -> str:
        self._process.join(10)
        code = self._process.exitcode
        if code is not None and code < 0:
            return signal.Signals(-code).name
        return f"status {code}"

    def _restart(self) -> None:
        self.close()
        self._start()

    def close(self) -> None:
        self._pipe.close()
        self._process.kill()
        self._process.join()
