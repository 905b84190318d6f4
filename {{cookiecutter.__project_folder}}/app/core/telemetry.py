"""The one ASGI layer around the whole application: correlation id, span, metrics and access line of every request.

It stands outside FastAPI because only there the real status of everything is seen: unhandled exceptions, oversized
bodies and errors of other middleware included. It is plain ASGI because `BaseHTTPMiddleware` runs the application in
another task, where context variables get lost.
"""

import asyncio
from collections.abc import Awaitable
from http import HTTPStatus
from time import perf_counter, time_ns
from typing import Any

import structlog
from fastapi import FastAPI
from opentelemetry import context as otel_context
from opentelemetry.context import Context
from opentelemetry.propagators.textmap import Getter
from opentelemetry.trace import Span, set_span_in_context
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app.api.health import PROBES
from app.core import correlation, errors, security
from app.core.config import Settings
from app.core.correlation import correlation_id
from app.core.http_protocol import client_has_left
from app.core.metrics import Metrics
from app.core.request_record import METHODS, OTHER_METHOD, Recorder, RequestRecord, span_name
from app.core.route_templates import RouteTemplates, known_routes, known_websockets
from app.core.tracing import NO_PARENT, Tracing, record_exception
from app.core.websocket import METHOD as HANDSHAKE_METHOD
from app.core.websocket import WebSockets

log = structlog.get_logger()

_LEAVE = {"Connection": "close", "Retry-After": "1"}


class Telemetry:
    """An ASGI application that serves another one and tells what it did.

    Args:
        app: answers requests.
        fastapi: the application at the heart of `app`: it has the routes, and answers all that is no plain request.
        settings: what everything was built with.
        metrics: where requests are counted.
        tracing: where spans begin.
    """

    def __init__(self, app: ASGIApp, fastapi: FastAPI, settings: Settings, metrics: Metrics, tracing: Tracing) -> None:
        self._app = app
        self.fastapi = fastapi
        self.settings = settings
        self.metrics = metrics
        self.tracing = tracing
        self._propagator = TraceContextTextMapPropagator()
        self._routes = RouteTemplates(fastapi)
        self._recorder = Recorder(metrics)
        self._websockets = WebSockets(fastapi, metrics, self._routes, self._begin, self._end)
        metrics.expect(known_routes(fastapi))
        metrics.expect(((HANDSHAKE_METHOD, route) for route in known_websockets(fastapi)), (101, 500))

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one connection (ASGI 3.0)."""
        if scope["type"] != "http" or scope["path"] in PROBES:
            await self._serve_quietly(scope, receive, send)
            return
        exchange = Exchange(scope, receive, send)
        token = correlation_id.set(exchange.identity)
        span, context = self._begin(scope, exchange.method)
        current = otel_context.attach(context)
        try:
            await self._app(scope, exchange.receive, exchange.send)
            if exchange.status is None and exchange.broken_by is None:
                await self._answer(exchange, 500)
        except ClientDisconnect:
            # How a read ends when the client has left: `receive` has noted that, and it is no failure of the service.
            pass
        except Exception as error:  # noqa: BLE001 - whatever it is, it is told of, and answered
            await self._fail(exchange, span, error)
        except asyncio.CancelledError:
            if exchange.complete:
                raise
            await self._stop(exchange)
        except BaseException:
            exchange.break_off("cancelled")
            raise
        finally:
            exchange.break_off("error")
            status, seconds = exchange.final_status(), exchange.seconds()
            self._end(scope, exchange.method, status, seconds, exchange.broken_by, exchange.failure, span)
            otel_context.detach(current)
            correlation_id.reset(token)

    async def _serve_quietly(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve what is no request to be told of: the lifespan, WebSockets, which tell of themselves, and probes."""
        if scope["type"] == "lifespan":
            await self.fastapi(scope, receive, send)
            return
        exchange = Exchange(scope, receive, send)
        token = correlation_id.set(exchange.identity)
        try:
            if scope["type"] == "websocket":
                await self._websockets(scope, receive, send)
            else:
                await self._app(scope, receive, exchange.send)
        finally:
            correlation_id.reset(token)

    def flush(self) -> None:
        """Write down the requests that are over: a moment after its end, each is, unless nothing runs any more."""
        self._recorder.flush()

    async def _fail(self, exchange: "Exchange", span: Span, error: Exception) -> None:
        """Tell of an unhandled exception, and answer it if there is no answer yet."""
        exchange.failure = type(error).__name__
        record_exception(span, error)
        log.error("unhandled exception", error=exchange.failure, exc_info=error)
        if exchange.status is None:
            await self._answer(exchange, 500)

    async def _stop(self, exchange: "Exchange") -> None:
        """Answer a request that the end of the process cuts off; the server would, with a bare 500 and a traceback."""
        if exchange.status is None:
            await self._answer(exchange, 503, "The service is stopping.", headers=_LEAVE)
        exchange.broken_by = exchange.broken_by or "cancelled"

    @staticmethod
    async def _answer(exchange: "Exchange", status: int, detail: str | None = None, **options: Any) -> None:
        response = errors.problem(exchange.scope["path"], status, detail, **options)
        await response(exchange.scope, exchange.receive, exchange.send)

    def _begin(self, scope: Scope, method: str) -> tuple[Span, Context]:
        """Start the span of a request; it is current in the context."""
        # Applications that are mounted would tell of the request once more: FastAPI's own switch for that.
        scope["fastapi.telemetry"] = None
        self._recorder.in_progress += 1
        parent = NO_PARENT
        if sole_header(scope, b"traceparent") is not None:
            parent = self._propagator.extract(scope, getter=_HEADERS)
        span = self.tracing.start_server_span(span_name(method), parent, lambda: _request_attributes(scope, method))
        return span, set_span_in_context(span, parent)

    def _end(  # noqa: PLR0913, PLR0917 - they are what is told
        self,
        scope: Scope,
        method: str,
        status: int,
        seconds: float,
        broken_by: str | None,
        failure: str | None,
        span: Span,
    ) -> None:
        """Have a request written down that is over."""
        route, client, identity = self._routes.find(scope, status), _host(scope.get("client")), correlation_id.get()
        now, path, context = time_ns(), scope["path"], otel_context.get_current()
        self._recorder.end(
            RequestRecord(
                now, method, route, path, client, status, seconds, broken_by, failure, span, context, identity
            )
        )


