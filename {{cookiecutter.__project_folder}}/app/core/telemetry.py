"""The one ASGI layer around the whole application: correlation id, span, metrics and access line of every request.

It stands outside FastAPI because only there the real status of everything is seen: unhandled exceptions, oversized
bodies and errors of other middleware included. It is plain ASGI because `BaseHTTPMiddleware` runs the application in
another task, where context variables get lost.
"""

import asyncio
from http import HTTPStatus
from time import perf_counter
from typing import Any

import structlog
from fastapi import FastAPI
from opentelemetry import context as otel_context
from opentelemetry.context import Context
from opentelemetry.propagators.textmap import Getter
from opentelemetry.trace import Span, SpanKind, StatusCode, format_trace_id, set_span_in_context
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app.api.health import PROBES
from app.core import correlation, errors, security
from app.core.config import Settings
from app.core.metrics import Metrics
from app.core.route_templates import UNMATCHED, RouteTemplates, known_routes, known_websockets
from app.core.tracing import Tracing
from app.core.websocket import METHOD as HANDSHAKE_METHOD
from app.core.websocket import WebSockets

# RFC 9110, section 9 and RFC 5789; anything else is `_OTHER`, as in the HTTP semantic conventions.
METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "DELETE", "CONNECT", "OPTIONS", "TRACE", "PATCH"})
OTHER_METHOD = "_OTHER"

_HEADER = correlation.HEADER.lower().encode()

