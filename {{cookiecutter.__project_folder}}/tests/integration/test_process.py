"""The service as a process: how it starts, what it says, how it ends."""

import re
import signal
import threading
from collections.abc import Callable

import httpx
import pytest

from tests.support import Service, wait_for

Start = Callable[..., Service]


def test_a_request_can_be_followed_from_header_to_log_and_metric(start: Start) -> None:
    service = start(OTEL_TRACES_SAMPLER="always_on", DRAIN_SECONDS="0")
    service.wait_until("/health/ready", 200)

    accept = {"Accept": "application/openmetrics-text"}
    exemplars: list[str] = []

    def exemplar() -> bool:
        exemplars.extend(re.findall(r'trace_id="(\w+)"', httpx.get(service.metrics_url, headers=accept).text))
        return bool(exemplars)

    response = httpx.get(f"{service.url}/api/v1/items", headers={"X-Correlation-ID": "abc-123"})
    wait_for(exemplar, "the request left no exemplar")
    code, lines, err = service.end(signal.SIGTERM)

    assert (response.status_code, response.headers["x-correlation-id"]) == (200, "abc-123")
    (access,) = [line for line in lines if line["correlation_id"] == "abc-123"]
    assert (access["event"], access["route"], access["status"]) == ("request", "/api/v1/items", 200)
    assert set(exemplars) == {access["trace_id"]}
    assert (code, err) == (0, "")
    assert "uvicorn.error" in {line.get("logger") for line in lines}


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
