"""The one ASGI layer around the whole application: correlation id, span, metrics and access line of every request.

It stands outside FastAPI because only there the real status of everything is seen: unhandled exceptions, oversized
bodies and errors of other middleware included. It is plain ASGI because `BaseHTTPMiddleware` runs the application in
another task, where context variables get lost.
"""

import asyncio
from collections.abc import Iterator
from functools import cached_property
from http import HTTPStatus
from time import perf_counter
from typing import Any

import structlog
from fastapi import FastAPI
from fastapi.routing import iter_route_contexts
from opentelemetry import context as otel_context
from opentelemetry.context import Context
from opentelemetry.propagators.textmap import Getter
from opentelemetry.trace import Span, SpanKind, StatusCode, format_trace_id, set_span_in_context
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator
from starlette.requests import ClientDisconnect
from starlette.routing import Mount, Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app.api.health import PROBES
from app.core import correlation, errors, security
from app.core.config import Settings
from app.core.http_protocol import client_has_left
from app.core.metrics import Metrics
from app.core.tracing import Tracing

# One label for every path that no route knows; the path itself would be a series for each scanner's guess.
UNMATCHED = "__unmatched__"

# RFC 9110, section 9 and RFC 5789; anything else is `_OTHER`, as in the HTTP semantic conventions.
METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "DELETE", "CONNECT", "OPTIONS", "TRACE", "PATCH"})
OTHER_METHOD = "_OTHER"

CLIENT_CLOSED_REQUEST = 499

_HEADER = correlation.HEADER.lower().encode()

log = structlog.get_logger()

