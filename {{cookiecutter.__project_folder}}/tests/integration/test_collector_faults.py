"""What a service does whose collector fails: it serves, it ends in time, and it knows of every span that got lost.

Requests for a path that no route knows are one span each, whatever the store does.
"""

import re
import signal
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import httpx
import pytest
from opentelemetry.proto.trace.v1.trace_pb2 import Span as Kind
from opentelemetry.proto.trace.v1.trace_pb2 import Status
from opentelemetry.trace import Link, SpanKind, set_span_in_context

from app.core.config import FACTS, Settings
from app.core.tracing import Tracing
from tests.otlp import (
    Behaviour,
    Collector,
    Hold,
    Received,
    accept,
    first,
    lose_the_answer,
    refuse,
    reject,
    reset_half_way,
)
from tests.support import Service, free_port, wait_for

Start = Callable[..., Service]

SETTINGS = {
    "OTEL_TRACES_SAMPLER": "always_on",
    "OTEL_BSP_SCHEDULE_DELAY": "50",
    "TELEMETRY_FLUSH_SECONDS": "1",
    "DRAIN_SECONDS": "0",
    "GRACEFUL_SHUTDOWN_SECONDS": "1",
}
# Seconds. What the settings above allow adds up to 4; the rest is for a busy machine, and far below the 60 of HELD.
EXIT = 20
IN_A_SECOND, IN_AN_HOUR = {"Retry-After": "1"}, {"Retry-After": "3600"}
HELD = {"OTEL_EXPORTER_OTLP_TIMEOUT": "60"}


def ask(service: Service, count: int, start: int = 0) -> set[str]:
    """Make requests, each of which is answered; their correlation ids."""
    ids = {f"request-{number}" for number in range(start, start + count)}
    with httpx.Client(base_url=service.url) as client:
        for one in ids:
            assert client.get("/nowhere", headers={"X-Correlation-ID": one}).status_code == 404
    return ids


def ids(spans: list[Received]) -> set[object]:
    """The requests whose spans these are."""
    return {span.attributes["correlation_id"] for span in spans}


def dropped(service: Service) -> int:
    """How many spans the service says were lost, as a scrape sees it."""
    text = httpx.get(service.metrics_url).text
    (value,) = re.findall(r'^telemetry_dropped_total\{signal="spans"\} (\S+)$', text, re.MULTILINE)
    return int(float(value))


def end(service: Service) -> tuple[int, int]:
    """Stop the service, well and in time; how many spans its log says were lost before the end, and at the end."""
    began = time.monotonic()
    code, lines, err = service.end(signal.SIGTERM, timeout=60)

    assert time.monotonic() - began < EXIT
    assert (code, err) == (0, "")
    complaints = [line for line in lines if line["level"] not in {"DEBUG", "INFO"}]
    assert {(line["event"], line["level"]) for line in complaints} <= {
        ("spans lost", "WARNING"),
        ("spans lost at exit", "WARNING"),
    }
    # However long it lasts, a fault is told of at once, with a sum later, and at the end.
    assert len(complaints) <= 3
    told = [line["spans"] for line in complaints if line["event"] == "spans lost"]
    return sum(told), sum(line["spans"] for line in complaints) - sum(told)


def test_the_span_of_a_request_arrives_whole(start: Start) -> None:
    with Collector() as collector:
        service = start(
            OTEL_EXPORTER_OTLP_ENDPOINT=collector.endpoint,
            SERVICE_VERSION="1.2.3",
            OTEL_RESOURCE_ATTRIBUTES="k8s.pod.name=pod-1",
            **SETTINGS,
        )
        service.wait_until("/health/ready", 200)
        trace, parent = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
        httpx.get(
            f"{service.url}/api/v1/items?limit=2",
            headers={"X-Correlation-ID": "abc-123", "traceparent": f"00-{trace}-{parent}-01", "User-Agent": "tester"},
        )
        wait_for(lambda: any(one.span.kind == Kind.SPAN_KIND_SERVER for one in collector.spans), "no span arrived")
        assert end(service) == (0, 0)

    ((span, resource),) = [one for one in collector.spans if one.span.kind == Kind.SPAN_KIND_SERVER]
    assert (span.trace_id.hex(), span.parent_span_id.hex(), len(span.span_id)) == (trace, parent, 8)
    assert span.name == "GET /api/v1/items"
    assert span.status.code == Status.STATUS_CODE_UNSET
    assert 0 < span.start_time_unix_nano < span.end_time_unix_nano < time.time_ns()
    attributes = Received(span, resource).attributes
    assert (
        attributes
        | {
            "http.request.method": "GET",
            "http.response.status_code": 200,
            "http.route": "/api/v1/items",
            "url.path": "/api/v1/items",
            "url.scheme": "http",
            "user_agent.original": "tester",
            "correlation_id": "abc-123",
        }
        == attributes
    )
    assert (
        resource
        | {
            "service.name": FACTS.service.name,
            "service.version": "1.2.3",
            "deployment.environment.name": "development",
            "telemetry.sdk.language": "python",
            "k8s.pod.name": "pod-1",
        }
        == resource
    )


