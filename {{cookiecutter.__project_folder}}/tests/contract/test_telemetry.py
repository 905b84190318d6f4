"""What every kind of request leaves behind: response, metrics, log lines and span, in the same words.

The kinds are the table of docs/architecture/TELEMETRY.md. Each is a client that does something to a real service; all
that the service then says is read, and nothing may be missing or left over. Every kind is tried on the service as it
is, and with a middleware of the usual sort, which runs the application in another task.
"""

import json
import signal
import time
from collections import Counter
from collections.abc import Callable, Iterator
from itertools import count
from pathlib import Path
from typing import Any, TypeVar

import pytest
from opentelemetry.proto.trace.v1.trace_pb2 import Span, Status
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families as parse_text

from app.core.config import FACTS
from app.core.route_templates import UNMATCHED
from tests.kinds import BODY_BYTES, CROWD, HEADER_BYTES, KINDS, URI_BYTES, Kind
from tests.observe import Answer, Observed, Series, write_request
from tests.otlp import Collector, Received
from tests.support import Service

PARENT = "00f067aa0ba902b7"

COUNTED = (
    "http_requests_total",
    "http_request_duration_seconds_count",
    "http_responses_incomplete_total",
    "http_requests_shed_total",
    "http_requests_timed_out_total",
    "http_requests_in_progress",
    "websocket_connections",
    "telemetry_dropped_total",
)
SECURITY_HEADERS = ("X-Content-Type-Options", "Content-Security-Policy")
SCHEMA = (
    *("timestamp", "level", "service", "environment", "version"),
    *("event", "correlation_id", "trace_id", "span_id"),
)

T = TypeVar("T")


class Zoo(Observed):
    """A zoo and what it must have counted so far."""

    def __init__(self, folder: Path, collector: Collector, variant: str) -> None:
        super().__init__(
            folder,
            collector,
            ZOO=variant,
            MAX_URI_BYTES=str(URI_BYTES),
            MAX_HEADER_BYTES=str(HEADER_BYTES),
            MAX_BODY_BYTES=str(BODY_BYTES),
            MAX_CONCURRENT_REQUESTS=str(CROWD),
            REQUEST_TIMEOUT_SECONDS="3",
            DRAIN_SECONDS="2",
            HEALTH_CHECK_CACHE_SECONDS="0",
        )
        self.variant = variant
        self.counted: Counter[Series] = Counter()
        self.traced: Counter[str] = Counter()
        self.numbers = count(1)
        self.lines()

    def ids(self) -> tuple[str, str]:
        """A correlation id and a trace id that were never used."""
        number = next(self.numbers)
        return f"kind-{number}", f"{number:032x}"

    def count(self, new: Counter[Series]) -> tuple[Counter[Series], Counter[Series]]:
        """What has been counted so far, and what should have been: these and nothing else since the last time."""
        expected = self.counted + new
        self.counted = eventually(lambda: self.series(*COUNTED), expected)
        return self.counted, expected

    def lines_of(self, events: list[str]) -> list[dict[str, Any]]:
        """All lines that are new, once they have these events."""
        lines: list[dict[str, Any]] = []

        def seen() -> list[str]:
            lines.extend(self.lines())
            return sorted(line["event"] for line in lines)

        eventually(seen, events)
        return lines


def eventually(get: Callable[[], T], expected: T, timeout: float = 10) -> T:
    """The value once it is as expected, or what it is when the time is over."""
    deadline = time.monotonic() + timeout
    while (actual := get()) != expected and time.monotonic() < deadline:
        time.sleep(0.005)
    return actual


@pytest.fixture(scope="module", params=["plain", "dispatch"])
def zoo(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Zoo]:
    """A zoo that is ready."""
    with Collector() as collector:
        zoo = Zoo(tmp_path_factory.mktemp("zoo"), collector, request.param)
        yield zoo
        zoo.kill()


@pytest.mark.parametrize("kind", KINDS, ids=str)
def test_a_request_is_told_in_the_same_words_everywhere(zoo: Zoo, kind: Kind) -> None:
    if zoo.variant == "dispatch":
        kind = kind.dispatched()
    correlation_id, trace_id = zoo.ids()

    answer = kind.client(zoo, kind, raw_request(kind, correlation_id, trace_id))

    # All that there is to see is looked at before it is judged: what one kind leaves is no surprise for the next.
    counted, expected = zoo.count(expected_series(kind))
    lines = zoo.lines_of(expected_events(kind))
    traced = 0 if kind.route is None else kind.times
    zoo.traced[trace_id] = eventually(lambda: len(zoo.spans_of(trace_id)), traced)
    assert counted == expected
    check_answer(kind, answer, correlation_id)
    check_lines(kind, lines, answer, correlation_id, trace_id)
    assert zoo.traced[trace_id] == traced
    for received in zoo.spans_of(trace_id):
        check_span(kind, received, correlation_id)
        assert received.span.span_id.hex() in {line["span_id"] for line in lines}


