"""What tests use that is no fixture: a client of an application, and a service in a process of its own."""

import json
import os
import random
import signal
import socket
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from pathlib import Path
from typing import IO, Any

import httpx
import pytest

from app.core.telemetry import Telemetry

ROOT = Path(__file__).resolve().parent.parent


@asynccontextmanager
async def client_of(app: Telemetry) -> AsyncIterator[httpx.AsyncClient]:
    """A client of an application within its lifespan."""
    async with AsyncExitStack() as stack:
        await stack.enter_async_context(app.fastapi.router.lifespan_context(app.fastapi))
        transport = httpx.ASGITransport(app, raise_app_exceptions=False)

        async def flush(_: object) -> None:
            app.flush()

        hooks = {"response": [flush]}
        client = httpx.AsyncClient(transport=transport, base_url="http://test", event_hooks=hooks)
        yield await stack.enter_async_context(client)


def free_port(*taken: int) -> int:
    """A port that nobody uses or has taken, below those that systems give to clients, of which tests are full."""
    while True:
        port = random.SystemRandom().randrange(15_000, 32_768)
        if port in taken:
            continue
        with socket.socket() as listener, suppress(OSError):
            listener.bind(("127.0.0.1", port))
            return port


def wait_for(
    condition: Callable[[], object], otherwise: str = "it did not come to that in time", timeout: float = 30
) -> None:
    """Wait until the condition holds; fail with these words if it does not come to that in time."""
    deadline = time.monotonic() + timeout
    while not condition():
        if time.monotonic() > deadline:
            pytest.fail(otherwise)
        time.sleep(0.02)


class Service:
    """`python -m app` as a process of its own, in a folder of its own.

    Args:
        folder: its working directory, where an embedded store puts its file.
        environment: variables beyond the two ports.
        command: arguments after `python -m app`.
        module: what runs instead of `app`.
        stdout: where its log lines go, by default to where `end` finds them.
    """

    def __init__(
        self,
        folder: Path,
        environment: dict[str, str],
        command: tuple[str, ...] = (),
        module: str = "app",
        stdout: int | IO[str] = subprocess.PIPE,
    ) -> None:
        self.port = free_port()
        self.metrics_port = free_port(self.port)
        variables = {"HTTP_PORT": str(self.port), "METRICS_PORT": str(self.metrics_port)} | environment
        self.process = subprocess.Popen(  # noqa: S603 - our own interpreter and module
            [sys.executable, "-m", module, *command],
            cwd=folder,
            env=os.environ | {"PYTHONPATH": str(ROOT)} | variables,
            stdin=subprocess.PIPE,
            stdout=stdout,
            stderr=subprocess.PIPE,
            text=True,
        )
        self.url = f"http://127.0.0.1:{self.port}"
        self.metrics_url = f"http://127.0.0.1:{self.metrics_port}/metrics"
        # Not one for each look: reading the system's certificates would take longer than the look itself.
        self._client = httpx.Client(base_url=self.url)

    def wait_until(self, path: str, status: int, timeout: float = 60) -> None:
        """Wait until `path` answers with `status`."""
        deadline = time.monotonic() + timeout
        last: object = None
        while time.monotonic() < deadline and self.process.poll() is None:
            try:
                last = self._client.get(path).status_code
            except httpx.TransportError as error:
                last = error
            if last == status:
                return
            time.sleep(0.05)
        self.process.kill()
        pytest.fail(f"{path} did not answer {status}, last was {last!r}; {self.process.communicate()}")

    def kill(self) -> None:
        """End it without ceremony, unless it has ended."""
        self._client.close()
        if self.process.poll() is None:
            self.process.kill()
            self.process.communicate()

    def end(self, send: signal.Signals | None = None, timeout: float = 20) -> tuple[int, list[dict[str, Any]], str]:
        """Wait for the end, after a signal if one is given: exit code, log lines, standard error."""
        if send:
            self.process.send_signal(send)
        self._client.close()
        out, err = self.process.communicate(timeout=timeout)
        return self.process.returncode, [json.loads(line) for line in (out or "").splitlines()], err
