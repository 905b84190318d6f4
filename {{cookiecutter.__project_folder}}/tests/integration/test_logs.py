"""The log of a real process: one schema for all who speak, and nobody waits for its reader."""

import json
import signal
import time
from collections.abc import Callable
from typing import Any

import httpx
from prometheus_client.parser import text_string_to_metric_families

from tests.support import Service, wait_for

SCHEMA = ["timestamp", "level", "service", "environment", "version", "event", "correlation_id", "trace_id", "span_id"]


def samples(service: Service, name: str) -> dict[str, float]:
    """The values of a metric with one label, by that."""
    text = httpx.get(service.metrics_url).text
    return {
        next(iter(sample.labels.values())): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
        if sample.name == name
    }


def test_every_line_of_a_process_has_the_schema(start: Callable[..., Service]) -> None:
    service = start(module="tests.propagating", STORAGE_URL="memory://", DRAIN_SECONDS="0")
    service.wait_until("/health/ready", 200)
    httpx.get(f"{service.url}/api/v1/items?token=hunter2", headers={"Authorization": "Bearer hunter2"})
    httpx.get(f"{service.url}/test/fail_in_thread")
    code, lines, err = service.end(signal.SIGTERM)

    assert (code, err) == (0, "")
    assert all(list(line)[: len(SCHEMA)] == SCHEMA for line in lines)
    assert {line["level"] for line in lines} == {"INFO", "ERROR"}
    assert "uvicorn.error" in {line.get("logger") for line in lines}
    (doomed,) = (line for line in lines if line.get("thread") == "doomed")
    assert "RuntimeError: nobody caught this" in doomed["exception"]
    assert "hunter2" not in json.dumps(lines)


def test_a_reader_that_does_not_read_stops_nobody_and_a_flood_is_counted(start: Callable[..., Service]) -> None:
    service = start(module="tests.propagating", STORAGE_URL="memory://", DRAIN_SECONDS="0")
    service.wait_until("/health/ready", 200)
    flood = 4 * 10_000

    # Much more than a pipe and the writer hold; the test reads nothing until the end.
    for _ in range(4):
        assert httpx.get(f"{service.url}/test/flood?lines=10000", timeout=60).status_code == 200
    began = time.monotonic()
    for _ in range(20):
        assert httpx.get(f"{service.url}/api/v1/items").status_code == 200
    assert time.monotonic() - began < 20
    lost = samples(service, "telemetry_dropped_total")["logs"]
    assert lost > 0
    assert samples(service, "log_events_total")["ERROR"] == flood

    assert service.process.stdout is not None
    read: list[dict[str, Any]] = []
    while len(read) < flood - lost:
        line = json.loads(service.process.stdout.readline())
        read += [line] * (line["event"] == "flood")
    # What was there when nobody read is whole and in order, and there is room again.
    assert [line["number"] for line in read[:1_000]] == list(range(1_000))
    httpx.get(f"{service.url}/test/in_request")
    wait_for(lambda: json.loads(service.process.stdout.readline())["event"] == "told")  # type: ignore[union-attr]
    service.process.send_signal(signal.SIGTERM)
    # To the end by the same reader, whose buffer may hold the beginning of a line.
    assert all(json.loads(line) for line in service.process.stdout)
    assert service.end()[0] == 0
