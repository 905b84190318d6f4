"""The service, with faults: an ASGI layer between it and its routes that fails, dawdles or leaks as it is told.

The image of a drill starts this in place of `python -m app`. What to do stands as JSON in the environment variable
`FAULTS`, and later in the file `/tmp/faults.json`, whose newest content counts.
"""

import asyncio
import json
import os
import random
import sys
from pathlib import Path
from typing import Any

from starlette.types import ASGIApp, Receive, Scope, Send

from app.core.config import Settings, load_settings
from app.core.lifecycle import serve
from app.core.telemetry import Telemetry
from app.main import create_app

FILE = Path("/tmp/faults.json")  # noqa: S108 - in a container, on a file system of its own


class FaultError(Exception):
    """A request fails because it was told to."""


class Faults:
    """An ASGI layer that misbehaves; probes are left alone.

    Args:
        app: answers the requests.
        file: what to do now; without it, what `FAULTS` says.
    """

    def __init__(self, app: ASGIApp, file: Path = FILE) -> None:
        self._app = app
        self._file = file
        self._faults: dict[str, Any] = json.loads(os.environ.get("FAULTS", "{}"))
        self._read_at = 0
        self._leaked: list[bytes] = []

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request, or not."""
        if scope["type"] != "http" or scope["path"].startswith("/health"):
            await self._app(scope, receive, send)
            return
        self._read()
        self._leak(int(self._faults.get("leak_bytes_per_request", 0)))
        await asyncio.sleep(self._faults.get("delay_seconds", 0))
        if random.random() < self._faults.get("error_share", 0):  # noqa: S311 - nobody gains by guessing it
            raise FaultError("as it was told")
        await self._app(scope, receive, send)

    def _read(self) -> None:
        try:
            changed = self._file.stat().st_mtime_ns
            if changed == self._read_at:
                return
            self._faults = json.loads(self._file.read_text(encoding="utf-8"))
        except (FileNotFoundError, ValueError):
            # Not there, or just being written.
            return
        self._read_at = changed
        self._leak(int(self._faults.get("leak_at_once_bytes", 0)))

    def _leak(self, count: int) -> None:
        # Random, as pages that are all the same could be shared, and untouched ones cost nothing.
        if count:
            self._leaked.append(random.randbytes(count))  # noqa: S311


def create_faulty_app(settings: Settings | None = None) -> Telemetry:
    """The application with the layer inside of telemetry, shedding and deadlines: they see it as its own doing."""
    telemetry = create_app(settings)
    telemetry.fastapi.add_middleware(Faults)
    return telemetry


if __name__ == "__main__":
    sys.exit(serve(load_settings(), create_faulty_app))
