"""What one request leaves behind: metrics, access line, span and header, for each kind of request."""

import asyncio
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any

import httpx
import pytest
import structlog
from fastapi import APIRouter, BackgroundTasks, FastAPI
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import StatusCode
from starlette.requests import Request
from starlette.responses import PlainTextResponse, StreamingResponse
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app.core.correlation import correlation_id
from app.core.route_templates import UNMATCHED
from app.core.telemetry import Exchange, Telemetry
from tests.support import ROOT, client_of

TRACE_ID = "4bf92f3577b34da6a3ce929d0e0e4736"


async def starlette_endpoint(request: Request) -> PlainTextResponse:
    return PlainTextResponse("x")


@pytest.fixture
def app(app: Telemetry) -> Telemetry:
    """The application with routes of every kind."""
    fastapi = app.fastapi

    @fastapi.get("/plain/{word}")
    async def plain(word: str) -> str:
        return word

    @fastapi.get("/fail")
    async def fail() -> None:
        raise RuntimeError("boom")

    @fastapi.get("/stream")
    async def stream() -> StreamingResponse:
        return StreamingResponse(iter([b"a", b"b"]))

    @fastapi.get("/half")
    async def half() -> StreamingResponse:
        async def body() -> AsyncIterator[bytes]:
            yield b"half of it"
            raise RuntimeError("boom")

        return StreamingResponse(body())

    outer, inner = APIRouter(prefix="/outer"), APIRouter(prefix="/inner")

    @inner.get("/{word}")
    async def nested(word: str) -> str:
        return word

    outer.include_router(inner)
    fastapi.include_router(outer)

    sub, tenant, twice = FastAPI(), FastAPI(), FastAPI()
    for mounted in (sub, tenant, twice):
        mounted.get("/x/{word}")(plain)

    fastapi.mount("/sub", sub)
    fastapi.router.routes.append(Mount("/routes", routes=[Route("/x", starlette_endpoint)]))
    fastapi.mount("/tenant/{tenant}", tenant)
    fastapi.mount("/one", twice)
    fastapi.mount("/two", twice)
    fastapi.mount("/static", StaticFiles(directory=ROOT / "app"))

    async def raw(scope: Scope, receive: Receive, send: Send) -> None:
        await PlainTextResponse("raw")(scope, receive, send)

    fastapi.mount("/raw", raw)
    return app


@dataclass
class Kind:
    """A kind of request and what must be seen of it."""

    name: str
    path: str
    route: str
    status: int = 200
    method: str = "GET"
    label: str = ""
    incomplete: str | None = None
    body: dict[str, Any] | None = field(default=None)

    @property
    def method_label(self) -> str:
        """The method as metrics and spans show it."""
        return self.label or self.method

    def __str__(self) -> str:
        return self.name


KINDS = [
    Kind("plain", "/plain/a", "/plain/{word}"),
    Kind("index", "/", "/"),
    Kind("collection", "/api/v1/items", "/api/v1/items"),
    Kind("created", "/api/v1/items", "/api/v1/items", 201, "POST", body={"name": "x"}),
    Kind("invalid", "/api/v1/items/1", "/api/v1/items/{item_id}", 422),
    Kind("nested routers", "/outer/inner/a", "/outer/inner/{word}"),
    Kind("mounted application", "/sub/x/a", "/sub/x/{word}"),
    Kind("unknown path of a mounted application", "/sub/nowhere", "/sub/{path}", 404),
    Kind("unknown path of an application mounted twice", "/two/nowhere", "/two/{path}", 404),
    Kind("application mounted twice", "/two/x/a", "/two/x/{word}"),
    Kind("static file", "/static/service.toml", "/static/{path}"),
    Kind("mount whose path varies", "/tenant/a/x/b", "/tenant/{tenant}/x/{word}"),
    Kind("route of a mounted router", "/routes/x", "/routes/x"),
    Kind("unknown path of a mounted router", "/routes/nowhere", "/routes/{path}", 404),
    Kind("head", "/", "/", method="HEAD"),
    Kind("raw application", "/raw/a/b", "/raw/{path}"),
    Kind("unknown path", "/nowhere", UNMATCHED, 404),
    Kind("slash redirect", "/plain/a/", "/plain/{word}", 307),
    Kind("method that the route lacks", "/plain/a", "/plain/{word}", 405, "DELETE"),
    Kind("method that nobody knows", "/plain/a", "/plain/{word}", 405, "BREW", label="_OTHER"),
    Kind("stream", "/stream", "/stream"),
    Kind("stream that dies half-way", "/half", "/half", incomplete="error"),
    Kind("unhandled exception", "/fail", "/fail", 500),
    Kind("documentation", "/openapi.json", "/openapi.json"),
]