def refuse_connections(_: object) -> None:
    """Stands for no collector at all."""


LOSES_ALL: dict[str, Behaviour] = {
    "refuses connections": refuse_connections,
    "never answers": Hold(),
    "is busy for an hour": refuse(503, IN_AN_HOUR),
    "finds the spans malformed": refuse(400),
    "redirects": refuse(307, {"Location": "/elsewhere"}),
    "always breaks off": reset_half_way,
}


@pytest.mark.parametrize("fault", LOSES_ALL)
def test_spans_that_a_collector_does_not_take_are_counted(start: Start, fault: str) -> None:
    with Collector(LOSES_ALL[fault]) as collector:
        unused = f"http://127.0.0.1:{free_port()}"
        service = start(
            OTEL_EXPORTER_OTLP_ENDPOINT=unused if fault == "refuses connections" else collector.endpoint,
            OTEL_EXPORTER_OTLP_TIMEOUT="0.5",
            **SETTINGS,
        )
        service.wait_until("/health/ready", 200)
        ask(service, 5)
        wait_for(lambda: dropped(service) == 5, "the first spans were not counted")
        ask(service, 5)
        wait_for(lambda: dropped(service) == 10, "the other spans were not counted")

        assert end(service) == (10, 0)
        assert collector.spans == []


@pytest.mark.parametrize(
    ("behave", "pause"),
    [(first(refuse(429, IN_A_SECOND)), 1), (first(refuse(503, IN_A_SECOND)), 1), (first(reset_half_way), 0)],
    ids=["429", "503", "reset"],
)
def test_a_fault_that_passes_costs_no_span(start: Start, behave: Behaviour, pause: float) -> None:
    with Collector(behave) as collector:
        # A slow machine may send these requests in more than one batch.
        service = start(OTEL_EXPORTER_OTLP_ENDPOINT=collector.endpoint, OTEL_EXPORTER_OTLP_TIMEOUT="30", **SETTINGS)
        service.wait_until("/health/ready", 200)
        asked = ask(service, 5)
        collector.wait_for(5)

        assert dropped(service) == 0
        assert end(service) == (0, 0)
        assert ids(collector.spans) == asked
        # It asked for as much.
        assert collector.arrivals[1] - collector.arrivals[0] >= pause


def test_spans_that_a_collector_rejects_from_a_batch_are_counted(start: Start) -> None:
    with Collector(first(reject(1))) as collector:
        service = start(OTEL_EXPORTER_OTLP_ENDPOINT=collector.endpoint, **SETTINGS)
        service.wait_until("/health/ready", 200)
        asked = ask(service, 5)
        collector.wait_for(4)

        wait_for(lambda: dropped(service) == 1, "the rejected span was not counted")
        assert end(service) == (1, 0)
        assert len(ids(collector.spans) & asked) == 4


def test_spans_whose_answer_is_lost_arrive_and_are_counted_all_the_same(start: Start) -> None:
    with Collector(lose_the_answer) as collector:
        service = start(OTEL_EXPORTER_OTLP_ENDPOINT=collector.endpoint, OTEL_EXPORTER_OTLP_TIMEOUT="0.5", **SETTINGS)
        service.wait_until("/health/ready", 200)
        asked = ask(service, 5)

        wait_for(lambda: dropped(service) == 5, "what may not have arrived was not counted")
        assert end(service) == (5, 0)
        # Each was sent again at once, since a pooled connection may just have been stale.
        assert (ids(collector.spans), len(collector.spans)) == (asked, 10)


