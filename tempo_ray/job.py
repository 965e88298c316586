"""A job's config and counts -> what the run directory says of it, whatever happens; and mistakes in two lines, not in fifty."""

import json
import sys
import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from tempo_ray.config import Config
from tempo_ray.paths import RunPaths, write_bytes

_PACKAGE = "/working_dir_files/_ray_pkg_"
"""Where Ray unpacks the --working-dir of a submitted job."""


class BadInput(Exception):
    """What the user gave cannot be used; the message says what to do, in one or two lines."""


@contextmanager
def running(job: str, run: str | None, config: Config) -> Iterator[dict[str, Any]]:
    """Saves the resolved config, yields a dict for counts, and writes it to `summary/JOB.json` when the job ends.

    The summary also holds `status` (`done` or `failed`), `seconds`, `config_hash` and `error`. BadInput ends the process
    with its message and status 2; any other exception passes through after it was recorded.
    """
    counts: dict[str, Any] = {}
    began = time.monotonic()
    paths = None if run is None else RunPaths(run)
    status, error = "failed", None
    try:
        if run is not None and _PACKAGE in run:
            raise BadInput(
                "a relative run= lies in the submitted job's package, which Ray deletes: give an absolute path or a URI"
            )
        if paths is not None:
            _first_write(paths.config(job), config.to_yaml(), run or "")
            _first_write(paths.config(job, config.hash()), config.to_yaml(), run or "")
        yield counts
        status = "done"
    except BadInput as mistake:
        error = str(mistake)
        print(error, file=sys.stderr)
        raise SystemExit(2) from None
    except KeyboardInterrupt:
        error = "interrupted"
        print(f"{job}: interrupted", file=sys.stderr)
        raise SystemExit(130) from None
    except BaseException:  # whatever ended the job is recorded, and passes on
        error = traceback.format_exc(limit=1).strip().splitlines()[-1]
        raise
    finally:
        if paths is not None:
            facts = {
                "job": job,
                "status": status,
                "seconds": round(time.monotonic() - began, 1),
                "error": error,
            }
            summary = facts | {"config_hash": config.hash()} | counts
            _try_write(paths.summary(job), json.dumps(summary, indent=1) + "\n")


def _first_write(uri: str, text: str, run: str) -> None:
    try:
        write_bytes(uri, text.encode())
    except OSError as problem:
        raise BadInput(
            f"cannot write to run={run}: {problem.strerror or problem}; give a run directory that can be written to"
        ) from None


def _try_write(uri: str, text: str) -> None:
    """A summary that cannot be written must not hide why the job ended."""
    try:
        write_bytes(uri, text.encode())
    except OSError as problem:
        print(f"summary not written: {problem}", file=sys.stderr)
