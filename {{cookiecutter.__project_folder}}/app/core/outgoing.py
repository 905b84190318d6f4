"""Calls to other services: the trace and the correlation id go along, and each call is a span of the request.

    # In the lifespan, once:
    async with outgoing.client(app.state.settings, base_url="https://billing.internal") as app.state.billing:
        yield

    # In an endpoint:
    response = await request.app.state.billing.post("/invoices", json=...)

The headers are sent whether or not the trace is sampled. Where calls can fail together, put a breaker around them
(`core/resilience.py`). Nothing imports this module before a service uses it: loading httpx takes a tenth of a second.
"""

import asyncio
from http import HTTPMethod, HTTPStatus
from typing import Any

import httpx
from opentelemetry import trace
from opentelemetry.trace import Span, SpanKind, StatusCode

from app.core.config import Settings
from app.core.correlation import PROPAGATOR
from app.core.redaction import is_secret
from app.core.tracing import record_exception

# A host that is there accepts within one retransmission of the first packet (RFC 6298: after 1 s).
_CONNECT_SECONDS = 2.0

_REDACTED = "REDACTED"


class _Client(httpx.AsyncClient):
    """A client that bounds, and tells of, each request it sends; redirects are part of the request they answer."""

    def __init__(self, seconds: float, **options: Any) -> None:
        super().__init__(**options)
        self._seconds = seconds
        self._tracer = trace.get_tracer("app.outgoing")

    async def send(self, request: httpx.Request, **options: Any) -> httpx.Response:
        # Part of a trace that is not kept, or of none: the call goes out like any other, but there is nothing to tell.
        if not trace.get_current_span().get_span_context().trace_flags.sampled:
            return await self._send(request, **options)
        span = self._tracer.start_span(_name(request), kind=SpanKind.CLIENT, attributes=_request_attributes(request))
        try:
            with trace.use_span(span, record_exception=False, set_status_on_exception=False):
                response = await self._send(request, **options)
        except BaseException as error:
            _fail(span, f"{type(error).__module__}.{type(error).__qualname__}")
            if isinstance(error, Exception):
                record_exception(span, error)
            raise
        else:
            _tell(span, response)
            return response
        finally:
            span.end()

    async def _send(self, request: httpx.Request, **options: Any) -> httpx.Response:
        PROPAGATOR.inject(request.headers)
        try:
            async with asyncio.timeout(self._seconds):
                return await super().send(request, **options)
        except TimeoutError as error:
            raise httpx.ReadTimeout(f"no response within {self._seconds:g} s", request=request) from error


def client(settings: Settings, *, seconds: float | None = None, **options: Any) -> httpx.AsyncClient:
    """A client for one other service; it keeps connections, so make one for each service and close it at the end.

    Args:
        settings: a call takes no longer than a request may.
        seconds: how long a call may take with all its redirects, until its response was read; with `stream`, until the
            response began. Less than what is left of the request is right: somebody has to answer for it.
        options: those of `httpx.AsyncClient`, which see.

    Returns:
        The client. Beside httpx's own errors, its calls raise `httpx.ReadTimeout` when their time is over.
    """
    bound = min(seconds or settings.request_timeout_seconds, settings.request_timeout_seconds)
    options.setdefault("timeout", httpx.Timeout(bound, connect=min(bound, _CONNECT_SECONDS)))
    return _Client(bound, **options)


def _name(request: httpx.Request) -> str:
    return request.method if _is_known(request.method) else "HTTP"


def _request_attributes(request: httpx.Request) -> dict[str, str | int]:
    """HTTP semantic conventions, client spans."""
    url = request.url
    attributes: dict[str, str | int] = {
        "http.request.method": request.method if _is_known(request.method) else "_OTHER",
        "server.address": url.host,
        "server.port": url.port or (443 if url.scheme == "https" else 80),
        "url.full": _without_secrets(url),
    }
    if not _is_known(request.method):
        attributes["http.request.method_original"] = request.method
    return attributes


def _is_known(method: str) -> bool:
    return method in HTTPMethod.__members__


def _without_secrets(url: httpx.URL) -> str:
    if url.userinfo:
        url = url.copy_with(username=_REDACTED, password=_REDACTED)
    for name in filter(is_secret, url.params):
        url = url.copy_set_param(name, _REDACTED)
    return str(url)


def _tell(span: Span, response: httpx.Response) -> None:
    span.set_attribute("http.response.status_code", response.status_code)
    span.set_attribute("network.protocol.version", response.http_version.removeprefix("HTTP/"))
    # Unlike for the one who answers, for the one who asked a 4xx is a failure too.
    if response.status_code >= HTTPStatus.BAD_REQUEST:
        _fail(span, str(response.status_code))


def _fail(span: Span, error_type: str) -> None:
    span.set_status(StatusCode.ERROR)
    span.set_attribute("error.type", error_type)
