"""What the telemetry layer does by itself; what each kind of request leaves behind is in the contract tests."""

import asyncio
import time

import httpx
import pytest
import structlog
from fastapi import BackgroundTasks
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from starlette.requests import Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app.core.correlation import correlation_id
from app.core.exchange import Exchange
from app.core.telemetry import Telemetry


@pytest.fixture
def app(app: Telemetry) -> Telemetry:
    """The application with a route that does nothing."""

    @app.fastapi.get("/plain/{word}")
    async def plain(word: str) -> str:
        return word

    return app


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


async def test_a_request_is_told_with_the_time_of_its_end_however_late_it_is_written_down(
    app: Telemetry, spans: InMemorySpanExporter
) -> None:
    await app(http_scope("/plain/a"), never, nowhere)
    over = time.time_ns()
    with structlog.testing.capture_logs() as logs:
        app.flush()

    (span,) = spans.get_finished_spans()
    assert span.start_time is not None
    assert span.end_time is not None
    assert span.start_time < span.end_time < over
    assert logs[0]["timestamp"].timestamp() < over / 1e9


@pytest.mark.parametrize("others", [1, 15], ids=["written down a moment later", "written down by the last of many"])
async def test_what_a_request_binds_for_its_lines_is_on_its_own_access_line_alone(app: Telemetry, others: int) -> None:
    async def bind(scope: Scope, receive: Receive, send: Send) -> None:
        structlog.contextvars.bind_contextvars(tenant="a", status="taken")

    app.fastapi.mount("/bind", bind)

    told = asyncio.Event()

    def tell(_: object, __: str, event: structlog.typing.EventDict) -> structlog.typing.EventDict:
        told.set()
        return event

    with structlog.testing.capture_logs(processors=[structlog.contextvars.merge_contextvars, tell]) as logs:
        paths = [*["/plain/a"] * others, "/bind/"]
        await asyncio.gather(*(asyncio.create_task(app(http_scope(path), never, nowhere)) for path in paths))
        await told.wait()

    assert sorted((line["path"], line.get("tenant"), line["status"]) for line in logs) == [
        ("/bind/", "a", 500),
        *[("/plain/a", None, 200)] * others,
    ]


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
