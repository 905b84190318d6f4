"""Who asked, and in which trace: taken from clients with care, and told wherever a request goes on."""

import re
import signal
import socket
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from socketserver import TCPServer
from threading import Thread
from typing import Any
from uuid import uuid4

import httpx
import pytest

from tests.observe import Observed
from tests.otlp import Collector, Received
from tests.support import Service, wait_for

TRACE, PARENT = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
GOOD = f"00-{TRACE}-{PARENT}-01"


@pytest.fixture(scope="module")
def collector() -> Iterator[Collector]:
    with Collector() as collector:
        yield collector


@pytest.fixture(scope="module")
def service(collector: Collector, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """One service for all of these tests."""
    environment = {
        "STORAGE_URL": "memory://",
        "OTEL_TRACES_SAMPLER": "always_on",
        "OTEL_EXPORTER_OTLP_ENDPOINT": collector.endpoint,
        "OTEL_BSP_SCHEDULE_DELAY": "20",
    }
    service = Service(tmp_path_factory.mktemp("service"), environment, module="tests.propagating")
    service.wait_until("/health/ready", 200)
    yield service
    service.kill()


def ask(service: Service, *fields: bytes) -> tuple[int, list[str], bytes]:
    """Send a request as it stands; status, correlation ids and everything that came back."""
    request = b"\r\n".join([b"GET /test/in_request HTTP/1.1", b"Host: x", b"Connection: close", *fields, b"", b""])
    with socket.create_connection(("127.0.0.1", service.port), timeout=20) as connection:
        connection.sendall(request)
        answer = b"".join(iter(lambda: connection.recv(65536), b""))
    found = re.findall(rb"(?im)^x-correlation-id: ?(.*?)\r$", answer)
    return int(answer.split()[1]), [value.decode("latin-1") for value in found], answer


def ask_and_find(service: Service, collector: Collector, *fields: bytes) -> tuple[bytes, Received | None]:
    """Send such a request with an id of its own; everything that came back, and its span if it was let in."""
    name = uuid4().hex
    status, _, answer = ask(service, f"X-Correlation-ID: {name}".encode(), *fields)
    if status == 400:
        return answer, None
    found: list[Received] = []

    def arrived() -> list[Received]:
        found[:] = [received for received in collector.spans if received.attributes.get("correlation_id") == name]
        return found

    wait_for(arrived, "its span did not arrive")
    return answer, found[0]


@pytest.mark.parametrize(
    "fields",
    [
        [],
        [b"X-Correlation-ID:"],
        [b"X-Correlation-ID: " + b"hostile" * 20],
        [b"X-Correlation-ID: " + b"hostile" * 1_000],
        [b"X-Correlation-ID: hostile hostile"],
        [b"X-Correlation-ID: hostile\x00"],
        [b"X-Correlation-ID: hostile\x07\x1b[31m"],
        [b"X-Correlation-ID: hostile\tid"],
        [b"X-Correlation-ID: hostile\rid"],
        [b"X-Correlation-ID: hostile\x7f"],
        [b"X-Correlation-ID: hostile\xff"],
        ["X-Correlation-ID: hostile\u202e".encode()],
        [b"X-Correlation-ID: <hostile>"],
        [b'X-Correlation-ID: "hostile"'],
        [b"X-Correlation-ID: hostile, other"],
        [b"X-Correlation-ID: ${jndi:hostile}"],
        [b"X-Correlation-ID: -hostile"],
        [b"X-Correlation-ID: hostile-1", b"X-Correlation-ID: hostile-2"],
        [b"X-Correlation-ID: hostile-1", b"x-correlation-id: hostile-1"],
        [b"X-Correlation-ID: a", b" hostile: folded"],
    ],
    ids=repr,
)
def test_a_correlation_id_that_is_not_usable_is_replaced_and_never_echoed(
    service: Service, fields: list[bytes]
) -> None:
    status, ids, answer = ask(service, *fields)

    assert status in {200, 400}
    assert [len(found) for found in ids] == [32]
    assert ids[0].isalnum()
    assert b"hostile" not in answer


def test_a_usable_correlation_id_is_kept(service: Service) -> None:
    assert ask(service, b"X-Correlation-ID: abc-123")[:2] == (200, ["abc-123"])


@pytest.mark.parametrize(
    "fields",
    [
        [f"traceparent: ff-{TRACE}-{PARENT}-01"],
        [f"traceparent: 00-{'0' * 32}-{PARENT}-01"],
        [f"traceparent: 00-{TRACE}-{'0' * 16}-01"],
        [f"traceparent: {GOOD.upper()}"],
        [f"traceparent: 00-{TRACE.upper()}-{PARENT}-01"],
        [f"traceparent: {GOOD}-extra"],
        [f"traceparent: {GOOD}" + "0" * 4_000],
        [f"traceparent: 00-{TRACE[:-1]}-{PARENT}-01"],
        [f"traceparent: 00-{TRACE}0-{PARENT}-01"],
        [f"traceparent: 00-{'g' * 32}-{PARENT}-01"],
        [f"traceparent: 0-{TRACE}-{PARENT}-01"],
        [f"traceparent: 00-{TRACE}-{PARENT}-1"],
        [f"traceparent: 00-{TRACE}-{PARENT}-zz"],
        [f"traceparent: 00-{TRACE}-{PARENT}"],
        [f"traceparent: 00_{TRACE}_{PARENT}_01"],
        [f"traceparent: {GOOD}", f"traceparent: {GOOD}"],
        ["traceparent:"],
        [f"traceparent: {GOOD},{GOOD}"],
    ],
    ids=repr,
)
def test_a_traceparent_that_breaks_the_rules_begins_a_new_trace(
    service: Service, collector: Collector, fields: list[str]
) -> None:
    """The rules are those of https://www.w3.org/TR/trace-context/#traceparent-header, where `00` is our version."""
    _, received = ask_and_find(service, collector, *(field.encode() for field in fields))

    assert received is not None
    assert received.span.parent_span_id == b""
    assert received.span.trace_id.hex() != TRACE


def test_a_traceparent_with_a_control_character_is_refused_or_replaced(service: Service, collector: Collector) -> None:
    for byte in (b"\x00", b"\x07", b"\x7f", b"\xff"):
        answer, received = ask_and_find(service, collector, b"traceparent: " + GOOD.encode() + byte)
        assert TRACE.encode() not in answer
        assert received is None or received.span.trace_id.hex() != TRACE


@pytest.mark.parametrize("version", ["00", "01", "cc"])
def test_a_good_traceparent_is_the_parent(service: Service, collector: Collector, version: str) -> None:
    fields = (f"traceparent: {version}{GOOD[2:]}".encode(), b"tracestate: vendor=value")
    _, received = ask_and_find(service, collector, *fields)

    assert received is not None
    span = received.span
    assert (span.trace_id.hex(), span.parent_span_id.hex()) == (TRACE, PARENT)
    assert span.trace_state == "vendor=value"


@pytest.mark.parametrize(
    "state",
    [
        "hostile",
        "hostile=" + "x" * 300,
        "HOSTILE=x",
        "hostile=a=b",
        ",".join(f"hostile{n}=x" for n in range(33)),
        "hostile=1,hostile=2",
        "hostile=\x07",
        "hostile=\xff",
    ],
    ids=lambda state: ascii(state)[:20],
)
def test_a_tracestate_that_breaks_the_rules_is_left_out_and_the_trace_goes_on(
    service: Service, collector: Collector, state: str
) -> None:
    """The rules are those of https://www.w3.org/TR/trace-context/#tracestate-header."""
    fields = (f"traceparent: {GOOD}".encode(), b"tracestate: " + state.encode("latin-1"))
    answer, received = ask_and_find(service, collector, *fields)

    assert b"hostile" not in answer.lower()
    if received:
        assert (received.span.trace_id.hex(), received.span.trace_state) == (TRACE, "")


PLACES = ["in_request", "in_background", "in_task", "in_thread", "in_endpoint_thread"]


@pytest.fixture
def told(collector: Collector, tmp_path: Path) -> Iterator[Callable[[str], dict[str, Any]]]:
    """Asks for one endpoint with an id and a trace; returns the line that it logged."""
    service = Observed(tmp_path, collector, module="tests.propagating")

    def told(where: str) -> dict[str, Any]:
        headers = {"X-Correlation-ID": "abc-123", "traceparent": GOOD}
        assert httpx.get(f"{service.url}/test/{where}", headers=headers).status_code == 200
        found: list[dict[str, Any]] = []

        def logged() -> list[dict[str, Any]]:
            found.extend(line for line in service.written() if line.get("where") == where)
            return found

        wait_for(logged, "it was not told")
        return found[0]

    yield told
    service.kill()


@pytest.mark.parametrize("where", PLACES)
def test_a_line_names_its_request_wherever_it_is_logged(told: Callable[[str], dict[str, Any]], where: str) -> None:
    line = told(where)

    assert (line["correlation_id"], line["trace_id"]) == ("abc-123", TRACE)
    assert line["span_id"]


def test_a_bare_executor_knows_nothing_of_the_request(told: Callable[[str], dict[str, Any]]) -> None:
    """`run_in_executor` does not pass the context on (https://docs.python.org/3/library/asyncio-eventloop.html)."""
    line = told("in_executor")

    assert (line["correlation_id"], line["trace_id"], line["span_id"]) == (None, None, None)


def test_a_call_to_another_service_carries_the_ids_and_is_a_child(
    start: Callable[..., Service],
) -> None:
    received: list[dict[str, str]] = []

    class Upstream(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            received.append({name.lower(): value for name, value in self.headers.items()})
            self.send_response(200)
            self.send_header("Content-Length", "2")
            self.end_headers()
            self.wfile.write(b"ok")

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the name is inherited
            """Log nothing."""

    with Collector() as collector, TCPServer(("127.0.0.1", 0), Upstream) as upstream:
        Thread(target=upstream.serve_forever, args=(0.02,), daemon=True).start()
        service = start(
            module="tests.propagating",
            STORAGE_URL="memory://",
            DRAIN_SECONDS="0",
            OTEL_EXPORTER_OTLP_ENDPOINT=collector.endpoint,
            TEST_UPSTREAM=f"http://127.0.0.1:{upstream.server_address[1]}/?token=hunter2",
        )
        service.wait_until("/health/ready", 200)
        headers = {"X-Correlation-ID": "abc-123", "traceparent": GOOD}
        assert httpx.get(f"{service.url}/test/in_other_service", headers=headers).json() == "ok"
        service.end(signal.SIGTERM)
        upstream.shutdown()
        spans = collector.wait_for(2)

    call, request = sorted(spans, key=lambda received: received.span.start_time_unix_nano, reverse=True)
    assert request.attributes["correlation_id"] == "abc-123"
    assert request.span.parent_span_id.hex() == PARENT
    assert call.span.parent_span_id == request.span.span_id
    assert str(call.attributes["url.full"]).endswith("/?token=REDACTED")
    assert received[0]["x-correlation-id"] == "abc-123"
    assert received[0]["traceparent"].startswith(f"00-{TRACE}-{call.span.span_id.hex()}-")
