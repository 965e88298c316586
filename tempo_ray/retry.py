"""A call that may fail in passing -> its result, after a few tries with growing pauses between them."""

import random
import time
from collections.abc import Callable
from typing import TypeVar

Made = TypeVar("Made")


class Passing(RuntimeError):
    """Failed at every try, in a way that another time may not; the message is the last error's."""


def patiently(
    call: Callable[[], Made],
    attempts: int,
    *passing: type[Exception],
    pause_s: float = 0.5,
    pauses: Callable[[float], None] = time.sleep,
) -> Made:
    """Calls until it succeeds; the pause doubles, with up to as much again by chance, so that many do not come back at once.

    Raises Passing after `attempts` OSErrors, and any other error of `passing` as it is.
    """
    for attempt in range(1, attempts + 1):
        try:
            return call()
        except passing as error:
            if attempt == attempts:
                if isinstance(error, OSError):
                    raise Passing(f"{type(error).__name__}: {error}") from error
                raise
            pauses(pause_s * 2 ** (attempt - 1) * random.uniform(1, 2))
    raise ValueError(f"attempts is {attempts}; at least 1")