def raw_request(kind: Kind, correlation_id: str, trace_id: str) -> bytes:
    fields = (
        f"Connection: close{', Upgrade' if 'Upgrade: websocket' in kind.fields else ''}",
        "User-Agent: zoo",
        f"X-Correlation-ID: {correlation_id}",
        f"traceparent: 00-{trace_id}-{PARENT}-01",
    )
    return write_request(kind.method, kind.target, *fields, *kind.fields, body=kind.content)


def expected_series(kind: Kind) -> Counter[Series]:
    """What a request of this kind adds to the metrics."""
    series: list[Series] = [*kind.series]
    if kind.route is not None:
        labels = (kind.label, kind.route, str(kind.status))
        series += [("http_requests_total", *labels), ("http_request_duration_seconds_count", *labels)] * kind.times
        for reason in (kind.incomplete, kind.closed and kind.closed[1]):
            if reason:
                series.append(("http_responses_incomplete_total", kind.label, reason, kind.route))
    return Counter(series)


def expected_events(kind: Kind) -> list[str]:
    """The log lines of a request of this kind."""
    return sorted(
        [
            *(["request"] * kind.times if kind.route is not None else []),
            *(["unhandled exception"] if kind.error else []),
            *(["websocket closed"] if kind.closed else []),
            *kind.besides,
        ]
    )


def check_answer(kind: Kind, answer: Answer | None, correlation_id: str) -> None:
    """Whether the client got what it should."""
    if answer is None:
        assert kind.seen == 0
        return
    identity = answer.headers.get_all("X-Correlation-ID") or []
    assert (answer.status, answer.whole, len(identity)) == (kind.status, kind.incomplete != "error", 1)
    if kind.route is None:
        # Of what is no request, nothing is echoed.
        assert len(identity[0]) == 32
    else:
        assert identity == [correlation_id]
        assert {name: len(answer.headers.get_all(name) or []) for name in SECURITY_HEADERS} == dict.fromkeys(
            SECURITY_HEADERS, 1
        )
    assert {name: answer.headers[name] for name, _ in kind.gets} == dict(kind.gets)
    if kind.answer is not None:
        assert answer.body == kind.answer
    elif answer.status >= 400:
        problem = json.loads(answer.body)
        assert answer.headers["Content-Type"] == "application/problem+json"
        assert (problem["status"], problem["correlation_id"]) == (kind.status, identity[0])
        assert problem.get("instance") == (None if kind.route is None else kind.path)


def check_lines(
    kind: Kind, lines: list[dict[str, Any]], answer: Answer | None, correlation_id: str, trace_id: str
) -> None:
    """Whether these lines are there and no others, and say what happened."""
    assert sorted(line["event"] for line in lines) == expected_events(kind)
    assert [line for line in lines if tuple(line)[: len(SCHEMA)] != SCHEMA] == []
    if kind.route is None:
        assert answer is not None
        assert [(line["correlation_id"], line["level"]) for line in lines] == [
            (answer.headers["X-Correlation-ID"], "WARNING")
        ]
        return
    own = [line for line in lines if line["correlation_id"] == correlation_id]
    assert {line["trace_id"] for line in own} == {trace_id}
    for line in own:
        match line["event"]:
            case "request":
                check_access_line(kind, line)
            case "unhandled exception":
                assert (line["level"], line["error"]) == ("ERROR", kind.error)
                assert line["exception"].startswith("Traceback (most recent call last):")
            case "websocket closed":
                assert kind.closed
                code, incomplete = kind.closed
                assert (line["route"], line["code"], line.get("incomplete")) == (kind.route, code, incomplete)
                assert line["level"] == ("ERROR" if incomplete == "error" else "INFO")
                assert line["duration_ms"] > 0
            case event:
                assert event in kind.besides


def check_access_line(kind: Kind, line: dict[str, Any]) -> None:
    """Whether the access line has these words, and no others."""
    words = {
        "method": kind.label,
        "path": kind.path,
        "route": kind.route,
        "status": kind.status,
        "client": "127.0.0.1",
        **({"incomplete": kind.incomplete} if kind.incomplete else {}),
    }
    assert line["level"] == ("ERROR" if kind.failed else "INFO")
    assert line["duration_ms"] > 0
    assert {name: value for name, value in line.items() if name not in {*SCHEMA, "duration_ms"}} == words


