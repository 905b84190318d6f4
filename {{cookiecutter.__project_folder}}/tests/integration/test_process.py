"""The service as a process: how it starts, what it says, how it ends."""

import json
import signal
import socket
import threading
import time
from collections.abc import Callable

import httpx
import pytest

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


def test_sigterm_drains_then_finishes_what_is_in_flight(start: Start) -> None:
    service = start(DRAIN_SECONDS="1.5", HEALTH_CHECK_CACHE_SECONDS="0")
    service.wait_until("/health/ready", 200)

    service.process.send_signal(signal.SIGTERM)
    service.wait_until("/health/ready", 503)
    assert httpx.get(f"{service.url}/api/v1/items").status_code == 200
    assert httpx.get(f"{service.url}/health/live").status_code == 200

    # A request whose body is still on its way when the server stops listening.
    with socket.create_connection(("127.0.0.1", service.port)) as connection:
        body = b'{"name": "in flight"}'
        connection.sendall(
            b"POST /api/v1/items HTTP/1.1\r\nHost: test\r\nContent-Type: application/json\r\n"
            b"Content-Length: %d\r\n\r\n" % len(body) + body[:5]
        )
        wait_for_refusal(service.port)
        connection.sendall(body[5:])
        answer = connection.recv(65536)
    code, lines, _ = service.end()

    assert answer.startswith(b"HTTP/1.1 201")
    assert code == 0
    events = [line["event"] for line in lines]
    assert events.index("draining") < events.index("Shutting down") < events.index("Application shutdown complete.")


def wait_for_refusal(port: int) -> None:
    """Wait until nobody listens any more."""
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
        except ConnectionError:
            return
        time.sleep(0.05)
    pytest.fail("the service still listens")


@pytest.mark.parametrize("signals", [(signal.SIGINT,), (signal.SIGTERM, signal.SIGTERM)])
def test_somebody_in_a_hurry_skips_the_drain(start: Start, signals: tuple[signal.Signals, ...]) -> None:
    service = start(DRAIN_SECONDS="300")
    service.wait_until("/health/ready", 200)

    for number in signals:
        service.process.send_signal(number)
        time.sleep(0.3)

    assert service.end()[0] == 0


def test_a_request_that_never_ends_is_cut_off_and_the_rest_still_ends_well(start: Start) -> None:
    service = start(DRAIN_SECONDS="0", GRACEFUL_SHUTDOWN_SECONDS="1")
    service.wait_until("/health/ready", 200)

    with socket.create_connection(("127.0.0.1", service.port)) as connection:
        connection.sendall(b"POST /api/v1/items HTTP/1.1\r\nHost: test\r\nContent-Length: 5\r\n\r\n")
        time.sleep(0.3)
        code, lines, _ = service.end(signal.SIGTERM)

    events = [line["event"] for line in lines]
    assert code == 0
    assert "Application shutdown complete." in events


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


@pytest.mark.parametrize("which", ["HTTP_PORT", "METRICS_PORT"])
def test_a_port_in_use_ends_the_start_with_one_clear_line(start: Start, which: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        code, lines, err = start(**{which: str(port)}).end()

    assert code == 3
    (complaint,) = [line for line in lines if line["level"] in {"ERROR", "CRITICAL"}]
    assert str(port) in json.dumps(complaint)
    assert "Traceback" not in err


def test_a_bad_environment_is_told_and_nothing_starts(start: Start) -> None:
    code, lines, err = start(HTTP_PORT="web", STORAGE_URL="nosuch://host").end()

    assert (code, lines) == (2, [])
    assert "HTTP_PORT" in err
    assert "STORAGE_URL" in err
    assert "Traceback" not in err


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