_ROOT = Context()

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
        self._routes = RouteTemplates(fastapi)
        self._propagator = TraceContextTextMapPropagator()
        self._in_progress = 0
        metrics.http_requests_in_progress.set_function(lambda: self._in_progress)
        metrics.expect(known_routes(fastapi))

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one connection (ASGI 3.0)."""
        if scope["type"] == "lifespan":
            await self.fastapi(scope, receive, send)
            return
        sent = RequestHeaders(scope)
        token = correlation.correlation_id.set(correlation.accept(sent.correlation_id))
        try:
            if scope["type"] == "websocket":
                await self.fastapi(scope, receive, send)
            elif scope["path"] in PROBES:
                await self._app(scope, receive, Exchange(scope, receive, send).send)
            else:
                await self._request(Exchange(scope, receive, send), sent)
        finally:
            correlation.correlation_id.reset(token)

    async def _request(self, exchange: "Exchange", sent: "RequestHeaders") -> None:
        parent = self._propagator.extract(exchange.scope, getter=_HEADERS) if sent.has_traceparent else _ROOT
        span = self.tracing.tracer.start_span(exchange.span_name(), parent, SpanKind.SERVER)
        if span.is_recording():
            span.set_attributes(_request_attributes(exchange, sent))
        context = otel_context.attach(set_span_in_context(span, parent))
        self._in_progress += 1
        try:
            await self._answer(exchange, span)
        finally:
            self._in_progress -= 1
            try:
                self._settle(exchange, span)
            finally:
                span.end()
                otel_context.detach(context)

    async def _answer(self, exchange: "Exchange", span: Span) -> None:
        """Let the application answer, and note what kept it from doing so."""
        try:
            await self._app(exchange.scope, exchange.receive, exchange.send)
            if not exchange.complete:
                exchange.broken_by = exchange.broken_by or "error"
        except ClientDisconnect:
            # How a read ends when the client has left: `receive` has noted that, and it is no failure of the service.
            pass
        except Exception as error:
            span.record_exception(error)
            log.exception("unhandled exception", error=type(error).__name__)
            if exchange.status is None:
                await errors.problem(exchange.scope["path"], 500)(exchange.scope, exchange.receive, exchange.send)
            if not exchange.complete:
                exchange.broken_by = exchange.broken_by or "error"
        except asyncio.CancelledError:
            # The process ends, and has waited for as long as it may; the server would answer with a bare 500.
            if exchange.complete:
                raise
            if exchange.status is None:
                stopping = errors.problem(exchange.scope["path"], 503, "The service is stopping.", headers=_LEAVE)
                await stopping(exchange.scope, exchange.receive, exchange.send)
            exchange.broken_by = "cancelled"

    def _settle(self, exchange: "Exchange", span: Span) -> None:
        """Write down one finished request, everywhere with the same words."""
        method, route, broken_by = exchange.method, self._routes.find(exchange.scope), exchange.broken_by
        seconds, status = exchange.seconds(), exchange.final_status()
        failed = status >= HTTPStatus.INTERNAL_SERVER_ERROR or broken_by == "error"

        span_context = span.get_span_context()
        exemplar = {"trace_id": format_trace_id(span_context.trace_id)} if span_context.trace_flags.sampled else None
        series = self.metrics.requests(method, route, status)
        series.total.inc(1, exemplar)
        series.duration.observe(seconds, exemplar)
        if broken_by:
            self.metrics.http_responses_incomplete.labels(method, route, broken_by).inc()

        (log.error if failed else log.info)(
            "request",
            method=method,
            path=exchange.scope["path"],
            route=route,
            status=status,
            duration_ms=round(seconds * 1000, 3),
            client=_host(exchange.scope.get("client")),
            **({"incomplete": broken_by} if broken_by else {}),
        )

        if span.is_recording():
            span.set_attribute("http.response.status_code", status)
            if route != UNMATCHED:
                span.update_name(exchange.span_name(route))
                span.set_attribute("http.route", route)
            if failed:
                span.set_status(StatusCode.ERROR)
                span.set_attribute("error.type", broken_by or str(status))


class Exchange:
    """A request and how far its response came, seen from between server and application.

    `broken_by` is what kept the response from its end: `error`, `disconnect` (the client left) or `cancelled`.
    """

    __slots__ = ("_began", "_ended", "_receive", "_send", "broken_by", "complete", "method", "scope", "status")

    def __init__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self._receive = receive
        self._send = send
        self.scope = scope
        self.method: str = scope["method"] if scope["method"] in METHODS else OTHER_METHOD
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
        if not self.complete and client_has_left(self.scope):
            self.broken_by = "disconnect"
        if message["type"] == "http.response.start":
            # What is sent to a client that has left is an echo of its leaving.
            if self.broken_by is None:
                self.status = message["status"]
            message["headers"] = [
                *message.get("headers", ()),
                (_HEADER, (correlation.correlation_id.get() or "").encode()),
                *security.headers(self.scope),
            ]
        elif not message.get("more_body", False) and message["type"] == "http.response.body":
            # Before sending: a client that has the whole response may leave before `send` returns.
            self.complete = self.broken_by is None
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
        return CLIENT_CLOSED_REQUEST if self.broken_by == "disconnect" else HTTPStatus.INTERNAL_SERVER_ERROR

    def span_name(self, route: str = "") -> str:
        """Method and route (HTTP semantic conventions, "Name")."""
        return f"{'HTTP' if self.method == OTHER_METHOD else self.method} {route}".rstrip()


class RouteTemplates:
    """Finds the template of the route that served a request, for example `/api/v1/items/{item_id}`.

    FastAPI keeps the template with the prefixes of included routers under a private key of its own, and
    `scope["route"]` without them (since 0.137). Plain Starlette routes and mounts leave only their endpoint, hence the
    table. What is in none of these is `UNMATCHED`: a label must never come from a client.
    """

    def __init__(self, fastapi: FastAPI) -> None:
        self._fastapi = fastapi

    @cached_property
    def _by_endpoint(self) -> dict[int, str]:
        templates: dict[int, str] = {}
        for route in self._fastapi.routes:
            match route:
                case Mount():
                    endpoint, template = id(route.app), f"{route.path}/{{path}}"
                case Route():
                    endpoint, template = id(route.endpoint), route.path
                case _:
                    continue
            # Under two paths, an endpoint does not tell which of them was asked for.
            templates[endpoint] = UNMATCHED if endpoint in templates else template
        return templates

    @cached_property
    def _mount_paths(self) -> frozenset[str]:
        return frozenset(route.path for route in self._fastapi.routes if isinstance(route, Mount)) | {""}

    def find(self, scope: Scope) -> str:
        """The template, once the application has handled the request."""
        route = scope.get("route")
        if route is None or isinstance(route, Mount):
            return self._by_endpoint.get(id(scope.get("endpoint")), UNMATCHED)
        # A mounted application knows nothing of its prefix; the one in the scope is the client's spelling of it.
        prefix = scope.get("root_path", "").removeprefix(scope.get("app_root_path", ""))
        if prefix not in self._mount_paths:
            return UNMATCHED
        included = scope.get("fastapi", {}).get("effective_route_context")
        return f"{prefix}{route.path if included is None else included.path}"


def known_routes(fastapi: FastAPI) -> Iterator[tuple[str, str]]:
    """Method and template of each route, probes and mounts excluded."""
    for route in iter_route_contexts(fastapi.routes):
        for method in getattr(route, "methods", None) or ():
            if route.path and route.path not in PROBES and method != "HEAD":
                yield method, route.path


class RequestHeaders:
    """What telemetry reads of a request's header, found in one pass."""

    __slots__ = ("correlation_id", "has_traceparent", "user_agent")

    def __init__(self, scope: Scope) -> None:
        self.correlation_id: bytes | None = None
        self.has_traceparent = False
        self.user_agent: bytes | None = None
        for name, value in scope["headers"]:
            if name == b"user-agent":
                self.user_agent = value
            elif name == b"traceparent":
                self.has_traceparent = True
            elif name == _HEADER:
                # Sent twice, it says nothing: the empty one is not valid.
                self.correlation_id = value if self.correlation_id is None else b""


def _request_attributes(exchange: Exchange, sent: RequestHeaders) -> dict[str, Any]:
    """What is known when a request arrives (HTTP semantic conventions 1.44, server spans)."""
    scope = exchange.scope
    server = scope.get("server")
    attributes = {
        "http.request.method": exchange.method,
        "http.request.method_original": scope["method"] if exchange.method == OTHER_METHOD else None,
        "url.path": scope["path"],
        "url.scheme": scope["scheme"],
        "network.protocol.version": scope["http_version"],
        "client.address": _host(scope.get("client")),
        "server.address": _host(server),
        "server.port": server[1] if server else None,
        "user_agent.original": sent.user_agent.decode("latin-1") if sent.user_agent else None,
        "correlation_id": correlation.correlation_id.get(),
    }
    return {name: value for name, value in attributes.items() if value is not None}


def _host(address: tuple[str, int] | None) -> str | None:
    return address[0] if address else None


class _Headers(Getter[Scope]):
    """Lets the propagator read ASGI headers."""

    def get(self, carrier: Scope, key: str) -> list[str] | None:
        wanted = key.lower().encode()
        return [value.decode("latin-1") for name, value in carrier["headers"] if name == wanted] or None

    def keys(self, carrier: Scope) -> list[str]:
        return [name.decode("latin-1") for name, _ in carrier["headers"]]


_HEADERS = _Headers()