log = structlog.get_logger()


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
        self._routes = RouteTemplates(fastapi)
        self._propagator = TraceContextTextMapPropagator()
        self._websockets = WebSockets(fastapi, metrics, self._routes, self._begin, self._settle)
        metrics.expect(known_routes(fastapi))
        metrics.expect(((HANDSHAKE_METHOD, route) for route in known_websockets(fastapi)), (101, 500))

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one connection (ASGI 3.0)."""
        if scope["type"] == "lifespan":
            await self.fastapi(scope, receive, send)
            return
        # Applications that are mounted would tell of the request once more: FastAPI's own switch for that.
        scope["fastapi.telemetry"] = None
        token = correlation.correlation_id.set(correlation.accept(_header(scope, _HEADER)))
        try:
            if scope["type"] == "websocket":
                await self._websockets(scope, receive, send)
            elif scope["path"] in PROBES:
                await self._app(scope, receive, Exchange(scope, receive, send).send)
            else:
                await self._request(scope, receive, send)
        finally:
            correlation.correlation_id.reset(token)

    async def _request(self, scope: Scope, receive: Receive, send: Send) -> None:
        exchange = Exchange(scope, receive, send)
        span, current = self._begin(scope, exchange.method)
        context = otel_context.attach(current)
        self.metrics.http_requests_in_progress.inc()
        try:
            await self._answer(exchange, span)
        finally:
            self.metrics.http_requests_in_progress.dec()
            try:
                status, seconds = exchange.final_status(), exchange.seconds()
                self._settle(scope, exchange.method, span, status, seconds, exchange.broken_by)
            finally:
                span.end()
                otel_context.detach(context)

    def _begin(self, scope: Scope, method: str) -> tuple[Span, Context]:
        """Start the span of a request; it is current in the context."""
        parent = self._propagator.extract(scope, getter=_HEADERS)
        attributes = _request_attributes(scope, method)
        span = self.tracing.tracer.start_span(_span_name(method), parent, SpanKind.SERVER, attributes=attributes)
        return span, set_span_in_context(span, parent)

    async def _answer(self, exchange: "Exchange", span: Span) -> None:
        """Let the application answer, and note what kept it from doing so."""
        try:
            await self._app(exchange.scope, exchange.receive, exchange.send)
            if exchange.status is None and exchange.broken_by is None:
                await errors.problem(exchange.scope["path"], 500)(exchange.scope, exchange.receive, exchange.send)
            if not exchange.complete:
                exchange.broken_by = exchange.broken_by or "error"
        except ClientDisconnect:
            # How a read ends when the client has left: `receive` has noted that, and it is no failure of the service.
            pass
        except Exception as error:
            span.record_exception(error)
            # Also where the response is complete, and only a background task failed.
            span.set_status(StatusCode.ERROR)
            span.set_attribute("error.type", type(error).__name__)
            log.exception("unhandled exception", error=type(error).__name__)
            if exchange.status is None:
                await errors.problem(exchange.scope["path"], 500)(exchange.scope, exchange.receive, exchange.send)
            if not exchange.complete:
                exchange.broken_by = exchange.broken_by or "error"
        except BaseException:
            if not exchange.complete:
                exchange.broken_by = "cancelled"
            raise

    def _settle(  # noqa: PLR0913, PLR0917 - these are the words
        self, scope: Scope, method: str, span: Span, status: int, seconds: float, broken_by: str | None
    ) -> None:
        """Write down one finished request, everywhere with the same words."""
        route = self._routes.find(scope, status)
        failed = status >= HTTPStatus.INTERNAL_SERVER_ERROR or broken_by == "error"

        span_context = span.get_span_context()
        exemplar = {"trace_id": format_trace_id(span_context.trace_id)} if span_context.trace_flags.sampled else None
        series = self.metrics.requests(method, route, status)
        series.total.inc(exemplar=exemplar)
        series.duration.observe(seconds, exemplar)
        if broken_by:
            self.metrics.http_responses_incomplete.labels(method, route, broken_by).inc()

        (log.error if failed else log.info)(
            "request",
            method=method,
            path=scope["path"],
            route=route,
            status=status,
            duration_ms=round(seconds * 1000, 3),
            client=_host(scope.get("client")),
            **({"incomplete": broken_by} if broken_by else {}),
        )

        if span.is_recording():
            span.set_attribute("http.response.status_code", status)
            if route != UNMATCHED:
                span.update_name(_span_name(method, route))
                span.set_attribute("http.route", route)
            if failed:
                span.set_status(StatusCode.ERROR)
                span.set_attribute("error.type", broken_by or str(status))


class Exchange:
    """A request and how far its response came, seen from between server and application.

    `broken_by` is what kept the response from its end: `error`, `disconnect` (the client left) or `cancelled`.
    """

    def __init__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self._receive = receive
        self._send = send
        self.scope = scope
        self.method = scope["method"] if scope["method"] in METHODS else OTHER_METHOD
        self.status: int | None = None
        self.complete = False
        self.broken_by: str | None = None
        self._began = perf_counter()
        self._ended: float | None = None

    async def receive(self) -> Message:
        """Pass on what the client sends; notice when it leaves before it has its response."""
        message = await self._receive()
        if message["type"] == "http.disconnect" and not self.complete:
            self.broken_by = "disconnect"
        return message

    async def send(self, message: Message) -> None:
        """Pass on what the client gets, with the headers that every response has."""
        if message["type"] == "http.response.start":
            # What is sent to a client that has left is an echo of its leaving.
            if self.broken_by is None:
                self.status = message["status"]
            current = correlation.correlation_id.get() or ""
            message["headers"] = [
                *message.get("headers", ()),
                (_HEADER, current.encode()),
                *security.headers(self.scope),
            ]
        elif message["type"] == "http.response.body" and not message.get("more_body", False):
            # Before sending: a client that has the whole response may leave before `send` returns.
            self.complete = True
        try:
            await self._send(message)
        except asyncio.CancelledError:
            # It waits for nobody but a client that does not read.
            self.broken_by = "disconnect"
            raise
        if self.complete:
            self._ended = perf_counter()

    def seconds(self) -> float:
        """From the request's arrival to the last byte of its response; a background task does not count."""
        return (self._ended or perf_counter()) - self._began

    def final_status(self) -> int:
        """The status that was sent. Without one: 499 (nginx's) if the client left, else what it would have got."""
        if self.status is not None:
            return self.status
        return errors.CLIENT_CLOSED_REQUEST if self.broken_by == "disconnect" else HTTPStatus.INTERNAL_SERVER_ERROR


def _span_name(method: str, route: str = "") -> str:
    """Method and route (HTTP semantic conventions, "Name")."""
    return f"{'HTTP' if method == OTHER_METHOD else method} {route}".rstrip()


def _request_attributes(scope: Scope, method: str) -> dict[str, Any]:
    """What is known when a request arrives (HTTP semantic conventions 1.44, server spans)."""
    server = scope.get("server")
    agent = _header(scope, b"user-agent")
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
        "correlation_id": correlation.correlation_id.get(),
    }
    return {name: value for name, value in attributes.items() if value is not None}


def _host(address: tuple[str, int] | None) -> str | None:
    return address[0] if address else None


def _header(scope: Scope, name: bytes) -> bytes | None:
    """The value of a header that must stand alone: sent twice, it says nothing."""
    values = [value for key, value in scope["headers"] if key == name]
    return values[0] if len(values) == 1 else None


class _Headers(Getter[Scope]):
    """Lets the propagator read ASGI headers."""

    def get(self, carrier: Scope, key: str) -> list[str] | None:
        wanted = key.lower().encode()
        return [value.decode("latin-1") for name, value in carrier["headers"] if name == wanted] or None

    def keys(self, carrier: Scope) -> list[str]:
        return [name.decode("latin-1") for name, _ in carrier["headers"]]


_HEADERS = _Headers()
