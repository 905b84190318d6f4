"""WebSockets seen by telemetry, where a server of another kind would be needed, and what is no handshake."""

from collections.abc import Awaitable, Callable
from contextlib import suppress

import pytest
import structlog
from starlette.types import Message, Receive, Scope, Send

from app.core.http_protocol import is_handshake
from app.core.telemetry import Telemetry

KEY = (b"sec-websocket-key", b"dGhlIHNhbXBsZSBub25jZQ==")
VERSION = (b"sec-websocket-version", b"13")


@pytest.mark.parametrize(
    ("method", "version", "target", "fields", "valid"),
    [
        (b"GET", "1.1", b"/", [KEY, VERSION], True),
        (b"POST", "1.1", b"/", [KEY, VERSION], False),
        (b"GET", "1.0", b"/", [KEY, VERSION], False),
        (b"GET", "1.1", b"/" * 8192, [KEY, VERSION], False),
        (b"GET", "1.1", b"/", [VERSION], False),
        (b"GET", "1.1", b"/", [(KEY[0], b"dG"), VERSION], False),
        (b"GET", "1.1", b"/", [(KEY[0], b"d"), VERSION], False),
        (b"GET", "1.1", b"/", [KEY], False),
        (b"GET", "1.1", b"/", [KEY, (VERSION[0], b"8")], False),
        (b"GET", "1.1", b"/", [KEY, VERSION, (b"content-length", b"1")], False),
        (b"GET", "1.1", b"/", [KEY, VERSION, (b"transfer-encoding", b"chunked")], False),
        (b"GET", "1.1", b"/", [KEY, VERSION, *[(b"x", b"")] * 127], False),
        (b"GET", "1.1", b"/", [KEY, VERSION, (b"x", b"a" * 8192)], False),
    ],
)
def test_only_a_valid_handshake_upgrades(
    method: bytes, version: str, target: bytes, fields: list[tuple[bytes, bytes]], valid: bool
) -> None:
    assert is_handshake(method, version, target, fields) is valid


class Cancelled(BaseException):
    """As at the end of a process, but one that a test runner survives."""


async def close_at_once(scope: Scope, receive: Receive, send: Send) -> None:
    await send({"type": "websocket.close"})


async def fail(scope: Scope, receive: Receive, send: Send) -> None:
    raise RuntimeError("boom")


async def cancel(scope: Scope, receive: Receive, send: Send) -> None:
    raise Cancelled


async def cancel_later(scope: Scope, receive: Receive, send: Send) -> None:
    await send({"type": "websocket.accept"})
    raise Cancelled


async def write_to_nobody(scope: Scope, receive: Receive, send: Send) -> None:
    await send({"type": "websocket.accept"})
    await send({"type": "websocket.send", "text": "x"})


async def fail_when_nobody_is_left(scope: Scope, receive: Receive, send: Send) -> None:
    await send({"type": "websocket.accept"})
    await receive()
    raise RuntimeError("boom")


@pytest.mark.parametrize(
    ("application", "status", "incomplete", "closed", "sent"),
    [
        (close_at_once, 403, None, None, ["websocket.close"]),
        # Without the extension a server can only say 403: then the failure is told as a broken response.
        (fail, 403, "error", None, ["websocket.close"]),
        (cancel, 500, "cancelled", None, []),
        (cancel_later, 101, None, (1006, "cancelled"), ["websocket.accept"]),
        (write_to_nobody, 101, None, (1006, None), ["websocket.accept"]),
        (fail_when_nobody_is_left, 101, None, (1001, "error"), ["websocket.accept"]),
    ],
)
async def test_whatever_happens_to_a_websocket_is_told(  # noqa: PLR0913, PLR0917 - one case
    app: Telemetry,
    application: Callable[[Scope, Receive, Send], Awaitable[None]],
    status: int,
    incomplete: str | None,
    closed: tuple[int, str | None] | None,
    sent: list[str],
) -> None:
    messages: list[str] = []

    async def receive() -> Message:
        return {"type": "websocket.disconnect", "code": 1001}

    async def send(message: Message) -> None:
        if message["type"] == "websocket.send":
            raise OSError
        messages.append(message["type"])

    app.fastapi.mount("/ws", application)
    scope: Scope = {
        "type": "websocket",
        "path": "/ws/",
        "root_path": "",
        "headers": [],
        "query_string": b"",
        "scheme": "ws",
        "http_version": "1.1",
        "subprotocols": [],
    }

    with structlog.testing.capture_logs() as lines:
        with suppress(Cancelled):
            await app(scope, receive, send)
        app.flush()

    assert messages == sent
    (request,) = [line for line in lines if line["event"] == "request"]
    assert (request["route"], request["status"], request.get("incomplete")) == ("/ws/{path}", status, incomplete)
    assert [(line["code"], line.get("incomplete")) for line in lines if line["event"] == "websocket closed"] == (
        [closed] if closed else []
    )
    registry = app.metrics.registry
    assert registry.get_sample_value("http_requests_in_progress") == 0
    assert registry.get_sample_value("websocket_connections") == 0
    labels = {"method": "GET", "route": "/ws/{path}"}
    assert registry.get_sample_value("http_requests_total", labels | {"status": str(status)}) == 1
    broken = incomplete or (closed and closed[1])
    if broken:
        assert registry.get_sample_value("http_responses_incomplete_total", labels | {"reason": broken}) == 1