def check_span(kind: Kind, received: Received, correlation_id: str) -> None:
    """Whether the span follows the HTTP semantic conventions, version 1.44, and knows what went wrong."""
    span = received.span
    method = "HTTP" if kind.label == "_OTHER" else kind.label
    matched = kind.route != UNMATCHED
    error_type = kind.error_type
    assert span.name == (f"{method} {kind.route}" if matched else method)
    assert (span.kind, span.parent_span_id.hex()) == (Span.SPAN_KIND_SERVER, PARENT)
    assert span.end_time_unix_nano > span.start_time_unix_nano
    assert received.attributes == {
        "http.request.method": kind.label,
        **({"http.request.method_original": kind.method} if kind.label == "_OTHER" else {}),
        "http.response.status_code": kind.status,
        **({"http.route": kind.route} if matched else {}),
        "url.path": kind.path,
        "url.scheme": kind.scheme,
        "client.address": "127.0.0.1",
        "user_agent.original": "zoo",
        "correlation_id": correlation_id,
        **({"error.type": error_type} if error_type else {}),
    }
    assert span.status.code == (Status.STATUS_CODE_ERROR if error_type else Status.STATUS_CODE_UNSET)
    assert received.resource["service.name"] == FACTS.service.name
    # After a handshake its span has ended: what happens later is in the log.
    raised = [] if kind.error is None or kind.closed else [kind.error]
    assert [event.name for event in span.events] == ["exception"] * len(raised)
    assert [recorded_exception(event) for event in span.events] == raised


def recorded_exception(event: Span.Event) -> str:
    """The name of the exception of an event, which has its text and traceback too."""
    attributes = {pair.key: pair.value.string_value for pair in event.attributes}
    assert attributes["exception.message"]
    assert attributes["exception.stacktrace"]
    name: str = attributes["exception.type"]
    return name.rpartition(".")[2]


OPENMETRICS = "application/openmetrics-text; version=1.0.0"


def ask_plain(zoo: Zoo, *, sampled: bool) -> tuple[str, str]:
    """The correlation id and trace id of a request for `/plain`, once it has been counted."""
    correlation_id, trace_id = zoo.ids()
    parent = f"traceparent: 00-{trace_id}-{PARENT}-{int(sampled):02}"
    answer = zoo.ask(write_request("GET", "/plain", "Connection: close", f"X-Correlation-ID: {correlation_id}", parent))
    assert answer.status == 200
    labels = ("GET", "/plain", "200")
    names = ("http_requests_total", "http_request_duration_seconds_count")
    counted, expected = zoo.count(Counter([(name, *labels) for name in names]))
    assert counted == expected
    zoo.traced[trace_id] = int(sampled)
    return correlation_id, trace_id


def test_openmetrics_has_exemplars_of_sampled_requests_and_of_no_others(zoo: Zoo) -> None:
    _, sampled = ask_plain(zoo, sampled=True)
    _, unsampled = ask_plain(zoo, sampled=False)

    response = zoo.scrape(OPENMETRICS)

    assert response.headers["Content-Type"].startswith(OPENMETRICS)
    families = parse_openmetrics(response.text)  # type: ignore[no-untyped-call]
    samples = [sample for family in families for sample in family.samples]
    traces = {sample.name: set[str]() for sample in samples if sample.exemplar}
    for sample in samples:
        if sample.exemplar:
            assert set(sample.exemplar.labels) == {"trace_id"}
            traces[sample.name].add(sample.exemplar.labels["trace_id"])
    assert set(traces) == {"http_requests_total", "http_request_duration_seconds_bucket"}
    for found in traces.values():
        assert sampled in found
        assert unsampled not in found
        assert found <= {trace_id for trace_id, spans in zoo.traced.items() if spans}


@pytest.mark.parametrize("accept", ["*/*", "text/plain", "text/html"])
def test_whoever_does_not_ask_for_openmetrics_gets_text_without_exemplars(zoo: Zoo, accept: str) -> None:
    response = zoo.scrape(accept)

    assert response.headers["Content-Type"].startswith("text/plain")
    assert "http_requests_total" in {sample.name for family in parse_text(response.text) for sample in family.samples}
    assert "# {" not in response.text


def test_a_draining_service_tells_of_its_requests_and_in_the_end_nothing_is_missing_or_left_over(zoo: Zoo) -> None:
    zoo.lines()
    zoo.process.send_signal(signal.SIGTERM)
    zoo.wait_until("/health/ready", 503)

    correlation_id, trace_id = ask_plain(zoo, sampled=True)
    lines = zoo.lines_of(["draining", "request"])
    code, _, errors = zoo.end()

    (line,) = [line for line in lines if line["correlation_id"] == correlation_id]
    assert (line["event"], line["status"], line["trace_id"]) == ("request", 200, trace_id)
    assert (code, errors) == (0, "")
    assert [line for line in zoo.written() if line["level"] != "INFO" or line["event"] == "request"] == []
    arrived = Counter(received.span.trace_id.hex() for received in zoo.collector.spans)
    assert arrived == +zoo.traced


def test_a_lifespan_that_fails_ends_the_process_with_one_line_that_says_why(tmp_path: Path) -> None:
    service = Service(tmp_path, {"STORAGE_URL": "memory://", "ZOO": "broken lifespan"}, module="tests.zoo")

    code, lines, errors = service.end()

    failures = [line for line in lines if line["level"] in {"ERROR", "CRITICAL"}]
    assert [line for line in failures if "RuntimeError: boom" in json.dumps(line)] == failures
    assert (code, len(failures), errors) == (3, 1, "")
