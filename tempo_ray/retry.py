"""A call that may fail transiently -> its result, retried with exponential backoff."""

import random
import time
from collections.abc import Callable
from typing import TypeVar

from tempo_ray.errors import TransientError

Result = TypeVar("Result")


def retry_with_backoff(
    call: Callable[[], Result],
    attempts: int,
    *retried: type[Exception],
    first_delay_s: float = 0.5,
    sleep: Callable[[float], None] = time.sleep,
) -> Result:
    """Calls until it succeeds. The delay doubles, with jitter, so that many callers do not return
    at once.

    Raises:
        TransientError: the last of `attempts` attempts raised an OSError.
        Exception: any other error of `retried` at the last attempt, and every other error at once.
    """
    if attempts < 1:
        raise ValueError(f"attempts must be at least 1, not {attempts}")
    for attempt in range(1, attempts + 1):
        try:
            return call()
        except retried as error:
            if attempt == attempts:
                if isinstance(error, OSError):
                    raise TransientError(f"{type(error).__name__}: {error}") from error
                raise
            sleep(first_delay_s * 2 ** (attempt - 1) * random.uniform(1, 2))
    raise AssertionError("unreachable")
