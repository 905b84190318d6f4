"""Probes: liveness touches nothing, readiness asks the storage, and neither asks too often."""

import asyncio

import httpx
import pytest
import structlog
from fastapi.routing import APIRoute

from app.api import health
from app.core.lifecycle import Readiness
from app.core.probe import PATHS
from app.core.telemetry import Telemetry
from app.storage import OutdatedError, UnavailableError

PROBES = ("/health/live", "/health/ready", "/health/startup")


@pytest.mark.parametrize("method", ["GET", "HEAD"])
@pytest.mark.parametrize("probe", PROBES)
async def test_a_healthy_service_passes(client: httpx.AsyncClient, probe: str, method: str) -> None:
    response = await client.request(method, probe)

    assert response.status_code == 200
    assert response.headers["cache-control"] == "no-store"


async def test_without_its_storage_the_service_is_alive_but_not_ready(
    app: Telemetry, client: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def refuse() -> None:
        raise ConnectionRefusedError("db-1.internal:5432 as user admin")

    monkeypatch.setattr(app.fastapi.state.readiness, "_check", refuse)

    ready = await client.get("/health/ready")

    assert ready.status_code == 503
    assert ready.json() == {"status": "fail", "problem": "storage: ConnectionRefusedError"}
    assert (await client.get("/health/live")).status_code == 200
    assert (await client.get("/health/startup")).status_code == 200


@pytest.mark.parametrize(
    ("error", "startup"), [(OutdatedError("a form of last year"), 503), (UnavailableError("nobody there"), 200)]
)
async def test_the_service_has_started_only_once_its_storage_is_up_to_date_or_down(
    app: Telemetry, client: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch, error: Exception, startup: int
) -> None:
    async def fail() -> None:
        raise error from OSError("db-1.internal:5432 as user admin")

    monkeypatch.setattr(app.fastapi.state.readiness, "_check", fail)

    answers = [await client.get(probe) for probe in PROBES]

    assert [answer.status_code for answer in answers] == [200, 503, startup]
    assert answers[1].json() == {"status": "fail", "problem": f"storage: {error}"}

    async def pass_() -> None:
        """Everything is as it should be."""

    monkeypatch.setattr(app.fastapi.state.readiness, "_check", pass_)
    assert [(await client.get(probe)).status_code for probe in PROBES] == [200, 200, 200]


def test_all_probes_are_known_to_who_leaves_them_out_of_telemetry() -> None:
    assert {route.path for route in health.router.routes if isinstance(route, APIRoute)} == PATHS


async def test_before_the_start_only_liveness_passes(app: Telemetry) -> None:
    transport = httpx.ASGITransport(app)
    async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
        assert [(await client.get(probe)).status_code for probe in PROBES] == [200, 503, 503]


async def test_a_draining_service_is_alive_but_not_ready(app: Telemetry, client: httpx.AsyncClient) -> None:
    app.fastapi.state.readiness.draining = True

    assert [(await client.get(probe)).status_code for probe in PROBES] == [200, 503, 200]
    assert (await client.get("/health/ready")).json()["problem"] == "draining"


async def test_probes_are_counted_apart_from_requests(app: Telemetry, client: httpx.AsyncClient) -> None:
    await client.get("/health/live")

    value = app.metrics.registry.get_sample_value
    assert value("health_checks_total", {"check": "live", "result": "pass"}) == 1
    assert not [
        sample
        for family in app.metrics.registry.collect()
        for sample in family.samples
        if sample.labels.get("route", "").startswith("/health")
    ]


def readiness(check: "Check", cache_seconds: float, timeout_seconds: float = 1.0) -> Readiness:
    checked = Readiness(check, cache_seconds, timeout_seconds)
    checked.started = True
    return checked


class Check:
    """A dependency check that can be told to fail or hang, and counts how often it ran."""

    def __init__(self) -> None:
        self.runs = 0
        self.error: Exception | None = None
        self.hang = False

    async def __call__(self) -> None:
        self.runs += 1
        await asyncio.sleep(3600 if self.hang else 0)
        if self.error:
            raise self.error


async def test_a_thousand_probes_make_one_check() -> None:
    check = Check()
    checked = readiness(check, cache_seconds=60)

    assert await asyncio.gather(*(checked.problem() for _ in range(1000))) == [None] * 1000
    assert check.runs == 1


async def test_a_check_that_hangs_is_a_failure_in_bounded_time() -> None:
    check = Check()
    check.hang = True

    assert await readiness(check, 0, timeout_seconds=0.01).problem() == "storage: no answer within 0.01 s"


async def test_readiness_recovers_by_itself_and_each_change_is_logged_once() -> None:
    check = Check()
    checked = readiness(check, cache_seconds=0)

    with structlog.testing.capture_logs() as logs:
        check.error = OSError("down")
        assert await checked.problem() == await checked.problem() == "storage: OSError"
        check.error = None
        assert await checked.problem() is None
        assert await checked.problem() is None

    changes = [(line["log_level"], line["problem"]) for line in logs if line["event"] == "readiness changed"]
    assert changes == [("error", "storage: OSError"), ("info", None)]
