"""Bounds on what a client may send, checked before any route sees it.

Each refusal is a problem document; what is refused is named by the status, and the limit by its text.
"""

from starlette.types import ASGIApp, Receive, Scope, Send

from app.core import errors
from app.core.config import Settings

# More than any body could have; Python refuses to read integers of thousands of digits.
_INTEGER_DIGITS = 18


class Limits:
    """An ASGI application that refuses what is too long: 414 for the target, 431 for header fields, 413 for bodies.

    Bodies of unknown length are counted by FastAPI itself while they are read.

    Args:
        app: answers everything else.
        settings: the limits, in bytes.
    """

    def __init__(self, app: ASGIApp, settings: Settings) -> None:
        self._app = app
        self._uri_bytes = settings.max_uri_bytes
        self._header_bytes = settings.max_header_bytes
        self._body_bytes = settings.max_body_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one HTTP request."""
        refused = self._refusal(scope)
        if refused is None:
            await self._app(scope, receive, send)
            return
        status, detail = refused
        # What is left of the request is not worth reading.
        response = errors.problem(scope["path"], status, detail, headers={"Connection": "close"})
        await response(scope, receive, send)

    def _refusal(self, scope: Scope) -> tuple[int, str] | None:
        """Status and reason for a request that is too long."""
        if len(scope.get("raw_path") or scope["path"]) + len(scope["query_string"]) > self._uri_bytes:
            return 414, f"Path and query may have {self._uri_bytes} bytes."
        length = 0
        fields = 0
        for name, value in scope["headers"]:
            fields += len(name) + len(value)
            if name == b"content-length" and value.isdigit():
                length = max(length, int(value[: _INTEGER_DIGITS + 1]))
        if fields > self._header_bytes:
            return 431, f"All header fields together may have {self._header_bytes} bytes."
        if length > self._body_bytes:
            return 413, f"A body may have {self._body_bytes} bytes."
        return None