@pytest.mark.parametrize("kind", KINDS, ids=str)
async def test_a_request_is_told_in_the_same_words_everywhere(
    app: Telemetry, spans: InMemorySpanExporter, kind: Kind
) -> None:
    def count(name: str, **labels: str) -> float:
        return (
            app.metrics.registry.get_sample_value(name, {"method": kind.method_label, "route": kind.route, **labels})
            or 0
        )

    headers = {"X-Correlation-ID": "abc-123", "traceparent": f"00-{TRACE_ID}-00f067aa0ba902b7-01"}
    async with client_of(app) as client:
        with structlog.testing.capture_logs() as logs:
            try:
                response = await client.request(kind.method, kind.path, headers=headers, json=kind.body)
            except AssertionError:  # httpx's transport within the process insists that responses end
                assert kind.incomplete
                app.flush()
            else:
                assert response.status_code == kind.status
                assert response.headers["x-correlation-id"] == "abc-123"

    assert count("http_requests_total", status=str(kind.status)) == 1
    assert count("http_request_duration_seconds_count", status=str(kind.status)) == 1
    assert app.metrics.registry.get_sample_value("http_requests_in_progress") == 0
    incomplete = {reason: count("http_responses_incomplete_total", reason=reason) for reason in ("error", "disconnect")}
    assert incomplete == {"error": float(kind.incomplete == "error"), "disconnect": 0}

    failed = kind.status >= 500 or kind.incomplete == "error"
    (line,) = [line for line in logs if line["event"] == "request"]
    assert (line["method"], line["route"], line["status"]) == (kind.method_label, kind.route, kind.status)
    assert line["log_level"] == ("error" if failed else "info")
    assert line.get("incomplete") == kind.incomplete
    assert len([line for line in logs if line["event"] == "unhandled exception"]) == failed

    (span,) = spans.get_finished_spans()
    assert span.context.trace_id == int(TRACE_ID, 16)
    attributes = span.attributes or {}
    method = "HTTP" if kind.label == "_OTHER" else kind.method
    assert attributes["http.request.method"] == kind.method_label
    assert attributes["http.response.status_code"] == kind.status
    assert attributes["correlation_id"] == "abc-123"
    if kind.route == UNMATCHED:
        assert (span.name, "http.route" in attributes) == (method, False)
    else:
        assert (span.name, attributes["http.route"]) == (f"{method} {kind.route}", kind.route)
    assert (span.status.status_code is StatusCode.ERROR) == failed
    assert [event.name for event in span.events] == (["exception"] if failed else [])


async def test_probes_leave_no_span_and_no_access_line_but_have_the_correlation_id(
    spans: InMemorySpanExporter, client: httpx.AsyncClient
) -> None:
    with structlog.testing.capture_logs() as logs:
        response = await client.get("/health/live", headers={"X-Correlation-ID": "abc-123"})

    assert response.headers["x-correlation-id"] == "abc-123"
    assert spans.get_finished_spans() == ()
    assert logs == []


async def test_a_hostile_correlation_id_is_replaced_and_never_echoed(client: httpx.AsyncClient) -> None:
    for header in ({"X-Correlation-ID": "a b"}, [("X-Correlation-ID", "a"), ("X-Correlation-ID", "b")]):
        response = await client.get("/plain/a", headers=header)

        assert len(response.headers["x-correlation-id"]) == 32


async def test_a_broken_traceparent_begins_a_new_trace(spans: InMemorySpanExporter, client: httpx.AsyncClient) -> None:
    await client.get("/plain/a", headers={"traceparent": "00-zz-zz-01"})

    (span,) = spans.get_finished_spans()
    assert span.parent is None


async def test_the_correlation_id_ends_with_its_request(client: httpx.AsyncClient) -> None:
    await client.get("/plain/a", headers={"X-Correlation-ID": "abc-123"})

    assert correlation_id.get() is None


def http_scope(path: str) -> Scope:
    return {
        "type": "http",
        "method": "GET",
        "path": path,
        "raw_path": path.encode(),
        "query_string": b"",
        "root_path": "",
        "headers": [],
        "http_version": "1.1",
        "scheme": "http",
        "server": None,
        "client": None,
    }


async def never() -> Message:
    raise AssertionError("no body is read")


async def gone() -> Message:
    return {"type": "http.disconnect"}


async def nowhere(message: Message) -> None:
    """A connection that nobody reads."""


async def leave_during_a_stream(scope: Scope, receive: Receive, send: Send) -> None:
    await send({"type": "http.response.start", "status": 200})
    await send({"type": "http.response.body", "body": b"x", "more_body": True})
    await receive()


async def leave_during_an_upload(scope: Scope, receive: Receive, send: Send) -> None:
    await Request(scope, receive).body()


async def fail_after_the_client_left(scope: Scope, receive: Receive, send: Send) -> None:
    await receive()
    raise RuntimeError("a bug")


