"""What is told of a request that is over: metrics, access line and span, in the same words."""

import asyncio
from datetime import UTC, datetime
from functools import cache, cached_property
from http import HTTPStatus
from typing import NamedTuple

import structlog
from opentelemetry import context as otel_context
from opentelemetry.context import Context
from opentelemetry.trace import Span, StatusCode, format_trace_id

from app.core.correlation import correlation_id
from app.core.metrics import Metrics
from app.core.route_templates import UNMATCHED

# RFC 9110, section 9 and RFC 5789; anything else is `_OTHER`, as in the HTTP semantic conventions.
METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "DELETE", "CONNECT", "OPTIONS", "TRACE", "PATCH"})
OTHER_METHOD = "_OTHER"

log = structlog.get_logger()


class RequestRecord(NamedTuple):
    """A request that is over: what is told of it, and nothing that would keep more of it in memory.

    `ended` is when, in nanoseconds since the epoch; `seconds` go from its arrival to the last byte of its response.
    `broken_by` is what kept the response from its end: `error`, `disconnect` (the client left) or `cancelled`.
    `failure` is the type of an unhandled exception, which a background task may raise after all is sent. The span is
    current in `context`.
    """

    ended: int
    method: str
    route: str
    path: str
    client: str | None
    status: int
    seconds: float
    broken_by: str | None
    failure: str | None
    span: Span
    context: Context
    correlation_id: str | None


# How long a request that is over may wait for others to be written down with, in seconds, and for how many: writing all
# of them down must not hold up the event loop for long.
_GATHER_SECONDS = 0.01
_GATHER_REQUESTS = 32


class Recorder:
    """Writes down requests, some that ended within a hundredth of a second together.

    Code that runs alone between two requests finds nothing of its own in the caches of the CPU: done one by one, the
    same work costs a request a tenth more CPU time.

    Args:
        metrics: where requests are counted.

    `in_progress` is for whoever begins a request to add to; its end takes one away.
    """

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics
        self._over: list[RequestRecord] = []
        self.in_progress = 0
        self._scheduled_on: asyncio.AbstractEventLoop | None = None
        metrics.http_requests_in_progress.set_function(lambda: self.in_progress)

    def end(self, record: RequestRecord) -> None:
        """Take a request that is over; it is written down a moment later."""
        self.in_progress -= 1
        self._over.append(record)
        if len(self._over) >= _GATHER_REQUESTS:
            self.flush()
            return
        loop = asyncio.get_running_loop()
        if self._scheduled_on is not loop:
            self._scheduled_on = loop
            loop.call_later(_GATHER_SECONDS, self._flush_in_time)

    def _flush_in_time(self) -> None:
        self._scheduled_on = None
        self.flush()

    def flush(self) -> None:
        """Write down now what is over."""
        over, self._over = self._over, []
        for record in over:
            token = correlation_id.set(record.correlation_id)
            current = otel_context.attach(record.context)
            try:
                self._tell(record)
            except Exception:
                log.exception("a request could not be written down")
            finally:
                otel_context.detach(current)
                correlation_id.reset(token)
                record.span.end(record.ended)

    @cached_property
    def _log(self) -> structlog.typing.FilteringBoundLogger:
        # Bound once: `log` itself binds anew for each event, which takes as long as half of the line.
        bound: structlog.typing.FilteringBoundLogger = log.bind()
        return bound

    def _tell(self, record: RequestRecord) -> None:
        ended, method, route, path, client, status, seconds, broken_by, failure, span, *_ = record
        failed = status >= HTTPStatus.INTERNAL_SERVER_ERROR or broken_by == "error"

        identity = span.get_span_context()
        exemplar = {"trace_id": format_trace_id(identity.trace_id)} if identity.trace_flags.sampled else None
        series = self._metrics.requests(method, route, status)
        series.total.inc(1, exemplar)
        series.duration.observe(seconds, exemplar)
        if broken_by:
            self._metrics.http_responses_incomplete.labels(method, route, broken_by).inc()

        (self._log.error if failed else self._log.info)(
            "request",
            timestamp=datetime.fromtimestamp(ended / 1e9, UTC),
            method=method,
            path=path,
            route=route,
            status=status,
            duration_ms=round(seconds * 1000, 3),
            client=client,
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
