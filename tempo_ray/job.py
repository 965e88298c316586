"""A job's config and result -> what the run directory says of it, however the job ends.

`user_errors` is the one place where UserError is caught: a mistake is two lines, not fifty.
"""

import json
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from tempo_ray.config import Config
from tempo_ray.errors import UserError
from tempo_ray.paths import RunPaths
from tempo_ray.records import write_row
from tempo_ray.storage import write_bytes

Log = Callable[[str], None]
"""Takes human-readable lines."""

_PACKAGE = "/working_dir_files/_ray_pkg_"
"""Where Ray unpacks the --working-dir of a submitted job."""


def print_line(line: str) -> None:
    """The `Log` of the commands: at once, for whoever reads the output of a pipe."""
    print(line, flush=True)


@dataclass
class Job:
    """A running job; set `summary`, a dataclass of records.py, as soon as there is something to
    report."""

    summary: Any = None


@contextmanager
def user_errors() -> Iterator[None]:
    """Ends the process with the message of a UserError and status 2."""
    try:
        yield
    except UserError as error:
        print(error, file=sys.stderr)
        raise SystemExit(2) from None


@contextmanager
def running(name: str, run: str | None, config: Config) -> Iterator[Job]:
    """Writes the resolved config, yields the job, and writes its summary to `summary/NAME.json`.

    The file also has `status` (`done` or `failed`), `seconds`, `config_hash` and `error`. Ctrl-C
    ends the process with status 130; every other exception propagates after it was recorded.
    Without a run directory nothing is written.
    """
    job = Job()
    began = time.monotonic()
    status, error = "failed", None
    paths = None if run is None else RunPaths(run)
    try:
        if paths is not None:
            _write_configs(name, paths, config)
        yield job
        status = "done"
    except KeyboardInterrupt:
        error = "interrupted"
        print(f"{name}: interrupted", file=sys.stderr)
        raise SystemExit(130) from None
    except UserError as mistake:
        error = str(mistake)
        raise
    except BaseException:  # whatever ended the job is recorded, and propagates
        error = traceback.format_exc(limit=1).strip().splitlines()[-1]
        raise
    finally:
        if paths is not None:
            facts = {
                "job": name,
                "status": status,
                "seconds": round(time.monotonic() - began, 1),
                "error": error,
                "config_hash": config.hash(),
            }
            _write_summary(name, paths, facts, job.summary)


def _write_configs(name: str, paths: RunPaths, config: Config) -> None:
    if _PACKAGE in paths.root:
        raise UserError(
            "a relative run= is inside the submitted job's package, which Ray deletes: give an "
            "absolute path or a URI"
        )
    try:
        for uri in (paths.config(name), paths.config(name, config.hash())):
            write_bytes(uri, config.to_yaml().encode())
    except OSError as problem:
        raise UserError(
            f"cannot write to run={paths.root}: {problem.strerror or problem}; "
            "choose a run directory that can be written to"
        ) from None


def _write_summary(name: str, paths: RunPaths, facts: dict[str, Any], summary: Any) -> None:
    """A summary that cannot be written must not hide why the job ended."""
    facts = facts | ({} if summary is None else write_row(summary))
    try:
        write_bytes(paths.summary(name), (json.dumps(facts, indent=1) + "\n").encode())
    except OSError as problem:
        print(f"summary not written: {problem}", file=sys.stderr)