class Exchange:
    """A request and how far its response came, seen from between server and application.

    `broken_by` is what kept the response from its end: `error`, `disconnect` (the client left) or `cancelled`.
    `failure` is the type of an unhandled exception.
    """

    __slots__ = (
        "_began",
        "_ended",
        "_receive",
        "_send",
        "_streams",
        "broken_by",
        "complete",
        "failure",
        "identity",
        "method",
        "scope",
        "status",
    )

    def __init__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self._began = perf_counter()
        self._ended: float | None = None
        self._receive = receive
        self._send = send
        self._streams = False
        self.scope = scope
        method = scope.get("method")
        self.method: str = method if method in METHODS else OTHER_METHOD
        self.identity = correlation.accept(sole_header(scope, correlation.RAW_HEADER))
        self.status: int | None = None
        self.complete = False
        self.broken_by: str | None = None
        self.failure: str | None = None

    async def receive(self) -> Message:
        """Pass on what the client sends; notice when it leaves before it has its response."""
        message = await self._receive()
        if message["type"] == "http.disconnect" and not self.complete:
            self.broken_by = "disconnect"
        return message

    def send(self, message: Message) -> Awaitable[None]:
        """Pass on what the client gets, with the headers that every response has."""
        kind = message["type"]
        if kind == "http.response.start":
            self._notice_leaving()
            # What is sent to a client that has left is an echo of its leaving.
            if self.broken_by is None:
                self.status = message["status"]
            identity = correlation.field(self.identity)
            message["headers"] = [*message.get("headers", ()), identity, *security.headers(self.scope)]
            return self._send(message)
        if kind == "http.response.body" and not (self._streams or message.get("more_body", False)):
            # Before sending: a client that has the whole response may leave before `send` returns.
            self.complete = True
            self._ended = perf_counter()
            return self._send(message)
        self._streams = True
        return self._send_part(message)

    async def _send_part(self, message: Message) -> None:
        self._notice_leaving()
        self.complete = message["type"] == "http.response.body" and not message.get("more_body", False)
        try:
            await self._send(message)
        except asyncio.CancelledError:
            # It waits for nobody but a client that does not read.
            self.broken_by = "disconnect"
            raise
        if self.complete:
            self._ended = perf_counter()

    def _notice_leaving(self) -> None:
        if not self.complete and client_has_left(self.scope):
            self.broken_by = "disconnect"

    def break_off(self, reason: str) -> None:
        """Note why the response never came to its end, unless it did, or the reason is known already."""
        if not self.complete and self.broken_by is None:
            self.broken_by = reason

    def seconds(self) -> float:
        """From the request's arrival to the last byte of its response; a background task does not count."""
        return (self._ended or perf_counter()) - self._began

    def final_status(self) -> int:
        """The status that was sent. Without one: 499 (nginx's) if the client left, else what it would have got."""
        if self.status is not None:
            return self.status
        return errors.CLIENT_CLOSED_REQUEST if self.broken_by == "disconnect" else HTTPStatus.INTERNAL_SERVER_ERROR


def _request_attributes(scope: Scope, method: str) -> dict[str, Any]:
    """What is known when a request arrives (HTTP semantic conventions 1.44, server spans)."""
    server = scope.get("server")
    agent = sole_header(scope, b"user-agent")
    attributes = {
        "http.request.method": method,
        "http.request.method_original": scope["method"] if method == OTHER_METHOD else None,
        "url.path": scope["path"],
        "url.scheme": scope["scheme"],
        "network.protocol.version": scope["http_version"],
        "client.address": _host(scope.get("client")),
        "server.address": _host(server),
        "server.port": server[1] if server else None,
        "user_agent.original": agent.decode("latin-1") if agent else None,
        "correlation_id": correlation_id.get(),
    }
    return {name: value for name, value in attributes.items() if value is not None}


def _host(address: tuple[str, int] | None) -> str | None:
    return address[0] if address else None


def sole_header(scope: Scope, name: bytes) -> bytes | None:
    """The value of a header that must stand alone: sent twice, it says nothing."""
    fields = scope["headers"]
    value: bytes | None = dict(fields).get(name)
    return None if value is None or [key for key, _ in fields].count(name) > 1 else value


class _Headers(Getter[Scope]):
    """Lets the propagator read ASGI headers."""

    def get(self, carrier: Scope, key: str) -> list[str] | None:
        wanted = key.lower().encode()
        return [value.decode("latin-1") for name, value in carrier["headers"] if name == wanted] or None

    def keys(self, carrier: Scope) -> list[str]:
        return [name.decode("latin-1") for name, _ in carrier["headers"]]


_HEADERS = _Headers()
