"""WebSockets as telemetry sees them: the handshake is a request like any other, what follows is not.

A connection may live for days; as a request it would be a span that never ends and a latency that means nothing. So
metrics, access line and span tell of the handshake (RFC 6455, section 4), from its arrival to its answer: 101, or the
status it was refused with. What follows is a gauge while it lasts, and one line at its end.
"""

from collections.abc import Callable
from contextlib import suppress
from http import HTTPStatus
from time import perf_counter

import structlog
from opentelemetry import context as otel_context
from opentelemetry.context import Context
from starlette.types import ASGIApp, Message, Receive, Send
from starlette.websockets import WebSocketDisconnect

from app.core import correlation, errors, security
from app.core.metrics import Metrics
from app.core.request_record import RequestRecord
from app.core.route_templates import RouteTemplates
from app.core.tracing import record_exception

# RFC 6455, section 7.4.1: done, something unexpected, and (never on the wire) gone without a word.
NORMAL, INTERNAL_ERROR, ABNORMAL = 1000, 1011, 1006

METHOD = "GET"

log = structlog.get_logger()


class WebSockets:
    """Serves the WebSockets of an ASGI application and tells what it did.

    Args:
        app: serves them.
        metrics: where they are counted.
        routes: finds their templates.
        begin: starts the span of a handshake, and returns the context it is current in.
        end: takes a handshake that is over.
    """

    def __init__(
        self,
        app: ASGIApp,
        metrics: Metrics,
        routes: RouteTemplates,
        begin: Callable[[RequestRecord], Context],
        end: Callable[[RequestRecord], None],
    ) -> None:
        self._app = app
        self._metrics = metrics
        self._routes = routes
        self._begin = begin
        self._end = end

    async def serve(self, handshake: RequestRecord, receive: Receive, send: Send) -> None:
        """Serve one connection."""
        token = otel_context.attach(self._begin(handshake))
        try:
            await self._serve(_Connection(handshake, receive, send, self._settle))
        finally:
            otel_context.detach(token)

    def _settle(self, handshake: RequestRecord) -> None:
        self._end(handshake)
        if handshake.status == HTTPStatus.SWITCHING_PROTOCOLS:
            self._metrics.websocket_connections.inc()

    async def _serve(self, connection: "_Connection") -> None:
        """Let the application serve the connection, and end it as it ought to be ended."""
        broken_by = None
        try:
            await self._app(connection.scope, connection.receive, connection.send)
            await connection.end(403, NORMAL)
        except WebSocketDisconnect as error:
            # How a read ends when the client has left.
            connection.leave(error.code)
        except Exception as error:
            if isinstance(error, OSError) and connection.left:
                # How a write ends then: the server's exceptions for it are of this kind (ASGI, "Disconnected Client").
                pass
            else:
                broken_by, failure = "error", type(error).__name__
                connection.fail(error)
                log.exception("unhandled exception", error=failure)
                await connection.end(500, INTERNAL_ERROR)
        except BaseException:
            broken_by = "cancelled"
            raise
        finally:
            connection.settle(broken_by)
            if connection.accepted_at is not None:
                self._closed(connection, perf_counter() - connection.accepted_at, broken_by)

    def _closed(self, connection: "_Connection", seconds: float, broken_by: str | None) -> None:
        """Write down the end of a connection that was accepted."""
        self._metrics.websocket_connections.dec()
        route = self._routes.find(connection.scope)
        if broken_by:
            self._metrics.http_responses_incomplete.labels(METHOD, route, broken_by).inc()
        (log.error if broken_by == "error" else log.info)(
            "websocket closed",
            route=route,
            code=ABNORMAL if connection.code is None else connection.code,
            duration_ms=round(seconds * 1000, 3),
            **({"incomplete": broken_by} if broken_by else {}),
        )


class _Connection:
    """A WebSocket and how far it came, seen from between server and application.

    `code` is the one it was closed with, by whoever was first.
    """

    def __init__(
        self, handshake: RequestRecord, receive: Receive, send: Send, settle: Callable[[RequestRecord], None]
    ) -> None:
        self._handshake = handshake
        self._receive = receive
        self._send = send
        self._settle = settle
        self._settled = False
        self.scope = handshake.scope
        self.accepted_at: float | None = None
        self.code: int | None = None
        self.left = False

    async def receive(self) -> Message:
        """Pass on what the client sends; notice when it leaves."""
        message = await self._receive()
        if message["type"] == "websocket.disconnect":
            self.leave(message.get("code", 1005))
        return message

    async def send(self, message: Message) -> None:
        """Pass on what the client gets, with the headers that every response has."""
        kind = message["type"]
        if kind == "websocket.close" and self.accepted_at is None:
            # The server would refuse in its own words, without a correlation id.
            await self._refuse(403)
            return
        if kind == "websocket.close" and self.code is None:
            self.code = message.get("code", NORMAL)
        if kind in {"websocket.accept", "websocket.http.response.start"}:
            identity = correlation.field(self._handshake.correlation_id)
            headers = [*message.get("headers", ()), identity, *security.headers(self.scope)]
            message = {**message, "headers": headers}
        try:
            await self._send(message)
        except OSError:
            self.leave(ABNORMAL)
            raise
        if kind == "websocket.accept":
            self._handshake.status, self.accepted_at = 101, perf_counter()
            self.settle(None)
        elif kind == "websocket.http.response.start":
            self._handshake.status = message["status"]
        elif kind == "websocket.http.response.body" and not message.get("more_body", False):
            self.settle(None)

    def leave(self, code: int) -> None:
        """Note that the client is gone."""
        self.left = True
        if self.code is None:
            self.code = code

    async def end(self, status: int, code: int) -> None:
        """Do what the application left undone: refuse the handshake with `status`, or close with `code`."""
        if self.left or self.code is not None:
            return
        with suppress(OSError):
            if self.accepted_at is not None:
                await self.send({"type": "websocket.close", "code": code})
            elif self._handshake.status is None:
                await self._refuse(status)

    async def _refuse(self, status: int) -> None:
        if "websocket.http.response" in self.scope.get("extensions", {}):
            await errors.problem(self.scope["path"], status)(self.scope, self.receive, self.send)
        else:
            self._handshake.status = 403
            await self._send({"type": "websocket.close"})

    def fail(self, error: Exception) -> None:
        """Note what the application raised, as long as that is about the handshake."""
        if not self._settled:
            self._handshake.failure = type(error).__name__
            record_exception(self._handshake.span, error)

    def settle(self, broken_by: str | None) -> None:
        """Write the handshake down, once: when it is answered, or when it is clear that it never will be."""
        if self._settled:
            return
        self._settled = True
        unanswered = self._handshake.status is None
        self._handshake.broken_by = "disconnect" if unanswered and self.left else broken_by
        self._settle(self._handshake)
