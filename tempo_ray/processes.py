"""A subcommand and its words -> a process of its own, its lines, and its log.

Tested in tests/integration/test_package.py.
"""

import contextlib
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO

from tempo_ray.job import Log


class JobFailed(Exception):
    """A job ended with another status than 0. The message ends with what its log says."""


@contextlib.contextmanager
def job_failures() -> Iterator[None]:
    """Ends the process with the message of a JobFailed and status 1."""
    try:
        yield
    except JobFailed as failure:
        print(failure, file=sys.stderr)
        raise SystemExit(1) from None


class Jobs:
    """Runs subcommands of tempo-ray. Their own lines go to a Log, all else to `logs`/NN-JOB.log."""

    def __init__(self, logs: Path, config: str) -> None:
        self._logs, self._config = logs, config
        self._lock = threading.Lock()

    def run(self, name: str, words: Sequence[str], log: Log | None = None) -> None:
        """Raises JobFailed."""
        with self._started(name, words) as (process, file):
            for line in _lines(process):
                if log is not None:
                    log(line)
            if process.wait():
                raise JobFailed(_failure(name, process.returncode, file))

    @contextlib.contextmanager
    def serving(self, words: Sequence[str]) -> Iterator[str]:
        """Yields the URL of an endpoint, which ends with the block. Raises JobFailed."""
        with self._started("serve", words) as (process, file):
            for line in _lines(process):
                if line.startswith("ready: "):
                    yield line.removeprefix("ready: ")
                    return
            raise JobFailed(_failure("serve", process.wait(), file))

    @contextlib.contextmanager
    def _started(
        self, name: str, words: Sequence[str]
    ) -> Iterator[tuple[subprocess.Popen[str], Path]]:
        config = () if name == "make-shapeworld" else ("--config", self._config)
        command = [sys.executable, "-m", "tempo_ray.cli", name, *config, *words]
        file = self._new_log(name)
        with file.open("w") as errors:
            errors.write(" ".join(command) + "\n")
            errors.flush()
            process = subprocess.Popen(
                command, stdout=subprocess.PIPE, stderr=errors, text=True, start_new_session=True
            )
            try:
                yield process, file
            finally:
                _end(process)

    def _new_log(self, name: str) -> Path:
        with self._lock:
            self._logs.mkdir(parents=True, exist_ok=True)
            file = self._logs / f"{len(list(self._logs.iterdir())):02d}-{name}.log"
            file.touch()
        return file


def _lines(process: subprocess.Popen[str]) -> Iterator[str]:
    stdout: IO[str] | None = process.stdout
    assert stdout is not None
    for line in stdout:
        if line.strip() and not line.startswith("\x1b["):  # Ray's own warnings are coloured
            yield line.rstrip()


def _end(process: subprocess.Popen[str]) -> None:
    if process.poll() is None:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(60)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)


def _failure(name: str, status: int, file: Path) -> str:
    tail = file.read_text(errors="replace").strip().splitlines()[-12:]
    last = f"tempo-ray {name} ended with status {status}; the whole log is in {file}"
    return "\n".join([*tail, "", last])


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
