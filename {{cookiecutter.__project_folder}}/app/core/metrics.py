"""Every metric the service emits, defined once.

RED for requests (rate, errors, duration), saturation for what runs out, and what telemetry itself lost. All labels
are from bounded sets. Names and units follow https://prometheus.io/docs/practices/naming/.
"""

from collections.abc import Callable, Iterable
from contextlib import suppress
from functools import cache
from typing import NamedTuple
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer
from wsgiref.types import StartResponse, WSGIApplication, WSGIEnvironment

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    GCCollector,
    Histogram,
    PlatformCollector,
    ProcessCollector,
    disable_created_metrics,
    make_wsgi_app,
    start_http_server,
)

from app.core.config import FACTS, Settings

METRICS_PATH = "/metrics"

# A `_created` gauge for each child would add half as many series again, and no rule reads them.
disable_created_metrics()  # type: ignore[no-untyped-call]


class _ImpatientHandler(WSGIRequestHandler):
    """Answers scrapes; logs none of them, and gives a silent connection ten seconds."""

    timeout = 10

    def handle(self) -> None:
        """Answer one scrape, or give up without the traceback that `socketserver` would print."""
        with suppress(OSError):
            super().handle()

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the name is inherited
        """Log nothing."""


class RequestSeries(NamedTuple):
    """The children that one kind of request moves, bound once: looking labels up costs more than counting."""

    total: Counter
    duration: Histogram


class Metrics:
    """The metrics of one application, in a registry of their own.

    Args:
        settings: names the version and environment in `app_info`.
    """

    def __init__(self, settings: Settings) -> None:
        registry = self.registry = CollectorRegistry()
        ProcessCollector(registry=registry)
        PlatformCollector(registry=registry)
        GCCollector(registry=registry)

        self.http_requests = Counter(
            "http_requests_total",
            "Requests answered, probes excluded.",
            ["method", "route", "status"],
            registry=registry,
        )
        self.http_request_duration = Histogram(
            "http_request_duration_seconds",
            "Time from a request's arrival to the last byte of its response, probes excluded.",
            ["method", "route", "status"],
            buckets=duration_buckets(FACTS.slo.latency_threshold_ms / 1000, settings.request_timeout_seconds),
            registry=registry,
        )
        self.http_requests_in_progress = Gauge(
            "http_requests_in_progress", "Requests being answered now, or with a background task.", registry=registry
        )
        self.http_responses_incomplete = Counter(
            "http_responses_incomplete_total",
            "Responses that broke off; only reason `error` counts against the SLO.",
            ["method", "route", "reason"],
            registry=registry,
        )
        self.websocket_connections = Gauge("websocket_connections", "WebSockets that are open now.", registry=registry)
        self.http_requests_shed = Counter(
            "http_requests_shed_total",
            "Requests refused because too many were being answered.",
            registry=registry,
        )
        self.http_requests_timed_out = Counter(
            "http_requests_timed_out_total",
            "Requests whose time was over, by what was waited for: the body from the client, or the response.",
            ["waiting_for"],
            registry=registry,
        )
        self.circuit_breaker_state = Gauge(
            "circuit_breaker_state",
            "0 closed (calls go through), 1 half-open (one call probes), 2 open (calls are refused).",
            ["name"],
            registry=registry,
        )
        self.retries = Counter(
            "retries_total",
            "Calls to a dependency that broke off, by what became of their retry: made, or over_budget.",
            ["name", "outcome"],
            registry=registry,
        )
        self.health_checks = Counter(
            "health_checks_total", "Probes answered, by result.", ["check", "result"], registry=registry
        )
        self.event_loop_lag = Gauge(
            "app_event_loop_lag_seconds",
            "How late the event loop ran a timer, the worst of the last minute.",
            registry=registry,
        )
        self.thread_tokens = Gauge(
            "app_thread_tokens", "Threads for blocking calls, by state.", ["state"], registry=registry
        )
        log_events = Counter(
            "log_events_total", "Log lines by level, those that were lost included.", ["level"], registry=registry
        )
        self._log_events = {
            level: log_events.labels(level.upper()) for level in ("debug", "info", "warning", "error", "critical")
        }
        self.telemetry_dropped = Counter(
            "telemetry_dropped_total", "Spans and log lines that were lost.", ["signal"], registry=registry
        )
        labels = {
            "service": FACTS.service.name,
            "version": settings.service_version,
            "environment": settings.environment.value,
        }
        info = Gauge(
            "app_info",
            "Constantly 1; the labels tell what runs.",
            ["service", "version", "environment"],
            registry=registry,
        )
        info.labels(**labels).set(1)
        for signal in ("spans", "logs"):
            self.telemetry_dropped.labels(signal)
        for awaited in ("body", "response"):
            self.http_requests_timed_out.labels(awaited)

        self.requests: Callable[[str, str, int], RequestSeries] = cache(self._request_series)

    def count_log_line(self, level: str) -> None:
        """Count one line of a level, in lower case; a flood can then be told even when it is not written."""
        self._log_events[level].inc()

    def expect(self, routes: Iterable[tuple[str, str]], statuses: tuple[int, int] = (200, 500)) -> None:
        """Let each (method, route) have series before its first request: ratios then have data from the start."""
        for method, route in routes:
            for status in statuses:
                self.requests(method, route, status)
            self.http_responses_incomplete.labels(method, route, "error")

    def _request_series(self, method: str, route: str, status: int) -> RequestSeries:
        labels = (method, route, str(status))
        return RequestSeries(self.http_requests.labels(*labels), self.http_request_duration.labels(*labels))

    def serve(self, host: str, port: int) -> WSGIServer:
        """Serve the metrics from a thread, so that they answer while the event loop is busy.

        Text by default, OpenMetrics (which alone has exemplars) when the scraper asks for it.

        Raises:
            OSError: the address cannot be bound.
        """
        metrics_app: WSGIApplication = make_wsgi_app(self.registry)

        def only_metrics(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
            if environ["PATH_INFO"] == METRICS_PATH:
                return metrics_app(environ, start_response)
            start_response("404 Not Found", [("Content-Type", "text/plain; charset=utf-8")])
            return [f"Nothing here; metrics are at {METRICS_PATH}\n".encode()]

        server, _ = start_http_server(port, host, self.registry)
        server.set_app(only_metrics)
        # Each connection has a thread: one that says nothing must not keep it.
        server.RequestHandlerClass = _ImpatientHandler
        # By default five connections may wait to be accepted; a sixth is tried again by its system a second later.
        server.socket.listen(128)
        return server


def duration_buckets(slo_threshold: float, longest: float) -> list[float]:
    """Bounds in seconds that contain the SLO's threshold and reach the longest time a request may take.

    The threshold has to be a bound: a histogram answers exactly only at its bounds (SRE workbook, chapter 5). Two more
    bounds near it make its neighbourhood visible; the rest are the OpenTelemetry HTTP conventions' advice.
    """
    advised = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
    near = (round(slo_threshold / 2, 4), slo_threshold, round(slo_threshold * 2, 4))
    return sorted({bound for bound in (*advised, *near) if bound < longest} | {slo_threshold, longest})
