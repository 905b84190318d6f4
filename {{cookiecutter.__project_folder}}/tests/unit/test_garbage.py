"""Nothing of a request waits for the garbage collector, which would take a tenth of its CPU time."""

import asyncio
import gc
from typing import Any

import uvicorn
from uvicorn.server import ServerState

from app.core.http_protocol import BoundedHttp
from app.core.telemetry import Telemetry
from tests.support import client_of

REQUESTS = 50
REQUEST = b"GET /api/v1/items HTTP/1.1\r\nHost: test\r\nTraceparent: 00-%032x-%016x-01\r\n\r\n" % (1, 1)


class Transport(asyncio.Transport):
    """A connection whose client reads everything at once."""

    def __init__(self) -> None:
        super().__init__()
        self.responses = 0

    def write(self, data: Any) -> None:
        self.responses += bytes(data).startswith(b"HTTP/1.1 200")

    def is_closing(self) -> bool:
        return False

    def close(self) -> None:
        """Nothing to do."""

    def pause_reading(self) -> None:
        """Nothing to do: requests come when they are asked for."""

    def resume_reading(self) -> None:
        """Nothing to do."""


async def test_a_request_leaves_nothing_to_the_garbage_collector(app: Telemetry) -> None:
    config = uvicorn.Config(app, access_log=False, log_config=None, lifespan="off")
    config.load()
    transport = Transport()

    async def ask() -> None:
        for _ in range(REQUESTS):
            connection.data_received(REQUEST)
            # The request, and what is called back at its end.
            await asyncio.sleep(0)
            await asyncio.sleep(0)
        app.flush()

    async with client_of(app):
        connection = BoundedHttp(
            config=config,
            server_state=ServerState(),
            app_state={},
            head_bytes=1000,
            head_seconds=60,
            draining=lambda: False,
        )
        connection.connection_made(transport)
        await ask()
        gc.collect()
        gc.disable()
        try:
            await ask()
            # Fewer than one object a request: the rest of the process may leave some.
            assert gc.collect() < REQUESTS
        finally:
            gc.enable()
            connection.connection_lost(None)

    assert transport.responses == 2 * REQUESTS
