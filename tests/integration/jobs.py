"""Running jobs in tests: in this process, on the Ray that all tests of it share; or as processes of
their own, which end with the block that started them.
"""

import contextlib
import io
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil

from tempo_ray.cli import main

ROOT = Path(__file__).parents[2]


@dataclass(frozen=True)
class Ended:
    """How a job ended, and what it printed."""

    status: int
    out: str
    err: str


def run_job(command: str, *words: str) -> Ended:
    """A subcommand of tempo-ray in this process. Needs the `ray_cluster` fixture if it uses Ray."""
    out, err = io.StringIO(), io.StringIO()
    status = 0
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            main([command, *words])
        except SystemExit as ended:
            status = ended.code if isinstance(ended.code, int) else int(ended.code is not None)
    return Ended(status, out.getvalue(), err.getvalue())


def _default_interrupt() -> None:
    """A suite in the background ignores Ctrl-C, and its children inherit that."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


@contextlib.contextmanager
def started_job(
    name: str, *words: str, log: Path, environment: dict[str, str] | None = None
) -> Iterator[subprocess.Popen[bytes]]:
    """jobs/NAME.py in a process group of its own; whatever is left of it is killed at the end."""
    with log.open("ab") as stream:
        process = subprocess.Popen(
            [sys.executable, str(ROOT / "jobs" / f"{name}.py"), *words],
            cwd=ROOT,
            env=os.environ | (environment or {}),
            stdout=stream,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            preexec_fn=_default_interrupt,
        )
    try:
        yield process
    finally:
        kill_group(process)


@contextlib.contextmanager
def endpoint(
    *words: str, log: Path, environment: dict[str, str] | None = None
) -> Iterator[tuple[str, subprocess.Popen[bytes]]]:
    """jobs/serve.py once it is ready: its base URL, and its process, which SIGTERM then ends."""
    with started_job("serve", *words, log=log, environment=environment) as process:
        wait_until(lambda: "\nready: " in log.read_text(), process, log, 400)
        yield log.read_text().rpartition("\nready: ")[2].strip(), process
        process.send_signal(signal.SIGTERM)
        assert process.wait(90) == 0, log.read_text()[-3000:]


def kill_group(process: subprocess.Popen[bytes]) -> None:
    """The process, its descendants and its group, at one stroke."""
    with contextlib.suppress(psutil.NoSuchProcess):
        for child in psutil.Process(process.pid).children(recursive=True):
            with contextlib.suppress(psutil.NoSuchProcess):
                child.kill()
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def wait_until(
    condition: Callable[[], object],
    process: subprocess.Popen[bytes],
    log: Path,
    seconds: float = 300,
) -> None:
    """Until the condition holds; fails where the process ends before, or the time is up."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert process.poll() is None, log.read_text()[-3000:]
        assert time.monotonic() < deadline, log.read_text()[-3000:]
        time.sleep(0.05)


def processes_named(root: psutil.Process, name: str) -> list[psutil.Process]:
    """Descendants whose command line contains the name: Ray actors are named after their class."""
    found = []
    for child in root.children(recursive=True):
        with contextlib.suppress(psutil.Error):
            if name in " ".join(child.cmdline()):
                found.append(child)
    return found
