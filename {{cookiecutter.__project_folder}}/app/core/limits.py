"""Bounds on what a client may send, checked before any route sees it.

Each refusal is a problem document; what is refused is named by the status, and the limit by its text.
"""

from collections.abc import Awaitable
from http import HTTPStatus

from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app.core import errors
from app.core.config import Settings

# More than any body could have; Python refuses to read integers of thousands of digits.
_INTEGER_DIGITS = 18


class Limits:
    """An ASGI application that refuses what is too long: 414 for the target, 431 for header fields, 413 for bodies.

    A body that does not tell its length is counted while it is read.

    Args:
        app: answers everything else.
        settings: the limits, in bytes.
    """

    def __init__(self, app: ASGIApp, settings: Settings) -> None:
        self._app = app
        self._uri_bytes = settings.max_uri_bytes
        self._header_bytes = settings.max_header_bytes
        self._body_bytes = settings.max_body_bytes
        self._body_detail = f"A body may have {settings.max_body_bytes} bytes."

    def __call__(self, scope: Scope, receive: Receive, send: Send) -> Awaitable[None]:
        """Serve one HTTP request. What is not refused is passed on without a coroutine of its own."""
        if len(scope.get("raw_path") or scope["path"]) + len(scope["query_string"]) > self._uri_bytes:
            return self._refuse(414, f"Path and query may have {self._uri_bytes} bytes.", scope, receive, send)
        fields = length = 0
        tells_length = True
        for name, value in scope["headers"]:
            fields += len(name) + len(value)
            if name == b"content-length" and value.isdigit():
                length = max(length, int(value[: _INTEGER_DIGITS + 1]))
            elif name == b"transfer-encoding":
                tells_length = False
        if fields > self._header_bytes:
            detail = f"All header fields together may have {self._header_bytes} bytes."
            return self._refuse(431, detail, scope, receive, send)
        if length > self._body_bytes:
            return self._refuse(413, self._body_detail, scope, receive, send)
        return self._app(scope, receive, send) if tells_length else self._count(scope, receive, send)

    async def _refuse(self, status: int, detail: str, scope: Scope, receive: Receive, send: Send) -> None:
        # What is left of the request is not worth reading.
        response = errors.problem(scope["path"], status, detail, headers={"Connection": "close"})
        await response(scope, receive, send)

    async def _count(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve a request whose body is as long as it turns out to be.

        What the application makes of a read that fails is not the answer: a `BaseHTTPMiddleware` makes it a 500.
        """
        received = 0
        started = False

        async def counted() -> Message:
            nonlocal received
            message = await receive()
            received += len(message.get("body", b""))
            if received > self._body_bytes:
                raise HTTPException(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, self._body_detail)
            return message

        async def answered(message: Message) -> None:
            nonlocal started
            if started or received <= self._body_bytes:
                started = True
                await send(message)

        try:
            await self._app(scope, counted, answered)
        except Exception:
            if started or received <= self._body_bytes:
                raise
        if not started and received > self._body_bytes:
            await self._refuse(413, self._body_detail, scope, receive, send)
