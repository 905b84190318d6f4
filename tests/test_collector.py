"""A generated service and the real OpenTelemetry Collector: spans arrive whole, and those that do not are counted."""

import re
import threading
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from collector import Collector, build
from conftest import ROOT
from services import make, python_of
from waiting import wait_for

from demo.inbox import Inbox
from demo.otlp_receiver import OtlpReceiver
from demo.ports import available
from demo.service import Service

pytestmark = pytest.mark.ci

PATIENCE = 60
HEALTHY: dict[str, Any] = {"memory_limiter": {"check_interval": "1s", "limit_mib": 512}}
# Less than any Go program has: it refuses everything, always.
STARVED: dict[str, Any] = {"memory_limiter": {"check_interval": "100ms", "limit_mib": 1}}


@pytest.fixture(scope="module")
def project(cookies_session: Any) -> Path:
    """A service of the default answers, with its environment."""
    folder = Path(cookies_session.bake(template=str(ROOT)).project_path)
    make(folder)
    return folder


@pytest.fixture
def receiver() -> Iterator[OtlpReceiver]:
    """Where the Collector sends what it gets."""
    with OtlpReceiver() as receiver:
        yield receiver


@pytest.fixture
def collector(tmp_path: Path, receiver: OtlpReceiver) -> Iterator[Collector]:
    """The Collector, not started."""
    with Collector(build(), tmp_path, receiver.endpoint) as collector:
        yield collector


@pytest.fixture
def service(project: Path, collector: Collector) -> Iterator[Service]:
    """The service, ready, and stopped with exit code 0 by the test's end."""
    python = python_of(project)
    http_port, metrics_port = available((0, 0))
    service = Service(python, project, http_port, metrics_port, collector.endpoint)
    # Each request logs a line; those about lost spans must not be pushed out by them.
    service.log = Inbox(capacity=1_000_000)
    with service:
        service.wait_until_ready(PATIENCE)
        yield service


def ask(service: Service, count: int, start: int = 0) -> set[str]:
    """Make requests of one span each, all answered; their correlation ids."""
    ids = {f"request-{number}" for number in range(start, start + count)}
    for one in ids:
        assert service.api.send("GET", "/nowhere", {"X-Correlation-ID": one}).status == 404
    return ids


def arrived(receiver: OtlpReceiver) -> set[str]:
    """The requests whose spans came out of the Collector."""
    return {span.attributes["correlation_id"] for span in receiver.spans}


def dropped(service: Service) -> int:
    """How many spans the service says were lost."""
    text = service.metrics.send("GET", "/metrics").body
    (value,) = re.findall(r'^telemetry_dropped_total\{signal="spans"\} (\S+)$', text, re.MULTILINE)
    return int(float(value))


def told(service: Service) -> int:
    """How many spans its log says were lost, once it has ended."""
    return sum(line["spans"] for line in losses(service))


def losses(service: Service) -> list[Mapping[str, Any]]:
    """What its log says of lost spans."""
    return [line.fields for line in service.log.all() if str(line.fields.get("event")).startswith("spans lost")]


def test_a_go_that_cannot_build_it_is_none_and_the_failure_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    old = tmp_path / "go"
    old.write_text("#!/bin/sh\necho go1.19.8\n")
    old.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))

    with pytest.raises(pytest.fail.Exception, match="apt-get install golang-go"):
        build()


def test_a_span_comes_whole_out_of_the_collector(
    service: Service, collector: Collector, receiver: OtlpReceiver
) -> None:
    collector.start(**HEALTHY, batch={"timeout": "100ms"})
    trace, parent = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
    answer = service.api.send(
        "GET", "/api/v1/items", {"X-Correlation-ID": "abc-123", "traceparent": f"00-{trace}-{parent}-01"}
    )

    span = receiver.wait_for(lambda span: span.kind == "server", PATIENCE)

    assert answer.status == 200
    assert (span.name, span.trace_id, span.parent_span_id) == ("GET /api/v1/items", trace, parent)
    assert span.status == "unset"
    sent = {"http.request.method": "GET", "http.response.status_code": 200, "http.route": "/api/v1/items"}
    assert span.attributes | sent | {"correlation_id": "abc-123"} == span.attributes
    assert span.resource["service.name"] == "sre-demo-api"
    assert span.resource["deployment.environment.name"] == "development"
    assert service.stop() == 0
    assert told(service) == 0


def test_a_collector_that_is_killed_under_load_and_restarted_costs_only_counted_spans(
    service: Service, collector: Collector, receiver: OtlpReceiver
) -> None:
    asked: set[str] = set()
    over = threading.Event()

    def load() -> None:
        while not over.is_set():
            asked.update(ask(service, 10, start=len(asked)))

    collector.start(**HEALTHY)
    with ThreadPoolExecutor(1) as pool:
        done = pool.submit(load)
        try:
            wait_for(lambda: receiver.spans, "no span arrived")
            collector.kill()
            wait_for(lambda: dropped(service), "no span was lost")
            # What was on its way when it was killed may have come through. What follows cannot.
            uncertain, before = dropped(service), len(receiver.spans)
            wait_for(lambda: dropped(service) > uncertain, "no further span was lost")
            collector.start(**HEALTHY)
            wait_for(lambda: len(receiver.spans) > before, "no span arrived after the restart")
        finally:
            over.set()
        done.result()
    assert service.stop() == 0

    missing = asked - arrived(receiver)
    assert 0 < len(missing) <= told(service) < len(asked)


def test_what_the_memory_limiter_refuses_is_counted(
    service: Service, collector: Collector, receiver: OtlpReceiver
) -> None:
    collector.start(**STARVED)
    wait_for(lambda: "Refusing data" in collector.log(), "the memory limiter refuses nothing")
    refused = ask(service, 20)
    wait_for(lambda: dropped(service) == len(refused), "what was refused was not counted")
    assert receiver.spans == []

    collector.kill()
    collector.start(**HEALTHY)
    taken = ask(service, 20, start=20)
    wait_for(lambda: arrived(receiver) == taken, "what was sent afterwards did not arrive")

    assert dropped(service) == len(refused)
    assert service.stop() == 0
    assert told(service) == len(refused)
    assert losses(service)[0]["reason"] == "503 Service Unavailable"
