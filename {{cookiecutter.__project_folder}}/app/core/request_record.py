"""What is told of a request that is over: metrics, access line and span, in the same words."""

import asyncio
from collections.abc import Mapping
from contextvars import Context
from datetime import UTC, datetime
from functools import cache, cached_property
from http import HTTPStatus
from time import perf_counter, time
from types import MappingProxyType
from typing import Any

import structlog
from opentelemetry.trace import Span, StatusCode, format_span_id, format_trace_id
from starlette.types import Scope

from app.core import correlation, errors
from app.core.bound_logger import log_together
from app.core.metrics import Metrics
from app.core.route_templates import UNMATCHED, RouteTemplates

# RFC 9110, section 9 and RFC 5789; anything else is `_OTHER`, as in the HTTP semantic conventions.
METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "DELETE", "CONNECT", "OPTIONS", "TRACE", "PATCH"})
OTHER_METHOD = "_OTHER"

log = structlog.get_logger()


class RequestRecord:
    """A request, and what is told of it once it is over.

    Args:
        scope: of the request (ASGI 3.0), HTTP or WebSocket; handshakes are requests by GET.

    Attributes:
        correlation_id: the one that the client sent, or a new one.
        began: when it arrived, in seconds of `time.perf_counter`.
        span: of the request, or of nothing where it is not sampled.
        status: of the response, as soon as it is sent.
        ended: when the last byte of the response was sent; a background task that follows does not count.
        broken_by: what kept the response from its end: `error`, `disconnect` (the client left) or `cancelled`.
        bound: what the request bound for all its log lines (`structlog.contextvars`).
        failure: the type of an unhandled exception, which a background task may raise after all is sent.
    """

    span: Span
    status: int | None = None
    ended: float | None = None
    broken_by: str | None = None
    failure: str | None = None
    bound: Mapping[str, Any] = MappingProxyType({})

    def __init__(self, scope: Scope) -> None:
        self.began = perf_counter()
        self.scope = scope
        method = scope.get("method", "GET")
        self.method: str = method if method in METHODS else OTHER_METHOD
        self._header = dict(scope["headers"])
        self.correlation_id = correlation.accept(self.sole_header(correlation.RAW_HEADER))

    def sole_header(self, name: bytes) -> bytes | None:
        """The value of a header that must stand alone: sent twice, it says nothing."""
        value: bytes | None = self._header.get(name)
        return None if value is None or [key for key, _ in self.scope["headers"]].count(name) > 1 else value

    def attributes(self) -> dict[str, Any]:
        """What a span tells from the beginning (HTTP semantic conventions 1.44, server spans).

        Of what they recommend, only what differs from one request to the next: each attribute costs 10 us.
        """
        agent = self.sole_header(b"user-agent")
        attributes = {
            "http.request.method": self.method,
            "http.request.method_original": self.scope["method"] if self.method == OTHER_METHOD else None,
            "url.path": self.scope["path"],
            "url.scheme": self.scope["scheme"],
            "client.address": self.client,
            "user_agent.original": agent.decode("latin-1") if agent else None,
            "correlation_id": self.correlation_id,
        }
        return {name: value for name, value in attributes.items() if value is not None}

    @property
    def client(self) -> str | None:
        """The address of the client, if it has one."""
        address = self.scope.get("client")
        return address[0] if address else None

    @property
    def final_status(self) -> int:
        """The status that was sent. Without one: 499 (nginx's) if the client left, else what it would have got."""
        if self.status is not None:
            return self.status
        return errors.CLIENT_CLOSED_REQUEST if self.broken_by == "disconnect" else HTTPStatus.INTERNAL_SERVER_ERROR


# How long a request that is over may wait for others to be written down with, in seconds, and for how many: who comes
# meanwhile waits until all of them are written down, 20 us each.
_GATHER_SECONDS = 0.01
_GATHER_REQUESTS = 16


