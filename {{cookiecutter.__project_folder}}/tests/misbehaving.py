"""A service whose parts misbehave, for the tests of what becomes of it: `python -m tests.misbehaving`.

Requests misbehave by their path; what the application opens and closes, by `TEST_OPEN` and `TEST_CLOSE`.
"""

import asyncio
import os
import sys
import threading
import time
from collections.abc import Awaitable, Callable
from typing import Any

from app.core.config import Settings, load_settings
from app.core.lifecycle import serve
from app.core.telemetry import Telemetry
from app.main import create_app

FOR_EVER = 3600.0


class Gate:
    """Keeps requests, with good manners, until it is opened."""

    def __init__(self) -> None:
        self._opened = asyncio.Event()
        self._opened_for_threads = threading.Event()

    async def wait(self) -> None:
        """Wait until it is opened, and leave the event loop to others."""
        await self._opened.wait()

    def occupy(self) -> None:
        """Keep a thread until it is opened."""
        self._opened_for_threads.wait()

    async def open(self) -> None:
        """Let all go on."""
        self._opened.set()
        self._opened_for_threads.set()


async def block(seconds: float = FOR_EVER) -> None:
    """Let nobody else have the event loop."""
    time.sleep(seconds)  # noqa: ASYNC251 - this is what is tested


async def persist() -> None:
    """Take no notice of being cancelled."""
    while True:
        try:
            await asyncio.sleep(FOR_EVER)
        except asyncio.CancelledError:
            continue


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


async def misbehave(how: str) -> None:
    """Do not do what was asked for."""
    match how:
        case "fail":
            raise RuntimeError("the disk is on fire")
        case "hang":
            await asyncio.sleep(FOR_EVER)


def build(settings: Settings) -> Telemetry:
    """The service, and what is wrong with it."""
    app = create_app(settings)
    gate = Gate()
    check = CountingCheck(app.fastapi.state.items.check)
    app.fastapi.state.readiness._check = check
    endpoints: tuple[Callable[..., Any], ...] = (gate.wait, gate.occupy, gate.open, block, persist, check.count)
    for endpoint in endpoints:
        app.fastapi.get(f"/test/{endpoint.__name__}")(endpoint)

    items = app.fastapi.state.items
    open_, close = items.open, items.close

    async def opened() -> None:
        await misbehave(os.environ.get("TEST_OPEN", ""))
        await open_()

    async def closed() -> None:
        await close()
        await misbehave(os.environ.get("TEST_CLOSE", ""))

    items.open, items.close = opened, closed
    return app


if __name__ == "__main__":
    sys.exit(serve(load_settings(), build))
