"""A service whose requests go on in tasks, threads and other services: `python -m tests.propagating`."""

import asyncio
import os
import sys
import threading
from typing import Annotated

import structlog
from fastapi import BackgroundTasks, Query

from app.core import outgoing
from app.core.config import Settings, load_settings
from app.core.lifecycle import serve
from app.core.telemetry import Telemetry
from app.main import create_app

log = structlog.get_logger()


def tell(where: str) -> None:
    """Say something."""
    log.info("told", where=where)


async def in_request() -> None:
    """Log where the request is served."""
    tell("in_request")


async def in_background(tasks: BackgroundTasks) -> None:
    """Log after the response."""
    tasks.add_task(tell, "in_background")


async def in_task() -> None:
    """Log in a task that outlives the request, which started it."""

    async def later() -> None:
        await asyncio.sleep(0.05)
        tell("in_task")

    tasks.add(asyncio.create_task(later()))


tasks: set[asyncio.Task[None]] = set()


async def in_thread() -> None:
    """Log in a thread that is given the context."""
    await asyncio.to_thread(tell, "in_thread")


def in_endpoint_thread() -> None:
    """Log in the thread of a synchronous endpoint."""
    tell("in_endpoint_thread")


async def in_executor() -> None:
    """Log in a thread that is not given the context."""
    await asyncio.get_running_loop().run_in_executor(None, tell, "in_executor")


async def in_other_service() -> str:
    """Ask another service, and return its answer."""
    async with outgoing.client(load_settings()) as client:
        return (await client.get(os.environ["TEST_UPSTREAM"])).text


async def flood(lines: Annotated[int, Query()]) -> None:
    """Log the same error again and again."""
    for number in range(lines):
        log.error("flood", number=number, text="x" * 400)


async def fail_in_thread() -> None:
    """Let a thread end by an error."""

    def fail() -> None:
        raise RuntimeError("nobody caught this")

    threading.Thread(target=fail, name="doomed").start()


def build(settings: Settings) -> Telemetry:
    """The service with these endpoints, at `/test/<name>`."""
    app = create_app(settings)
    asynchronous = (in_request, in_background, in_task, in_thread, in_executor, in_other_service, flood, fail_in_thread)
    for endpoint in (*asynchronous, in_endpoint_thread):
        app.fastapi.get(f"/test/{endpoint.__name__}")(endpoint)
    return app


if __name__ == "__main__":
    sys.exit(serve(load_settings(), build))