class Recorder:
    """Writes down requests, some that ended at about the same time together.

    Code that runs alone between two requests finds nothing of its own in the caches of the CPU: done one by one, the
    same work costs a request a tenth more CPU time.

    Args:
        metrics: where requests are counted.
        routes: finds their templates.

    `in_progress` is for whoever begins a request to add to; its end takes one away.
    """

    def __init__(self, metrics: Metrics, routes: RouteTemplates) -> None:
        self._metrics = metrics
        self._routes = routes
        self._over: list[RequestRecord] = []
        self.in_progress = 0
        self._scheduled_on: asyncio.AbstractEventLoop | None = None
        metrics.http_requests_in_progress.set_function(lambda: self.in_progress)

    def end(self, record: RequestRecord) -> None:
        """Take a request that is over; it is written down a moment later."""
        self.in_progress -= 1
        if record.ended is None:
            record.ended = perf_counter()
        record.bound = structlog.contextvars.get_contextvars()
        self._over.append(record)
        # In an empty context, either way: what this request bound is not to be told of those written down with it.
        if len(self._over) >= _GATHER_REQUESTS:
            Context().run(self.flush)
            return
        loop = asyncio.get_running_loop()
        if self._scheduled_on is not loop:
            self._scheduled_on = loop
            loop.call_later(_GATHER_SECONDS, self._flush_in_time, context=Context())

    def _flush_in_time(self) -> None:
        self._scheduled_on = None
        self.flush()

    def flush(self) -> None:
        """Write down now what is over."""
        over, self._over = self._over, []
        epoch = time() - perf_counter()
        lines = []
        for record in over:
            ended = epoch + (record.ended or 0)
            try:
                lines.append(self._tell(record, ended))
            except Exception:
                log.exception("a request could not be written down", correlation_id=record.correlation_id)
            finally:
                record.span.end(int(ended * 1e9))
        log_together(self._log, "request", lines)

    @cached_property
    def _log(self) -> structlog.typing.FilteringBoundLogger:
        # Bound once: `log` itself binds anew for each event, which takes as long as half of the line.
        bound: structlog.typing.FilteringBoundLogger = log.bind()
        return bound

    def _tell(self, record: RequestRecord, ended: float) -> tuple[str, dict[str, Any]]:
        """Count a request, complete its span, and return level and fields of its line."""
        method, status, broken_by, span = record.method, record.final_status, record.broken_by, record.span
        route = self._routes.find(record.scope, status)
        seconds = (record.ended or record.began) - record.began
        failed = status >= HTTPStatus.INTERNAL_SERVER_ERROR or broken_by == "error"
        identity = span.get_span_context()
        trace_id = format_trace_id(identity.trace_id)

        exemplar = None
        if span.is_recording():
            exemplar = {"trace_id": trace_id}
            attributes: dict[str, Any] = {"http.response.status_code": status}
            if route != UNMATCHED:
                span.update_name(span_name(method, route))
                attributes["http.route"] = route
            if failed or record.failure:
                span.set_status(StatusCode.ERROR)
                attributes["error.type"] = record.failure or broken_by or str(status)
            span.set_attributes(attributes)

        series = self._metrics.requests(method, route, status)
        series.total.inc(1, exemplar)
        series.duration.observe(seconds, exemplar)

        fields = {
            **record.bound,
            "timestamp": datetime.fromtimestamp(ended, UTC),
            "correlation_id": record.correlation_id,
            "trace_id": trace_id,
            "span_id": format_span_id(identity.span_id),
            "method": method,
            "path": record.scope["path"],
            "route": route,
            "status": status,
            "duration_ms": round(seconds * 1000, 3),
            "client": record.client,
        }
        if broken_by:
            self._metrics.http_responses_incomplete.labels(method, route, broken_by).inc()
            fields["incomplete"] = broken_by
        return "error" if failed else "info", fields


@cache
def span_name(method: str, route: str = "") -> str:
    """Method and route (HTTP semantic conventions, "Name")."""
    return f"{'HTTP' if method == OTHER_METHOD else method} {route}".rstrip()
