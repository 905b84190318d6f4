"""Which series exist, and that their labels stay bounded."""

import asyncio
import time
import urllib.error
import urllib.request

import httpx
import pytest
from prometheus_client import CollectorRegistry
from prometheus_client.openmetrics.exposition import generate_latest

from app.core.config import FACTS
from app.core.metrics import duration_buckets
from app.core.saturation import EventLoopLag
from app.core.telemetry import Telemetry
from tests.support import free_port


@pytest.mark.parametrize("threshold", [0.005, 0.03, 0.3, 1.0, 2.5, 10.0])
def test_the_buckets_contain_the_slo_threshold_and_reach_the_longest_request(threshold: float) -> None:
    bounds = duration_buckets(threshold, 30.0)

    assert threshold in bounds
    assert bounds[-1] == 30.0
    assert bounds == sorted(set(bounds))


def test_every_route_has_its_series_before_the_first_request(app: Telemetry) -> None:
    value = app.metrics.registry.get_sample_value
    for route in ("/api/v1/items", "/api/v1/items/{item_id}"):
        for status in ("200", "500"):
            labels = {"method": "GET", "route": route, "status": status}
            assert value("http_requests_total", labels) == 0
            assert value("http_request_duration_seconds_count", labels) == 0


def series(registry: CollectorRegistry) -> set[tuple[str, ...]]:
    """All series, without the values."""
    return {
        (sample.name, *sorted(sample.labels.values())) for family in registry.collect() for sample in family.samples
    }


async def test_paths_and_methods_that_strangers_invent_add_no_series(app: Telemetry, client: httpx.AsyncClient) -> None:
    async def invent(number: int) -> None:
        await client.get(f"/invented/{number}")
        await client.request(f"METHOD{number}", "/api/v1/items")
        await client.get(f"/api/v1/items/{number}", headers={"X-Correlation-ID": str(number)})

    await invent(0)
    before = series(app.metrics.registry)
    for number in range(1, 200):
        await invent(number)

    assert series(app.metrics.registry) == before


async def test_a_blocked_event_loop_shows_while_it_is_blocked_and_long_after() -> None:
    lag = EventLoopLag()
    watch = asyncio.create_task(lag.watch())
    await asyncio.sleep(0)

    time.sleep(0.5)  # noqa: ASYNC251 - that is the fault
    during = lag.seconds()
    await asyncio.sleep(0.5)
    watch.cancel()

    assert during > 0.3
    assert lag.seconds() > 0.3


async def test_the_threads_are_watched(app: Telemetry, client: httpx.AsyncClient) -> None:
    value = app.metrics.registry.get_sample_value

    assert (value("app_event_loop_lag_seconds") or 0) >= 0
    assert value("app_thread_tokens", {"state": "used"}) == 0
    assert (value("app_thread_tokens", {"state": "free"}) or 0) > 0


def test_the_info_metric_tells_what_runs(app: Telemetry) -> None:
    labels = {"service": FACTS.service.name, "version": FACTS.service.version, "environment": "test"}

    assert app.metrics.registry.get_sample_value("app_info", labels) == 1


def test_the_metrics_port_serves_its_path_and_nothing_else(app: Telemetry) -> None:
    port = free_port()
    server = app.metrics.serve("127.0.0.1", port)
    try:
        url = f"http://127.0.0.1:{port}/metrics"
        with urllib.request.urlopen(url) as response:
            assert response.headers["content-type"].startswith("text/plain; version=")
            assert b"http_requests_total{" in response.read()
        openmetrics = urllib.request.Request(url, headers={"Accept": "application/openmetrics-text"})
        with urllib.request.urlopen(openmetrics) as response:
            assert response.headers["content-type"].startswith("application/openmetrics-text")
        with pytest.raises(urllib.error.HTTPError, match="404") as error:
            urllib.request.urlopen(f"http://127.0.0.1:{port}/")
        error.value.close()
    finally:
        server.shutdown()
        server.server_close()


async def test_a_sampled_request_leaves_an_exemplar_that_names_its_trace(
    app: Telemetry, client: httpx.AsyncClient
) -> None:
    trace_id = "4bf92f3577b34da6a3ce929d0e0e4736"

    await client.get("/", headers={"traceparent": f"00-{trace_id}-00f067aa0ba902b7-01"})

    text: bytes = generate_latest(app.metrics.registry)  # type: ignore[no-untyped-call]
    assert f'# {{trace_id="{trace_id}"}}' in text.decode()


async def test_an_unsampled_request_leaves_no_exemplar(
    app: Telemetry, client: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    from opentelemetry.sdk.trace.sampling import ALWAYS_OFF

    monkeypatch.setattr(app.tracing.tracer, "sampler", ALWAYS_OFF)
    await client.get("/")

    text: bytes = generate_latest(app.metrics.registry)  # type: ignore[no-untyped-call]
    assert b"trace_id" not in text
