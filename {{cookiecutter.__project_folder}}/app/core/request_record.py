"""What is told of a request that is over: metrics, access line and span, in the same words."""

import asyncio
import contextvars
from functools import cache, cached_property
from http import HTTPStatus
from typing import NamedTuple

import structlog
from opentelemetry import context as otel_context
from opentelemetry.context import Context
from opentelemetry.trace import Span, StatusCode, format_trace_id
from starlette.types import Scope

from app.core.correlation import correlation_id
from app.core.metrics import Metrics
from app.core.route_templates import UNMATCHED, RouteTemplates

# RFC 9110, section 9 and RFC 5789; anything else is `_OTHER`, as in the HTTP semantic conventions.
METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "DELETE", "CONNECT", "OPTIONS", "TRACE", "PATCH"})
OTHER_METHOD = "_OTHER"

log = structlog.get_logger()


class RequestRecord(NamedTuple):
    """A request that is over.

    `seconds` go from its arrival to the last byte of its response. `broken_by` is what kept the response from its end:
    `error`, `disconnect` (the client left) or `cancelled`. The span is current in `context`. `failure` is the type of
    an unhandled exception, which a background task may raise after all is sent.
    """

    scope: Scope
    method: str
    status: int
    seconds: float
    broken_by: str | None
    span: Span
    context: Context
    correlation_id: str | None
    failure: str | None = None


# How long a request that is over may wait for others to be written down with, in seconds.
_GATHER_SECONDS = 0.01


class Recorder:
    """Writes down requests, all that ended within a hundredth of a second together.

    Code that runs alone between two requests finds nothing of its own in the caches of the CPU: done one by one, the
    same work costs a request a tenth more CPU time.

    Args:
        metrics: where requests are counted.
        routes: finds their templates.
    """

    def __init__(self, metrics: Metrics, routes: RouteTemplates) -> None:
        self._metrics = metrics
        self._routes = routes
        self._over: list[RequestRecord] = []
        self._in_progress = 0
        self._scheduled_on: asyncio.AbstractEventLoop | None = None
        # What is logged here belongs to none of the requests that happen to be in the caller's context.
        self._context = contextvars.Context()
        metrics.http_requests_in_progress.set_function(lambda: self._in_progress)

    def begin(self) -> None:
        """Note that a request is in progress."""
        self._in_progress += 1

    def end(self, record: RequestRecord) -> None:
        """Take a request that is over; it is written down a moment later."""
        self._in_progress -= 1
        self._over.append(record)
        loop = asyncio.get_running_loop()
        if self._scheduled_on is not loop:
            self._scheduled_on = loop
            loop.call_later(_GATHER_SECONDS, self.flush, context=self._context)

    def flush(self) -> None:
        """Write down now what is over."""
        self._scheduled_on = None
        over, self._over = self._over, []
        for record in over:
            token, current = correlation_id.set(record.correlation_id), otel_context.attach(record.context)
            try:
                self._tell(record)
            except Exception:
                log.exception("a request could not be written down")
            finally:
                record.span.end()
                otel_context.detach(current)
                correlation_id.reset(token)

    @cached_property
    def _log(self) -> structlog.typing.FilteringBoundLogger:
        # Bound once: `log` itself binds anew for each event, which takes as long as half of the line.
        bound: structlog.typing.FilteringBoundLogger = log.bind()
        return bound

    def _tell(self, record: RequestRecord) -> None:
        scope, method, status, seconds, broken_by, span, _, _, failure = record
        route = self._routes.find(scope, status)
        failed = status >= HTTPStatus.INTERNAL_SERVER_ERROR or broken_by == "error"

        span_context = span.get_span_context()
        exemplar = {"trace_id": format_trace_id(span_context.trace_id)} if span_context.trace_flags.sampled else None
        series = self._metrics.requests(method, route, status)
        series.total.inc(1, exemplar)
        series.duration.observe(seconds, exemplar)
        if broken_by:
            self._metrics.http_responses_incomplete.labels(method, route, broken_by).inc()

        client = scope.get("client")
        (self._log.error if failed else self._log.info)(
            "request",
            method=method,
            path=scope["path"],
            route=route,
            status=status,
            duration_ms=round(seconds * 1000, 3),
            client=client and client[0],
            **({"incomplete": broken_by} if broken_by else {}),
        )

        if span.is_recording():
            span.set_attribute("http.response.status_code", status)
            if route != UNMATCHED:
                span.update_name(span_name(method, route))
                span.set_attribute("http.route", route)
            if failed or failure:
                span.set_status(StatusCode.ERROR)
                span.set_attribute("error.type", failure or broken_by or str(status))


@cache
def span_name(method: str, route: str = "") -> str:
    """Method and route (HTTP semantic conventions, "Name")."""
    return f"{'HTTP' if method == OTHER_METHOD else method} {route}".rstrip()
