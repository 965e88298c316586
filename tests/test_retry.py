"""Retries with backoff."""

import pytest

from tempo_ray.errors import TransientError
from tempo_ray.retry import retry_with_backoff


def test_delays_double_and_the_last_oserror_is_transient() -> None:
    delays: list[float] = []
    errors = [OSError("no"), OSError("no")]

    def call() -> str:
        if errors:
            raise errors.pop()
        return "result"

    assert retry_with_backoff(call, 3, OSError, sleep=delays.append) == "result"
    assert 0.5 <= delays[0] <= 1.0 <= delays[1] <= 2.0
    errors.extend([OSError("no"), OSError("still no")])
    with pytest.raises(TransientError, match="OSError: no"):
        retry_with_backoff(call, 2, OSError, sleep=delays.append)


def test_other_errors_are_raised_at_once() -> None:
    delays: list[float] = []
    with pytest.raises(KeyError):
        retry_with_backoff(lambda: {}["x"], 3, OSError, sleep=delays.append)
    assert delays == []


def test_an_error_that_is_no_oserror_stays_itself() -> None:
    def call() -> None:
        raise RuntimeError("crashed")

    with pytest.raises(RuntimeError, match="crashed"):
        retry_with_backoff(call, 2, RuntimeError, sleep=lambda _: None)


def test_no_attempt_is_a_mistake() -> None:
    with pytest.raises(ValueError, match="at least 1"):
        retry_with_backoff(lambda: None, 0, OSError)
