"""Calls to other services, against a real HTTP server: what they send, how long they take, what they leave as spans."""

import asyncio
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from email.message import Message
from http.server import BaseHTTPRequestHandler
from socketserver import ThreadingTCPServer
from threading import Event, Thread

import httpx
import pytest
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF, ALWAYS_ON, Sampler
from opentelemetry.trace import SpanContext, SpanKind, StatusCode

from app.core import correlation, outgoing
from app.core.config import Settings
from tests.support import ROOT, free_port


class Upstream(ThreadingTCPServer):
    """Another service: answers with the status its path names, or misbehaves as it says."""

    block_on_close = False
    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Answer)
        self.port = self.server_address[1]
        self.url = f"http://127.0.0.1:{self.port}"
        self.headers: list[Message] = []
        self.over = Event()

    def header(self, name: str) -> list[str]:
        """The values of a header of the last request."""
        return self.headers[-1].get_all(name) or []


class Answer(BaseHTTPRequestHandler):
    """An answer of it."""

    protocol_version = "HTTP/1.1"
    server: Upstream

    def do_GET(self) -> None:
        self.server.headers.append(self.headers)
        match what := self.path.partition("?")[0].strip("/"):
            case "silent":
                self.server.over.wait(60)
            case "garbage":
                self.wfile.write(b"garbage\r\n\r\n")
                self.close_connection = True
            case "drip":
                self.wfile.write(b"HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\n")
                with suppress(OSError):
                    while not self.server.over.wait(0.01):
                        self.wfile.write(b"x")
            case _:
                self.send_response(int(what))
                if what == "302":
                    self.send_header("Location", "/200")
                self.send_header("Content-Length", "2")
                self.end_headers()
                self.wfile.write(b"ok")

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the name is inherited
        """Log nothing."""


@pytest.fixture
def upstream() -> Iterator[Upstream]:
    with Upstream() as upstream:
        Thread(target=upstream.serve_forever, args=(0.02,), daemon=True).start()
        yield upstream
        upstream.over.set()
        upstream.shutdown()


def traceparent(context: SpanContext) -> str:
    """The header that names a span (W3C Trace Context)."""
    return f"00-{context.trace_id:032x}-{context.span_id:016x}-{context.trace_flags:02x}"


Spans = Callable[[Sampler], InMemorySpanExporter]


@pytest.fixture
def provide(monkeypatch: pytest.MonkeyPatch) -> Spans:
    """Makes the process's tracer provider, with a sampler; returns the spans that end."""

    def provide(sampler: Sampler) -> InMemorySpanExporter:
        exporter = InMemorySpanExporter()
        provider = TracerProvider(sampler=sampler, shutdown_on_exit=False)
        provider.add_span_processor(SimpleSpanProcessor(exporter))
        monkeypatch.setattr(trace, "_TRACER_PROVIDER", provider)
        return exporter

    return provide


@pytest.fixture(autouse=True)
def _correlation_id() -> Iterator[None]:
    token = correlation.correlation_id.set("abc-123")
    yield
    correlation.correlation_id.reset(token)


async def test_a_call_is_a_child_span_and_carries_both_ids(
    upstream: Upstream, settings: Settings, provide: Spans
) -> None:
    spans = provide(ALWAYS_ON)
    async with outgoing.client(settings) as client:
        with trace.get_tracer("x").start_as_current_span("request"):
            response = await client.get(f"{upstream.url}/200?page=2")

    call, request = spans.get_finished_spans()
    assert response.text == "ok"
    assert call.parent == request.context
    assert (call.name, call.kind, call.status.status_code) == ("GET", SpanKind.CLIENT, StatusCode.UNSET)
    assert call.attributes == {
        "http.request.method": "GET",
        "server.address": "127.0.0.1",
        "server.port": upstream.port,
        "url.full": f"{upstream.url}/200?page=2",
        "http.response.status_code": 200,
        "network.protocol.version": "1.1",
    }
    assert call.context is not None
    assert upstream.header("traceparent") == [traceparent(call.context)]
    assert upstream.header("x-correlation-id") == ["abc-123"]


@pytest.mark.parametrize("in_request", [True, False])
async def test_unsampled_nothing_is_recorded_and_the_headers_are_sent(
    upstream: Upstream, settings: Settings, provide: Spans, in_request: bool
) -> None:
    spans = provide(ALWAYS_OFF)
    async with outgoing.client(settings) as client:
        if in_request:
            with trace.get_tracer("x").start_as_current_span("request") as request:
                await client.get(f"{upstream.url}/500")
            assert upstream.header("traceparent") == [traceparent(request.get_span_context())]
        else:
            await client.get(f"{upstream.url}/500")
            assert upstream.header("traceparent") == []

    assert spans.get_finished_spans() == ()
    assert upstream.header("x-correlation-id") == ["abc-123"]


