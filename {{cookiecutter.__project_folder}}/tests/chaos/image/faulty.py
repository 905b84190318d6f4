"""The service, with faults: an ASGI layer before its routes that fails, is slow or leaks as it is told.

The image of a drill starts this in place of `python -m app`. What to do stands as JSON in the environment variable
`FAULTS`, and later in the file `/tmp/faults.json`, whose newest content counts.
"""

import json
import os
import random
import sys
import time
from pathlib import Path
from typing import Any

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app.core.config import Settings, load_settings
from app.core.lifecycle import serve
from app.core.telemetry import Telemetry
from app.main import create_app

FILE = Path("/tmp/faults.json")  # noqa: S108 - in a container, on a file system of its own
CGROUP = Path("/sys/fs/cgroup")
CHUNK = 1 << 18


class FaultError(Exception):
    """A request fails because it was told to."""


class Faults:
    """An ASGI layer that misbehaves; probes are left alone.

    Args:
        app: answers the requests.
        file: what to do now; without it, what `FAULTS` says.
    """

    def __init__(self, app: ASGIApp, file: Path) -> None:
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
        busy_until = time.thread_time() + float(self._faults.get("busy_seconds", 0))
        while time.thread_time() < busy_until:
            pass
        fails = random.random() < self._faults.get("error_share", 0)  # noqa: S311 - nobody gains by guessing it
        await self._app(scope, receive, _fail if fails else send)

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
        while used_share() < self._faults.get("leak_to_share", 0):
            self._leak(CHUNK)

    def _leak(self, count: int) -> None:
        # Random: pages that nobody has written to cost nothing.
        if count:
            self._leaked.append(random.randbytes(count))  # noqa: S311


async def _fail(_: Message) -> None:
    """Fail where an answer would begin: by then it is known which route it is of, as with a mistake in that."""
    raise FaultError("as it was told")


def used_share(folder: Path = CGROUP) -> float:
    """The share of its memory limit that this container uses and cannot give back; 1 where nothing can be told."""
    for usage, limit, stat, cached in (
        ("memory.current", "memory.max", "memory.stat", "inactive_file"),
        # Control groups of the first version.
        ("memory/memory.usage_in_bytes", "memory/memory.limit_in_bytes", "memory/memory.stat", "total_inactive_file"),
    ):
        if not (folder / usage).exists() or (most := (folder / limit).read_text(encoding="utf-8").strip()) == "max":
            continue
        counted = dict(line.split() for line in (folder / stat).read_text(encoding="utf-8").splitlines())
        return (int((folder / usage).read_text(encoding="utf-8")) - int(counted[cached])) / int(most)
    return 1.0


def create_faulty_app(settings: Settings | None = None) -> Telemetry:
    """The application with the layer inside of telemetry, shedding and deadlines: they see it as its own doing."""
    telemetry = create_app(settings)
    telemetry.fastapi.add_middleware(Faults, file=FILE)
    return telemetry


if __name__ == "__main__":
    sys.exit(serve(load_settings(), create_faulty_app))