def test_a_slow_collector_delays_no_request_and_gets_all_spans(start: Start) -> None:
    slow = Hold()
    with Collector(slow) as collector:
        service = start(OTEL_EXPORTER_OTLP_ENDPOINT=collector.endpoint, **SETTINGS, **HELD)
        service.wait_until("/health/ready", 200)
        asked = ask(service, 1)
        assert slow.holding.wait(30)
        asked |= ask(service, 30, start=1)
        assert collector.spans == []
        slow.release()
        collector.wait_for(31)

        assert dropped(service) == 0
        assert end(service) == (0, 0)
        assert ids(collector.spans) == asked


def test_a_silent_collector_costs_neither_requests_nor_memory_nor_the_exit(start: Start) -> None:
    silent = Hold()
    with Collector(silent) as collector:
        service = start(
            OTEL_EXPORTER_OTLP_ENDPOINT=collector.endpoint, OTEL_BSP_MAX_QUEUE_SIZE="20", **SETTINGS, **HELD
        )
        service.wait_until("/health/ready", 200)
        ask(service, 1)
        assert silent.holding.wait(30)
        ask(service, 49, start=1)

        # The span that is on its way and 19 more are kept, and no other.
        wait_for(lambda: dropped(service) == 30, "what does not fit was not counted")
        assert end(service) == (30, 20)
        assert collector.spans == []


def test_a_collector_that_is_killed_and_comes_back_costs_only_counted_spans(start: Start) -> None:
    asked: set[str] = set()
    over = threading.Event()

    with Collector() as before:
        service = start(OTEL_EXPORTER_OTLP_ENDPOINT=before.endpoint, OTEL_EXPORTER_OTLP_TIMEOUT="0.5", **SETTINGS)
        service.wait_until("/health/ready", 200)

        def load() -> None:
            while not over.is_set():
                asked.update(ask(service, 10, start=len(asked)))

        with ThreadPoolExecutor(1) as pool:
            done = pool.submit(load)
            try:
                before.wait_for(10)
                before.kill()
                wait_for(lambda: dropped(service) > 0, "nothing was lost")
                # What was on its way when it was killed may have arrived. What follows cannot.
                uncertain = dropped(service)
                wait_for(lambda: dropped(service) > uncertain, "nothing more was lost")
                with Collector(port=before.port) as after:
                    after.wait_for(10)
                    over.set()
                    done.result()
                    told, at_exit = end(service)
            finally:
                over.set()

    missing = asked - ids(before.spans) - ids(after.spans)
    assert 0 < len(missing) <= told + at_exit < len(asked)


@pytest.mark.parametrize(
    ("behave", "lost"), [(accept, 0), (refuse(503, IN_AN_HOUR), 3)], ids=["there", "busy for an hour"]
)
def test_the_spans_of_the_last_requests_are_sent_at_the_end_or_told_of(
    start: Start, behave: Behaviour, lost: int
) -> None:
    with Collector(behave) as collector:
        never = {"OTEL_BSP_SCHEDULE_DELAY": "60000"}
        service = start(OTEL_EXPORTER_OTLP_ENDPOINT=collector.endpoint, **SETTINGS | never)
        service.wait_until("/health/ready", 200)
        asked = ask(service, 3)
        assert (collector.arrivals, dropped(service)) == ([], 0)

        told, at_exit = end(service)

        assert told + at_exit == lost
        assert ids(collector.spans) == (set() if lost else asked)


def test_without_a_collector_nothing_is_sent_and_nothing_is_lost(start: Start) -> None:
    service = start(**SETTINGS)
    service.wait_until("/health/ready", 200)
    ask(service, 5)

    assert dropped(service) == 0
    assert end(service) == (0, 0)


