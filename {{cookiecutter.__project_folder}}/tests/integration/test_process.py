"""The service as a process: how it starts, what it says, how it ends."""

import signal
import socket
import threading
import time
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import httpx
import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from tests.support import Service

Start = Callable[..., Service]


def test_a_request_can_be_followed_from_header_to_log_and_metric(start: Start) -> None:
    service = start(OTEL_TRACES_SAMPLER="always_on", DRAIN_SECONDS="0")
    service.wait_until("/health/ready", 200)

    response = httpx.get(f"{service.url}/api/v1/items", headers={"X-Correlation-ID": "abc-123"})
    accept = {"Accept": "application/openmetrics-text"}
    metrics = httpx.get(service.metrics_url, headers=accept).text
    code, lines, err = service.end(signal.SIGTERM)

    assert (response.status_code, response.headers["x-correlation-id"]) == (200, "abc-123")
    (access,) = [line for line in lines if line["correlation_id"] == "abc-123"]
    assert (access["event"], access["route"], access["status"]) == ("request", "/api/v1/items", 200)
    assert f'trace_id="{access["trace_id"]}"' in metrics
    assert (code, err) == (0, "")
    assert "uvicorn.error" in {line.get("logger") for line in lines}


@pytest.mark.parametrize("answers", [True, False], ids=["refuses", "never answers"])
def test_a_dead_collector_delays_neither_requests_nor_the_exit(start: Start, answers: bool) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        if answers:
            listener.close()
        service = start(
            OTEL_EXPORTER_OTLP_ENDPOINT=f"http://127.0.0.1:{port}",
            OTEL_TRACES_SAMPLER="always_on",
            OTEL_EXPORTER_OTLP_TIMEOUT="60",
            TELEMETRY_FLUSH_SECONDS="1",
            DRAIN_SECONDS="0",
        )
        service.wait_until("/health/ready", 200)
        for _ in range(20):
            assert httpx.get(f"{service.url}/api/v1/items").status_code == 200

        began = time.monotonic()
        code, _, _ = service.end(signal.SIGTERM)

    assert code == 0
    # Far below the 60 s that the exporter would take by itself.
    assert time.monotonic() - began < 15


def test_the_spans_of_the_last_requests_are_sent_before_the_end(start: Start) -> None:
    received: list[bytes] = []

    class Collector(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            received.append(self.rfile.read(int(self.headers["Content-Length"])))
            self.send_response(200)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the name is inherited
            """Log nothing."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Collector) as collector:
        threading.Thread(target=collector.serve_forever, daemon=True).start()
        service = start(
            OTEL_EXPORTER_OTLP_ENDPOINT=f"http://127.0.0.1:{collector.server_port}",
            OTEL_BSP_SCHEDULE_DELAY="60000",
            OTEL_TRACES_SAMPLER="always_on",
            DRAIN_SECONDS="0",
        )
        service.wait_until("/health/ready", 200)
        for number in range(3):
            httpx.get(f"{service.url}/nowhere", headers={"X-Correlation-ID": f"span-{number}"})
        code, lines, _ = service.end(signal.SIGTERM)
        collector.shutdown()

    requests = [ExportTraceServiceRequest.FromString(body) for body in received]
    spans = [
        span for one in requests for part in one.resource_spans for scope in part.scope_spans for span in scope.spans
    ]
    ids = {attribute.value.string_value for span in spans for attribute in span.attributes}
    assert {"span-0", "span-1", "span-2"} <= ids
    assert len(spans) == 3
    assert (code, [line for line in lines if "lost" in line["event"]]) == (0, [])


def test_spans_that_a_dead_collector_did_not_get_are_counted_and_told(start: Start) -> None:
    service = start(
        OTEL_EXPORTER_OTLP_ENDPOINT="http://127.0.0.1:1",
        OTEL_EXPORTER_OTLP_TIMEOUT="0.2",
        OTEL_BSP_SCHEDULE_DELAY="50",
        OTEL_TRACES_SAMPLER="always_on",
        DRAIN_SECONDS="0",
    )
    service.wait_until("/health/ready", 200)
    httpx.get(f"{service.url}/nowhere")

    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        if 'telemetry_dropped_total{signal="spans"} 1.0' in httpx.get(service.metrics_url).text:
            break
        time.sleep(0.1)
    else:
        pytest.fail("the lost span was not counted")
    assert service.end(signal.SIGTERM)[0] == 0


@pytest.mark.parametrize(
    ("allowed", "client"), [({}, "127.0.0.1"), ({"FORWARDED_ALLOW_IPS": "127.0.0.0/8"}, "203.0.113.7")]
)
def test_forwarded_headers_count_only_from_the_peers_that_may_send_them(
    start: Start, allowed: dict[str, str], client: str
) -> None:
    service = start(DRAIN_SECONDS="0", **allowed)
    service.wait_until("/health/ready", 200)

    response = httpx.get(f"{service.url}/", headers={"X-Forwarded-For": "203.0.113.7"})
    _, lines, _ = service.end(signal.SIGTERM)

    assert [line["client"] for line in lines if line["event"] == "request"] == [client]
    assert "server" not in response.headers


def test_logs_are_whole_lines_while_many_requests_run(start: Start) -> None:
    service = start(DRAIN_SECONDS="0")
    service.wait_until("/health/ready", 200)

    def ask() -> None:
        with httpx.Client() as client:
            for _ in range(25):
                client.get(f"{service.url}/nowhere")

    threads = [threading.Thread(target=ask) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    _, lines, _ = service.end(signal.SIGTERM)

    assert len([line for line in lines if line["event"] == "request"]) == 200
