"""A service whose parts misbehave, for the tests of what becomes of it: `python -m tests.misbehaving`.

Requests misbehave by their path; what the application opens does by the variables `TEST_OPEN` and `TEST_CLOSE`.
"""

import asyncio
import os
import sys
import time
from collections.abc import Awaitable, Callable

from app.core.config import Settings, load_settings
from app.core.lifecycle import serve
from app.core.telemetry import Telemetry
from app.main import create_app

FOR_EVER = 3600.0


async def wait(seconds: float = FOR_EVER) -> None:
    """Leave the event loop to others."""
    await asyncio.sleep(seconds)


async def block(seconds: float = FOR_EVER) -> None:
    """Let nobody else have the event loop."""
    time.sleep(seconds)  # noqa: ASYNC251 - this is what is tested


def occupy(seconds: float = FOR_EVER) -> None:
    """Keep a thread."""
    time.sleep(seconds)


async def persist() -> None:
    """Take no notice of being cancelled."""
    while True:
        try:
            await asyncio.sleep(FOR_EVER)
        except asyncio.CancelledError:
            continue


async def _misbehave(how: str) -> None:
    match how:
        case "fail":
            raise RuntimeError("the disk is on fire")
        case "hang":
            await asyncio.sleep(FOR_EVER)


class CountingCheck:
    """A dependency check that counts how often it runs."""

    def __init__(self, check: Callable[[], Awaitable[None]]) -> None:
        self._check = check
        self._runs = 0

    async def __call__(self) -> None:
        self._runs += 1
        await self._check()

    async def count(self) -> int:
        """How often it ran."""
        return self._runs


def build(settings: Settings) -> Telemetry:
    """The service, and what is wrong with it."""
    app = create_app(settings)
    for endpoint in (wait, block, occupy, persist):
        app.fastapi.get(f"/test/{endpoint.__name__}")(endpoint)

    check = CountingCheck(app.fastapi.state.items.check)
    app.fastapi.state.readiness._check = check
    app.fastapi.get("/test/checks")(check.count)

    items = app.fastapi.state.items
    open_, close = items.open, items.close

    async def opened() -> None:
        await _misbehave(os.environ.get("TEST_OPEN", ""))
        await open_()

    async def closed() -> None:
        await close()
        await _misbehave(os.environ.get("TEST_CLOSE", ""))

    items.open, items.close = opened, closed
    return app


if __name__ == "__main__":
    sys.exit(serve(load_settings(), build))