@contextmanager
def traced(**variables: object) -> Iterator[tuple[Tracing, Collector]]:
    """Tracing in this process, to a collector that has all its spans at the end."""
    with Collector() as collector:
        settings = {"otel_exporter_otlp_endpoint": collector.endpoint, "otel_traces_sampler": "always_on"}
        tracing = Tracing(Settings.model_validate({"storage_url": "memory://", **settings, **variables}), print)
        yield tracing, collector
        assert tracing.shutdown(30) == 0


def test_every_field_of_a_span_arrives() -> None:
    with traced() as (tracing, collector):
        with tracing.tracer.start_as_current_span("parent") as parent:
            other = parent.get_span_context()
        with (
            pytest.raises(ZeroDivisionError),
            tracing.tracer.start_as_current_span(
                "child",
                set_span_in_context(parent),
                SpanKind.CLIENT,
                {"text": "é", "number": 7, "ratio": 0.5, "flag": True, "list": ["a", "b"]},
                [Link(other, {"why": "test"})],
            ) as child,
        ):
            raise ZeroDivisionError("by zero")

    collector.spans.sort(key=lambda one: one.span.name)
    (span, _), _ = collector.spans
    assert span.trace_id == other.trace_id.to_bytes(16, "big")
    assert span.parent_span_id == other.span_id.to_bytes(8, "big")
    assert span.span_id == child.get_span_context().span_id.to_bytes(8, "big")
    assert (span.name, span.kind) == ("child", Kind.SPAN_KIND_CLIENT)
    values = {pair.key: pair.value for pair in span.attributes}
    assert (values["text"].string_value, values["number"].int_value, values["ratio"].double_value) == ("é", 7, 0.5)
    assert values["flag"].bool_value
    assert [one.string_value for one in values["list"].array_value.values] == ["a", "b"]
    assert (span.status.code, span.status.message) == (Status.STATUS_CODE_ERROR, "ZeroDivisionError: by zero")
    (event,) = span.events
    assert (event.name, event.attributes[0].value.string_value) == ("exception", "ZeroDivisionError")
    assert [link.span_id for link in span.links] == [other.span_id.to_bytes(8, "big")]


@pytest.mark.parametrize(
    ("variables", "header", "value"),
    [
        ({"OTEL_EXPORTER_OTLP_HEADERS": "authorization=Bearer%20abc,x-team=a"}, "authorization", "Bearer abc"),
        (
            {"OTEL_EXPORTER_OTLP_HEADERS": "x-team=a", "OTEL_EXPORTER_OTLP_TRACES_HEADERS": "x-team=b"},
            "x-team",
            "b",
        ),
        ({"OTEL_EXPORTER_OTLP_COMPRESSION": "gzip"}, "Content-Encoding", "gzip"),
        ({"OTEL_EXPORTER_OTLP_TRACES_COMPRESSION": "deflate"}, "Content-Encoding", "deflate"),
    ],
)
def test_the_exporter_reads_its_standard_variables(
    monkeypatch: pytest.MonkeyPatch, variables: dict[str, str], header: str, value: str
) -> None:
    for name, setting in variables.items():
        monkeypatch.setenv(name, setting)

    with traced() as (tracing, collector):
        tracing.tracer.start_span("x").end()

    assert collector.headers[header] == value
    assert [one.span.name for one in collector.spans] == ["x"]


def test_the_sdk_reads_its_limits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTEL_ATTRIBUTE_VALUE_LENGTH_LIMIT", "3")
    monkeypatch.setenv("OTEL_SPAN_ATTRIBUTE_COUNT_LIMIT", "1")

    with traced() as (tracing, collector):
        tracing.tracer.start_span("x", attributes={"first": "f", "text": "abcdef"}).end()

    assert collector.spans[0].attributes == {"text": "abc"}


def test_resource_attributes_are_added_but_rename_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTEL_SERVICE_NAME", "other")
    monkeypatch.setenv("OTEL_RESOURCE_ATTRIBUTES", "service.version=9,service.namespace=shop,k8s.pod.name=a%20b")

    with traced(service_version="1.2.3") as (tracing, collector):
        tracing.tracer.start_span("x").end()

    resource = collector.spans[0].resource
    assert (resource["service.name"], resource["service.version"]) == (FACTS.service.name, "1.2.3")
    assert (resource["service.namespace"], resource["k8s.pod.name"]) == ("shop", "a b")
