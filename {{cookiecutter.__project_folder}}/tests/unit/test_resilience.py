"""Deadlines, load shedding, circuit breaker, retries: what each does, and that it is what does it."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from time import perf_counter
from typing import Any

import circuitbreaker
import pytest
from fastapi import Request
from fastapi.responses import StreamingResponse
from structlog.testing import capture_logs

from app.core.config import Settings
from app.core.metrics import Metrics
from app.core.resilience import Breaker, CircuitOpenError, Retries
from app.core.telemetry import Telemetry
from app.main import create_app
from tests.support import client_of


class BrokenError(Exception):
    """The dependency does not serve."""


class FullError(BrokenError):
    """All places are taken: whether the dependency serves is not known."""


class BugError(Exception):
    """The dependency serves, and something else is wrong."""


def with_settings(settings: Settings, **changes: Any) -> Telemetry:
    """An application with other settings."""
    return create_app(settings.model_copy(update=changes))


def counted(app: Telemetry, name: str, **labels: str) -> float | None:
    return app.metrics.registry.get_sample_value(name, labels)


class Gate:
    """A handler that waits until it is opened."""

    def __init__(self) -> None:
        self._inside = asyncio.Semaphore(0)
        self._open = asyncio.Event()

    def open(self) -> None:
        self._open.set()

    async def wait_until_inside(self, requests: int) -> None:
        for _ in range(requests):
            await self._inside.acquire()

    async def __call__(self) -> str:
        self._inside.release()
        await self._open.wait()
        return "done"


@pytest.mark.parametrize(("bound", "refused"), [(5, 15), (1000, 0)], ids=["bounded", "switched off"])
async def test_requests_beyond_the_bound_are_refused_while_those_inside_go_on(
    settings: Settings, bound: int, refused: int
) -> None:
    app = with_settings(settings, max_concurrent_requests=bound)
    gate = Gate()
    app.fastapi.get("/gate")(gate.__call__)
    async with client_of(app) as client:
        with capture_logs() as logs:
            requests = [asyncio.create_task(client.get("/gate")) for _ in range(20)]
            await gate.wait_until_inside(20 - refused)
            probes = [(await client.get(f"/health/{probe}")).status_code for probe in ("live", "ready", "startup")]
            gate.open()
            responses = await asyncio.gather(*requests)

    shed = [response for response in responses if response.status_code == 503]
    assert len(shed) == refused
    assert all(response.headers["retry-after"] == "1" for response in shed)
    assert all(response.json()["status"] == 503 for response in shed)
    assert sum(response.status_code == 200 for response in responses) == 20 - refused
    assert probes == [200, 200, 200]
    assert counted(app, "http_requests_shed_total") == refused
    changes = [line["event"] for line in logs if line["event"].startswith("load shedding")]
    assert changes == (["load shedding began", "load shedding ended"] if refused else [])


async def test_after_an_overload_requests_are_let_in_again(settings: Settings) -> None:
    app = with_settings(settings, max_concurrent_requests=1)
    gate = Gate()
    app.fastapi.get("/gate")(gate.__call__)
    async with client_of(app) as client:
        inside = asyncio.create_task(client.get("/gate"))
        await gate.wait_until_inside(1)
        assert (await client.get("/api/v1/items")).status_code == 503
        gate.open()
        await inside

        assert (await client.get("/api/v1/items")).status_code == 200


@pytest.mark.parametrize(("seconds", "status"), [(0.05, 504), (30, 200)], ids=["deadline", "switched off"])
async def test_a_request_that_takes_too_long_is_cancelled_and_answered(
    settings: Settings, seconds: float, status: int
) -> None:
    app = with_settings(settings, request_timeout_seconds=seconds)
    cancelled = False

    @app.fastapi.get("/slow")
    async def slow() -> None:
        nonlocal cancelled
        try:
            await asyncio.sleep(0.3)
        except asyncio.CancelledError:
            cancelled = True
            raise

    async with client_of(app) as client:
        with capture_logs() as logs:
            response = await client.get("/slow")

    timed_out = status == 504
    assert response.status_code == status
    assert cancelled is timed_out
    assert counted(app, "http_requests_timed_out_total", waiting_for="response") == timed_out
    assert [line["event"] for line in logs].count("deadline exceeded") == timed_out
    if timed_out:
        assert response.json()["detail"] == "The request was not answered within 0.05 s."
        assert counted(app, "http_requests_total", method="GET", route="/slow", status="504") == 1


async def test_a_request_that_is_cut_off_after_its_deadline_is_answered_all_the_same(settings: Settings) -> None:
    app = with_settings(settings, request_timeout_seconds=0.05)
    late = asyncio.Event()

    @app.fastapi.get("/slow")
    async def slow() -> None:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            late.set()
            await asyncio.Event().wait()

    async with client_of(app) as client:
        request = asyncio.create_task(client.get("/slow"))
        await late.wait()
        request.cancel()

        assert (await request).status_code == 503


async def test_what_an_application_makes_of_its_cancellation_is_still_a_timeout(settings: Settings) -> None:
    app = with_settings(settings, request_timeout_seconds=0.05)

    @app.fastapi.get("/stubborn")
    async def stubborn() -> None:
        try:
            await asyncio.sleep(30)
        except asyncio.CancelledError:
            raise BugError from None

    async with client_of(app) as client:
        assert (await client.get("/stubborn")).status_code == 504


async def test_a_timeout_of_the_applications_own_stays_its_error(settings: Settings) -> None:
    app = with_settings(settings, request_timeout_seconds=30)

    @app.fastapi.get("/own")
    async def own() -> None:
        raise TimeoutError

    async with client_of(app) as client:
        assert (await client.get("/own")).status_code == 500


async def test_a_body_that_does_not_arrive_is_the_clients_fault(settings: Settings) -> None:
    app = with_settings(settings, request_timeout_seconds=0.05)

    async def endless() -> AsyncIterator[bytes]:
        yield b"{"
        await asyncio.sleep(30)

    async with client_of(app) as client:
        response = await client.post(
            "/api/v1/items", content=endless(), headers={"Content-Type": "application/json", "Content-Length": "9"}
        )

    assert response.status_code == 408
    assert response.headers["connection"] == "close"
    assert counted(app, "http_requests_timed_out_total", waiting_for="body") == 1


async def test_a_stream_may_last_longer_than_the_deadline(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    now = perf_counter()
    looked = asyncio.Event()

    def look() -> float:
        looked.set()
        return now

    monkeypatch.setattr("app.core.exchange.perf_counter", lambda: now)
    monkeypatch.setattr("app.core.resilience.perf_counter", look)
    app = with_settings(settings, request_timeout_seconds=0.05)

    @app.fastapi.get("/stream")
    async def stream() -> StreamingResponse:
        async def parts() -> AsyncIterator[bytes]:
            nonlocal now
            for _ in range(3):
                yield b"part "
                now += 1
                looked.clear()
                await looked.wait()

        return StreamingResponse(parts())

    async with client_of(app) as client:
        response = await client.get("/stream")

    assert (response.status_code, response.text) == (200, "part part part ")
    assert counted(app, "http_requests_timed_out_total", waiting_for="response") == 0


async def test_a_client_that_does_not_read_its_response_is_given_up(settings: Settings) -> None:
    app = with_settings(settings, request_timeout_seconds=0.05)

    @app.fastapi.get("/stream")
    async def stream() -> StreamingResponse:
        async def parts() -> AsyncIterator[bytes]:
            while True:
                yield b"part"

        return StreamingResponse(parts())

    async def never() -> dict[str, Any]:
        await asyncio.sleep(30)
        raise AssertionError

    async def send(message: dict[str, Any]) -> None:
        if message["type"] == "http.response.body":
            await asyncio.sleep(30)

    scope = {
        "type": "http",
        "asgi": {"version": "3.0"},
        "http_version": "1.1",
        "method": "GET",
        "scheme": "http",
        "path": "/stream",
        "raw_path": b"/stream",
        "root_path": "",
        "query_string": b"",
        "headers": [],
        "client": ("127.0.0.1", 1),
        "server": ("127.0.0.1", 2),
    }
    await app(scope, never, send)  # type: ignore[arg-type]
    app.flush()

    labels = {"method": "GET", "route": "/stream", "reason": "disconnect"}
    assert counted(app, "http_responses_incomplete_total", **labels) == 1


async def test_a_background_task_has_no_deadline(settings: Settings) -> None:
    app = with_settings(settings, request_timeout_seconds=0.5)
    finished = False

    @app.fastapi.get("/later")
    async def later(request: Request) -> StreamingResponse:
        async def work() -> None:
            nonlocal finished
            await asyncio.sleep(0.6)
            finished = True

        from starlette.background import BackgroundTask

        return StreamingResponse(iter([b"x"]), background=BackgroundTask(work))

    async with client_of(app) as client:
        assert (await client.get("/later")).status_code == 200

    assert finished


class Dependency:
    """Does what it is told, and counts how often it was asked."""

    def __init__(self, error: Exception | None = None) -> None:
        self.calls = 0
        self.error = error

    async def __call__(self) -> str:
        self.calls += 1
        await asyncio.sleep(0)
        if self.error:
            raise self.error
        return "served"


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Callable[[float], None]:
    """Let time pass for the breaker."""
    now = 1000.0

    def advance(seconds: float) -> None:
        nonlocal now
        now += seconds

    monkeypatch.setattr(circuitbreaker, "monotonic", lambda: now)
    return advance


@pytest.fixture
def metrics(settings: Settings) -> Metrics:
    """Metrics of nothing but the test."""
    return Metrics(settings)


def breaker(settings: Settings, metrics: Metrics, failures: int = 3) -> Breaker:
    changed = settings.model_copy(update={"breaker_failures": failures, "breaker_open_seconds": 5})
    return Breaker("shop", changed, metrics, failure=BrokenError, neutral=FullError)


async def fail(circuit: Breaker, dependency: Dependency, times: int) -> None:
    dependency.error = BrokenError("gone")
    for _ in range(times):
        with pytest.raises((BrokenError, CircuitOpenError)):
            await circuit.call(dependency)


@pytest.mark.parametrize(("failures", "calls"), [(3, 3), (1000, 10)], ids=["breaker", "switched off"])
async def test_a_dependency_that_fails_in_a_row_is_left_alone(
    settings: Settings, metrics: Metrics, clock: Callable[[float], None], failures: int, calls: int
) -> None:
    dependency = Dependency()

    await fail(breaker(settings, metrics, failures), dependency, times=10)

    assert dependency.calls == calls


async def test_the_breaker_lets_one_call_probe_and_closes_when_it_succeeds(
    settings: Settings, metrics: Metrics, clock: Callable[[float], None]
) -> None:
    circuit, dependency = breaker(settings, metrics), Dependency()

    def state() -> float | None:
        return metrics.registry.get_sample_value("circuit_breaker_state", {"name": "shop"})

    assert state() == 0
    with capture_logs() as logs:
        await fail(circuit, dependency, times=3)
        assert state() == 2
        with pytest.raises(CircuitOpenError) as refused:
            await circuit.call(dependency)
        assert refused.value.retry_after == 5

        clock(5)
        assert state() == 1
        dependency.error = None
        results = await asyncio.gather(*(circuit.call(dependency) for _ in range(20)), return_exceptions=True)

    assert results.count("served") == 1
    assert sum(isinstance(result, CircuitOpenError) for result in results) == 19
    assert dependency.calls == 4
    assert state() == 0
    assert await circuit.call(dependency) == "served"
    assert (logs[0]["failure"], logs[0]["cause"]) == ("gone", "None")
    changes = [(line["log_level"], line["before"], line["after"]) for line in logs]
    assert changes == [("error", "closed", "open"), ("info", "open", "half_open"), ("info", "half_open", "closed")]


async def test_a_probe_that_fails_opens_the_breaker_for_another_period(
    settings: Settings, metrics: Metrics, clock: Callable[[float], None]
) -> None:
    circuit, dependency = breaker(settings, metrics), Dependency()
    await fail(circuit, dependency, times=3)
    clock(5)
    await fail(circuit, dependency, times=10)

    assert dependency.calls == 4


async def test_a_call_from_before_the_breaker_opened_closes_it_by_its_success_and_that_is_told(
    settings: Settings, metrics: Metrics
) -> None:
    circuit, thawed = breaker(settings, metrics), asyncio.Event()
    begun = asyncio.create_task(circuit.call(thawed.wait))
    await asyncio.sleep(0)

    with capture_logs() as logs:
        await fail(circuit, Dependency(), times=3)
        thawed.set()
        await begun

    assert [(line["before"], line["after"]) for line in logs] == [("closed", "open"), ("open", "closed")]
    assert metrics.registry.get_sample_value("circuit_breaker_state", {"name": "shop"}) == 0


async def test_a_success_and_an_error_of_another_kind_show_that_the_dependency_serves(
    settings: Settings, metrics: Metrics, clock: Callable[[float], None]
) -> None:
    circuit, dependency = breaker(settings, metrics), Dependency()
    for error in (None, BugError()):
        await fail(circuit, dependency, times=2)
        dependency.error = error
        if error:
            with pytest.raises(BugError):
                await circuit.call(dependency)
        else:
            await circuit.call(dependency)
    await fail(circuit, dependency, times=2)

    assert dependency.calls == 8


async def test_calls_that_their_deadline_cuts_off_open_the_breaker(
    settings: Settings, metrics: Metrics, clock: Callable[[float], None]
) -> None:
    app = with_settings(settings, request_timeout_seconds=0.05)
    circuit = breaker(settings, metrics)

    @app.fastapi.get("/slow")
    async def slow() -> None:
        await circuit.call(lambda: asyncio.sleep(30))

    async with client_of(app) as client:
        with capture_logs() as logs:
            responses = await asyncio.gather(*(client.get("/slow") for _ in range(3)))

    assert [response.status_code for response in responses] == [504, 504, 504]
    with pytest.raises(CircuitOpenError):
        await circuit.call(Dependency())
    changes = [line for line in logs if line["event"] == "circuit breaker changed"]
    assert [line["failure"] for line in changes] == ["deadline exceeded"]


async def cut_off(circuit: Breaker) -> None:
    """Give up a call that its caller no longer wants."""
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0):
            await circuit.call(lambda: asyncio.sleep(30))


async def wait_in_vain(circuit: Breaker) -> None:
    """Make a call that finds no place to begin."""
    with pytest.raises(FullError):
        await circuit.call(Dependency(FullError()))


@pytest.mark.parametrize("say_nothing", [cut_off, wait_in_vain])
async def test_calls_that_say_nothing_of_the_dependency_neither_open_nor_close_the_breaker(
    settings: Settings,
    metrics: Metrics,
    clock: Callable[[float], None],
    say_nothing: Callable[[Breaker], Awaitable[None]],
) -> None:
    circuit, dependency = breaker(settings, metrics), Dependency()
    for _ in range(10):
        await say_nothing(circuit)
    assert await circuit.call(dependency) == "served"

    await fail(circuit, dependency, times=2)
    await say_nothing(circuit)
    await fail(circuit, dependency, times=1)
    clock(5)
    # A probe that says nothing leaves the next call to probe.
    await say_nothing(circuit)
    assert metrics.registry.get_sample_value("circuit_breaker_state", {"name": "shop"}) == 1
    dependency.error = None
    assert await circuit.call(dependency) == "served"


class Flaky(Dependency):
    """Breaks a number of times, then serves."""

    def __init__(self, breaks: int, error: Exception | None = None) -> None:
        super().__init__()
        self._breaks = breaks
        self._error = error or BrokenError()

    async def __call__(self) -> str:
        self.error = self._error if self.calls < self._breaks else None
        return await super().__call__()


def retries(settings: Settings, metrics: Metrics, **changes: Any) -> Retries:
    return Retries("shop", settings.model_copy(update=changes), metrics, on=BrokenError)


def retried(metrics: Metrics, outcome: str) -> float | None:
    return metrics.registry.get_sample_value("retries_total", {"name": "shop", "outcome": outcome})


@pytest.mark.parametrize(
    ("attempts", "breaks", "served"),
    [(3, 0, True), (3, 1, True), (3, 2, True), (3, 3, False), (1, 1, False)],
    ids=["at once", "after one", "after two", "never", "switched off"],
)
async def test_a_call_that_breaks_is_tried_again(
    settings: Settings, metrics: Metrics, attempts: int, breaks: int, served: bool
) -> None:
    dependency = Flaky(breaks)
    call = retries(settings, metrics, retry_attempts=attempts).call(dependency)

    if served:
        assert await call == "served"
    else:
        with pytest.raises(BrokenError):
            await call
    assert dependency.calls == min(attempts, breaks + 1)
    assert retried(metrics, "made") == dependency.calls - 1


async def test_another_error_is_not_tried_again(settings: Settings, metrics: Metrics) -> None:
    for dependency in (Flaky(1, BugError()), Flaky(1, CircuitOpenError("shop", 1))):
        with pytest.raises((BugError, CircuitOpenError)):
            await retries(settings, metrics).call(dependency)
        assert dependency.calls == 1


@pytest.mark.parametrize(("percent", "made"), [(10, 10), (0, 0)])
async def test_an_outage_is_met_with_no_more_retries_than_the_budget_has(
    settings: Settings, metrics: Metrics, percent: float, made: int
) -> None:
    calling = retries(settings, metrics, retry_attempts=2, retry_budget_percent=percent)
    with capture_logs() as logs:
        for _ in range(30):
            with pytest.raises(BrokenError):
                await calling.call(Flaky(2))
        for _ in range(60):
            await calling.call(Dependency())

    assert retried(metrics, "made") == made
    assert retried(metrics, "over_budget") == 30 - made
    changes = [line["event"] for line in logs if line["event"].startswith("retry budget")]
    assert changes == ["retry budget exhausted", "retry budget restored"]


async def test_successes_fill_the_budget_again(settings: Settings, metrics: Metrics) -> None:
    calling = retries(settings, metrics, retry_attempts=2, retry_budget_percent=10)
    for _ in range(30):
        with pytest.raises(BrokenError):
            await calling.call(Flaky(2))
    for _ in range(20):
        await calling.call(Dependency())
    for _ in range(5):
        with pytest.raises(BrokenError):
            await calling.call(Flaky(2))

    assert retried(metrics, "made") == 12