@pytest.mark.parametrize("status", [404, 500])
async def test_an_answer_that_is_an_error_fails_the_span(
    upstream: Upstream, settings: Settings, provide: Spans, status: int
) -> None:
    spans = provide(ALWAYS_ON)
    async with outgoing.client(settings) as client:
        with trace.get_tracer("x").start_as_current_span("request"):
            await client.get(f"{upstream.url}/{status}")

    call, request = spans.get_finished_spans()
    assert call.attributes is not None
    assert (call.status.status_code, call.attributes["error.type"]) == (StatusCode.ERROR, str(status))
    assert (call.events, request.status.status_code) == ((), StatusCode.UNSET)


@pytest.mark.parametrize(
    ("fault", "error"),
    [
        ("refused", "httpx.ConnectError"),
        ("silent", "httpx.ReadTimeout"),
        ("garbage", "httpx.RemoteProtocolError"),
    ],
)
async def test_a_call_that_fails_is_recorded_once(
    upstream: Upstream, settings: Settings, provide: Spans, fault: str, error: str
) -> None:
    spans = provide(ALWAYS_ON)
    url = f"http://127.0.0.1:{free_port()}" if fault == "refused" else f"{upstream.url}/{fault}"
    async with outgoing.client(settings, seconds=0.2 if fault == "silent" else 10) as client:
        with trace.get_tracer("x").start_as_current_span("request"), pytest.raises(httpx.TransportError):
            await client.get(url)

    call, request = spans.get_finished_spans()
    assert call.attributes is not None
    assert (call.status.status_code, call.attributes["error.type"]) == (StatusCode.ERROR, error)
    (event,) = call.events
    assert event.attributes is not None
    assert event.attributes["exception.type"] == error
    assert (request.events, request.status.status_code) == ((), StatusCode.UNSET)


async def test_a_call_that_is_cancelled_ends_its_span(upstream: Upstream, settings: Settings, provide: Spans) -> None:
    spans = provide(ALWAYS_ON)
    async with outgoing.client(settings) as client:
        with trace.get_tracer("x").start_as_current_span("request"), pytest.raises(TimeoutError):
            async with asyncio.timeout(0.1):
                await client.get(f"{upstream.url}/silent")

    call, _ = spans.get_finished_spans()
    assert call.attributes is not None
    assert call.attributes["error.type"] == "asyncio.exceptions.CancelledError"
    assert call.events == ()


async def test_a_call_takes_no_longer_than_its_bound_however_slowly_the_answer_comes(
    upstream: Upstream, settings: Settings
) -> None:
    async with outgoing.client(settings, seconds=0.3) as client:
        with pytest.raises(httpx.ReadTimeout, match=r"within 0\.3 s"):
            await client.get(f"{upstream.url}/drip")


@pytest.mark.parametrize(("seconds", "bound"), [(None, 30), (5, 5), (100, 30)])
def test_no_call_may_take_longer_than_a_request(settings: Settings, seconds: float | None, bound: float) -> None:
    client = outgoing.client(settings.model_copy(update={"request_timeout_seconds": 30}), seconds=seconds)

    assert (client.timeout.read, client.timeout.connect) == (bound, 2)


async def test_a_redirect_is_part_of_its_call(upstream: Upstream, settings: Settings, provide: Spans) -> None:
    spans = provide(ALWAYS_ON)
    async with outgoing.client(settings, follow_redirects=True) as client:
        with trace.get_tracer("x").start_as_current_span("request"):
            await client.get(f"{upstream.url}/302")

    call, _ = spans.get_finished_spans()
    assert call.attributes is not None
    assert call.attributes["http.response.status_code"] == 200
    assert upstream.header("x-correlation-id") == ["abc-123"]


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("http://user:hunter2@host/x", "http://REDACTED:REDACTED@host/x"),
        ("http://host/x?a=b&token=hunter2", "http://host/x?a=b&token=REDACTED"),
        ("http://host/x?X-Amz-Signature=hunter2&a=b%20c", "http://host/x?X-Amz-Signature=REDACTED&a=b+c"),
        ("https://host/x?a=b%20c#f", "https://host/x?a=b%20c#f"),
    ],
)
def test_no_secret_of_a_url_is_told(url: str, shown: str) -> None:
    attributes = outgoing._request_attributes(httpx.Request("GET", url))

    assert attributes["url.full"] == shown
    assert "hunter2" not in repr(attributes)


def test_unknown_methods_are_folded() -> None:
    request = httpx.Request("BREW", "http://host/")

    assert outgoing._name(request) == "HTTP"
    assert outgoing._request_attributes(request) == {
        "http.request.method": "_OTHER",
        "http.request.method_original": "BREW",
        "server.address": "host",
        "server.port": 80,
        "url.full": "http://host/",
    }


def test_a_service_that_calls_nobody_does_not_load_the_client() -> None:
    code = "import sys, app.main, app.core.lifecycle; sys.exit('httpx' in sys.modules)"

    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True, timeout=60)  # noqa: S603 - our own interpreter


def test_the_propagator_serves_any_instrumented_client() -> None:
    carrier: dict[str, str] = {}
    correlation.PROPAGATOR.inject(carrier)

    assert carrier == {"X-Correlation-ID": "abc-123"}
    assert {"traceparent", "X-Correlation-ID"} <= correlation.PROPAGATOR.fields
