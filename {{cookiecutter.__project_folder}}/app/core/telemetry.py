"""The one ASGI layer around the whole application: correlation id, span, metrics and access line of every request.

It stands outside FastAPI because only there the real status of everything is seen: unhandled exceptions, oversized
bodies and errors of other middleware included. It is plain ASGI because `BaseHTTPMiddleware` runs the application in
another task, where context variables get lost.
"""

import asyncio
from typing import Any

import structlog
from fastapi import FastAPI
from opentelemetry import context as otel_context
from opentelemetry.context import Context
from opentelemetry.propagators.textmap import Getter
from opentelemetry.trace import set_span_in_context
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Receive, Scope, Send

from app.core import errors, probe
from app.core.config import Settings
from app.core.correlation import correlation_id
from app.core.exchange import Exchange
from app.core.metrics import Metrics
from app.core.request_record import Recorder, RequestRecord, span_name
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
        routes = RouteTemplates(fastapi)
        self._recorder = Recorder(metrics, routes)
        self._websockets = WebSockets(fastapi, metrics, routes, self._begin, self._recorder.end)
        metrics.expect(known_routes(fastapi))
        metrics.expect(((HANDSHAKE_METHOD, route) for route in known_websockets(fastapi)), (101, 500))

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one connection (ASGI 3.0)."""
        if scope["type"] != "http" or scope["path"] in probe.PATHS:
            await self._serve_quietly(scope, receive, send)
            return
        exchange = Exchange(scope, receive, send)
        token = correlation_id.set(exchange.correlation_id)
        current = otel_context.attach(self._begin(exchange))
        try:
            await self._app(scope, exchange.receive, exchange.send)
            if exchange.status is None and exchange.broken_by is None:
                await self._answer(exchange, 500)
        except ClientDisconnect:
            # How a read ends when the client has left: `receive` has noted that, and it is no failure of the service.
            pass
        except Exception as error:  # noqa: BLE001 - whatever it is, it is told of, and answered
            await self._fail(exchange, error)
        except asyncio.CancelledError:
            if exchange.complete:
                raise
            await self._stop(exchange)
        except BaseException:
            exchange.break_off("cancelled")
            raise
        finally:
            exchange.break_off("error")
            exchange.over()
            self._recorder.end(exchange)
            otel_context.detach(current)
            correlation_id.reset(token)

    async def _serve_quietly(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve what is no request to be told of: the lifespan, WebSockets, which tell of themselves, and probes."""
        if scope["type"] == "lifespan":
            await self.fastapi(scope, receive, send)
            return
        exchange = Exchange(scope, receive, send)
        token = correlation_id.set(exchange.correlation_id)
        try:
            if scope["type"] == "websocket":
                await self._websockets.serve(exchange, receive, send)
            else:
                await self._app(scope, exchange.receive, exchange.send)
        finally:
            exchange.over()
            correlation_id.reset(token)

    def flush(self) -> None:
        """Write down the requests that are over: a moment after its end, each is, unless nothing runs any more."""
        self._recorder.flush()

    async def _fail(self, exchange: Exchange, error: Exception) -> None:
        """Tell of an unhandled exception, and answer it if there is no answer yet."""
        exchange.failure = type(error).__name__
        record_exception(exchange.span, error)
        log.error("unhandled exception", error=exchange.failure, exc_info=error)
        if exchange.status is None:
            await self._answer(exchange, 500)

    async def _stop(self, exchange: Exchange) -> None:
        """Answer a request that the end of the process cuts off; the server would, with a bare 500 and a traceback."""
        if exchange.status is None:
            await self._answer(exchange, 503, "The service is stopping.", headers=_LEAVE)
        exchange.broken_by = exchange.broken_by or "cancelled"

    @staticmethod
    async def _answer(exchange: Exchange, status: int, detail: str | None = None, **options: Any) -> None:
        response = errors.problem(exchange.scope["path"], status, detail, **options)
        await response(exchange.scope, exchange.receive, exchange.send)

    def _begin(self, record: RequestRecord) -> Context:
        """Start the span of a request; it is current in the context that is returned."""
        # Applications that are mounted would tell of the request once more: FastAPI's own switch for that.
        record.scope["fastapi.telemetry"] = None
        self._recorder.in_progress += 1
        parent = NO_PARENT
        if record.sole_header(b"traceparent") is not None:
            parent = self._propagator.extract(record.scope, getter=_HEADERS)
        record.span = self.tracing.start_server_span(span_name(record.method), parent, record.attributes)
        return set_span_in_context(record.span, parent)


class _Headers(Getter[Scope]):
    """Lets the propagator read ASGI headers."""

    def get(self, carrier: Scope, key: str) -> list[str] | None:
        wanted = key.lower().encode()
        return [value.decode("latin-1") for name, value in carrier["headers"] if name == wanted] or None

    def keys(self, carrier: Scope) -> list[str]:
        return [name.decode("latin-1") for name, _ in carrier["headers"]]


_HEADERS = _Headers()
