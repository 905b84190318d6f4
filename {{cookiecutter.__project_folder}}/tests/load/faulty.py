"""The service with a store that is slow or fails, to see that a run notices: `python -m tests.load.faulty`.

`TEST_DELAY` is for how many seconds each call of the store waits, `TEST_FAILS` every how many calls one fails.
"""

import asyncio
import functools
import itertools
import os
import sys
from collections.abc import Awaitable, Callable
from typing import ParamSpec, TypeVar

from app.core.config import Settings, load_settings
from app.core.lifecycle import serve
from app.core.telemetry import Telemetry
from app.main import create_app
from app.storage import UnavailableError

DELAY = float(os.environ.get("TEST_DELAY", "0"))
FAILS = int(os.environ.get("TEST_FAILS", "0"))

calls = itertools.count(1)

P = ParamSpec("P")
T = TypeVar("T")


def faulty(method: Callable[P, Awaitable[T]]) -> Callable[P, Awaitable[T]]:
    """The method, with what is wrong with it."""

    @functools.wraps(method)
    async def call(*arguments: P.args, **named: P.kwargs) -> T:
        await asyncio.sleep(DELAY)
        if FAILS and next(calls) % FAILS == 0:
            raise UnavailableError("as it was told to")
        return await method(*arguments, **named)

    return call


def build(settings: Settings) -> Telemetry:
    """The service with such a store."""
    app = create_app(settings)
    items = app.fastapi.state.items
    for name in ("page", "get", "create", "replace", "delete"):
        setattr(items, name, faulty(getattr(items, name)))
    return app


if __name__ == "__main__":
    sys.exit(serve(load_settings(), build))