async def never_finish(scope: Scope, receive: Receive, send: Send) -> None:
    await send({"type": "http.response.start", "status": 200})


@pytest.mark.parametrize(
    ("behaviour", "status", "incomplete", "level"),
    [
        (leave_during_a_stream, 200, "disconnect", "info"),
        (leave_during_an_upload, 499, "disconnect", "info"),
        (never_finish, 200, "error", "error"),
    ],
)
async def test_what_kept_a_response_from_its_end_is_told_apart(
    app: Telemetry, behaviour: ASGIApp, status: int, incomplete: str, level: str
) -> None:
    app.fastapi.mount("/break", behaviour)

    with structlog.testing.capture_logs() as logs:
        await app(http_scope("/break/"), gone, nowhere)
        app.flush()

    (line,) = logs
    assert (line["status"], line["incomplete"], line["log_level"]) == (status, incomplete, level)


async def test_a_bug_is_told_even_when_the_client_has_left(app: Telemetry) -> None:
    app.fastapi.mount("/break", fail_after_the_client_left)

    with structlog.testing.capture_logs() as logs:
        await app(http_scope("/break/"), gone, nowhere)
        app.flush()

    assert [(line["event"], line["log_level"]) for line in logs] == [
        ("unhandled exception", "error"),
        ("request", "info"),
    ]
    assert (logs[1]["status"], logs[1]["incomplete"]) == (499, "disconnect")


async def test_a_fault_of_telemetry_itself_leaves_no_request_in_progress(
    app: Telemetry, spans: InMemorySpanExporter, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(method: str, route: str, status: int) -> None:
        raise RuntimeError("no series")

    monkeypatch.setattr(app.metrics, "requests", fail)
    with structlog.testing.capture_logs() as logs:
        await app(http_scope("/plain/a"), gone, nowhere)
        app.flush()

    assert [line["event"] for line in logs] == ["a request could not be written down"]
    assert app.metrics.registry.get_sample_value("http_requests_in_progress") == 0
    assert len(spans.get_finished_spans()) == 1


async def test_the_duration_reaches_to_the_last_byte_and_no_further(app: Telemetry, client: httpx.AsyncClient) -> None:
    @app.fastapi.get("/slow")
    async def slow(background: BackgroundTasks) -> None:
        background.add_task(asyncio.sleep, 0.5)
        await asyncio.sleep(0.1)

    began = time.perf_counter()
    await client.get("/slow")
    everything = time.perf_counter() - began

    labels = {"method": "GET", "route": "/slow", "status": "200"}
    seconds = app.metrics.registry.get_sample_value("http_request_duration_seconds_sum", labels)
    assert seconds is not None
    assert seconds >= 0.1
    assert everything - seconds >= 0.5


async def test_a_cancelled_request_is_counted_and_the_cancellation_goes_on(app: Telemetry) -> None:
    class Cancelled(BaseException):
        pass

    @app.fastapi.get("/cancelled")
    async def cancelled() -> None:
        raise Cancelled

    with structlog.testing.capture_logs() as logs:
        with pytest.raises(Cancelled):
            await app(http_scope("/cancelled"), never, nowhere)
        app.flush()

    labels = {"method": "GET", "route": "/cancelled", "reason": "cancelled"}
    assert app.metrics.registry.get_sample_value("http_responses_incomplete_total", labels) == 1
    assert logs[0]["incomplete"] == "cancelled"


async def test_websockets_pass_through_with_a_correlation_id(app: Telemetry) -> None:
    seen: list[str | None] = []

    async def websocket(scope: Scope, receive: Receive, send: Send) -> None:
        seen.append(correlation_id.get())

    app.fastapi.mount("/ws", websocket)
    scope = {**http_scope("/ws/"), "type": "websocket", "headers": [(b"x-correlation-id", b"abc-123")]}

    await app(scope, never, never)  # type: ignore[arg-type]

    assert seen == ["abc-123"]


async def test_an_error_before_the_framework_is_a_problem_document_too(app: Telemetry) -> None:
    sent: list[Message] = []

    async def fail(scope: Scope, receive: Receive, send: Send) -> None:
        raise RuntimeError("boom")

    app.fastapi.middleware_stack = fail

    async def send(message: Message) -> None:
        sent.append(message)

    await app(http_scope("/"), never, send)
    app.flush()

    assert sent[0]["status"] == 500
    assert b"problem+json" in dict(sent[0]["headers"])[b"content-type"]


async def test_an_exchange_knows_when_the_response_is_complete() -> None:
    async def send(message: Message) -> None:
        """Nothing to do."""

    exchange = Exchange(http_scope("/"), never, send)
    await exchange.send({"type": "http.response.start", "status": 200})
    await exchange.send({"type": "http.response.body", "body": b"", "more_body": True})
    assert not exchange.complete
    await exchange.send({"type": "http.response.body", "body": b""})
    assert exchange.complete
