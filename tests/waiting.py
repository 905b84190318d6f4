"""Waiting for what comes in its own time."""

import time
from collections.abc import Callable
from typing import TypeVar

from demo.client import NoAnswerError

Found = TypeVar("Found")


def wait_for(
    look: Callable[[], Found], otherwise: str | Callable[[], str], seconds: float = 90, pause: float = 0.1
) -> Found:
    """What `look` finds, as soon as it finds something; what does not answer yet is not found.

    Args:
        look: what is tried again and again.
        otherwise: what is wrong when nothing is found, or asked for that then.
        seconds: how long nothing may be found.
        pause: the seconds between two looks.

    Raises:
        AssertionError: nothing was found in time.
    """
    deadline = time.monotonic() + seconds
    while True:
        unanswered = ""
        try:
            if found := look():
                return found
        except NoAnswerError as error:
            unanswered = f": {error}"
        if time.monotonic() > deadline:
            wrong = otherwise if isinstance(otherwise, str) else otherwise()
            raise AssertionError(f"not within {seconds:g} s: {wrong}{unanswered}")
        time.sleep(pause)
