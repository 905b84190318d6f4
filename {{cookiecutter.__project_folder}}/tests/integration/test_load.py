"""Locust against real processes of the service: a run that keeps the objectives passes, another says what is wrong."""

import csv
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import pytest

from tests.load.gate import Exit
from tests.support import ROOT, Service, free_port, wait_for

Start = Callable[..., Service]

COMMAND = (sys.executable, "-m", "locust", "-f", "tests/load/locustfile.py", "--headless", "--only-summary")

QUIET = {"STORAGE_URL": "memory://", "LOG_LEVEL": "WARNING", "DRAIN_SECONDS": "0"}

ROUTES = {
    ("GET", "/api/v1/items"),
    ("POST", "/api/v1/items"),
    ("GET", "/api/v1/items/{item_id}"),
    ("PUT", "/api/v1/items/{item_id}"),
    ("DELETE", "/api/v1/items/{item_id}"),
}


def locust(*arguments: str) -> "subprocess.CompletedProcess[str]":
    """Run it to its end; what it says is on standard error."""
    return subprocess.run(  # noqa: S603 - our own words
        [*COMMAND, *arguments], cwd=ROOT, capture_output=True, text=True, check=False, timeout=120
    )


@pytest.fixture
def begin() -> Iterator[Callable[..., "subprocess.Popen[str]"]]:
    """Begins a part of a distributed run, and ends those that did not end themselves."""
    processes: list[subprocess.Popen[str]] = []

    def begin(*arguments: str) -> "subprocess.Popen[str]":
        processes.append(
            subprocess.Popen(  # noqa: S603 - our own words
                [*COMMAND, *arguments], cwd=ROOT, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True
            )
        )
        return processes[-1]

    yield begin
    for process in processes:
        process.kill()
        process.communicate()


def answered(service: Service) -> float:
    """How many requests the service has answered."""
    counted = re.findall(r"^http_requests_total\{.*\} (\S+)$", httpx.get(service.metrics_url).text, re.MULTILINE)
    return sum(map(float, counted))


def ready(start: Start, module: str = "app", **environment: str) -> Service:
    """A service that is ready."""
    service = start(module=module, **QUIET, **environment)
    service.wait_until("/health/ready", 200)
    return service


def test_a_sound_service_passes_and_keeps_nothing_of_it(start: Start, tmp_path: Path) -> None:
    service = ready(start)

    # As the README has it, but with reports where nobody else writes.
    report, table = tmp_path / "load.html", tmp_path / "load"
    done = locust(
        f"--host={service.url}",
        *("--users=40", "--spawn-rate=20", "--run-time=15s"),
        *(f"--html={report}", f"--csv={table}"),
    )

    assert done.returncode == Exit.KEPT, done.stderr
    assert "Both objectives were kept." in done.stderr
    assert "<title>Locust" in report.read_text(encoding="utf-8")
    with (tmp_path / "load_stats.csv").open(encoding="utf-8") as lines:
        assert {(row["Type"], row["Name"]) for row in csv.DictReader(lines)} == ROUTES | {("", "Aggregated")}
    assert httpx.get(f"{service.url}/api/v1/items").json()["items"] == []


@pytest.mark.parametrize(
    ("fault", "asked", "code", "told"),
    [
        ({"TEST_DELAY": "0.4"}, ["--rate=20"], Exit.MISSED, ["Latency is missed"]),
        ({"TEST_FAILS": "10"}, ["--rate=20"], Exit.MISSED, ["Availability is missed"]),
        ({"TEST_FAILS": "10"}, ["--users=20", "--spawn-rate=20"], Exit.MISSED, ["Availability is missed"]),
        ({"TEST_FAILS": "2", "TEST_DELAY": "0.4"}, ["--rate=20"], Exit.MISSED, ["Availability", "Latency"]),
        ({}, ["--users=0"], Exit.VOID, ["Nothing was measured"]),
        ({}, ["--rate=20", "--users=20"], Exit.REFUSED, ["--rate and --users exclude each other"]),
        ({}, ["--shape=spike", "--spawn-rate=1"], Exit.REFUSED, ["--spawn-rate is for runs without a shape"]),
    ],
    ids=str,
)
def test_a_run_that_does_not_keep_them_fails_and_says_which(
    fault: dict[str, str], asked: list[str], code: Exit, told: list[str], start: Start
) -> None:
    service = ready(start, module="tests.load.faulty", **fault)

    done = locust(f"--host={service.url}", "--run-time=4s", *asked)

    assert done.returncode == code, done.stderr
    assert [one for one in told if one not in done.stderr] == []
    assert ("were kept" in done.stderr) is False


def test_who_is_not_there_is_not_available() -> None:
    done = locust(f"--host=http://127.0.0.1:{free_port()}", "--run-time=2s", "--users=5", "--spawn-rate=5")

    assert done.returncode == Exit.MISSED
    assert "Availability is missed" in done.stderr


def test_nobody_else_gets_a_request() -> None:
    done = locust("--host=https://example.com", "--run-time=2s", "--users=5")

    assert done.returncode == Exit.REFUSED
    assert "Nothing was sent. example.com is neither this machine nor the host of dev or staging" in done.stderr


def test_a_spike_ends_in_time_and_is_told_stage_by_stage(start: Start) -> None:
    service = ready(start)

    began = time.monotonic()
    done = locust(f"--host={service.url}", "--shape=spike", "--rate=10", "--run-time=10s")

    assert done.returncode == Exit.KEPT, done.stderr
    assert time.monotonic() - began < 30
    assert re.findall(r"(\d+) a second  ", done.stderr) == ["10", "50", "10"]


def test_more_at_each_step_ends_with_the_first_that_breaks_it(start: Start) -> None:
    # A tenth of a second for each of the few requests that may be inside: some forty a second.
    service = ready(start, module="tests.load.faulty", TEST_DELAY="0.1", MAX_CONCURRENT_REQUESTS="4")

    done = locust(f"--host={service.url}", "--shape=step", "--rate=10", "--run-time=60s")

    assert done.returncode == Exit.KEPT, done.stderr
    held = re.search(r"It held up to (\d+) a second", done.stderr)
    assert held, done.stderr
    assert 10 <= int(held[1]) < 80
    assert "Availability is missed" in done.stderr


@pytest.mark.parametrize("lost", [0, 2])
def test_workers_make_the_load_and_their_master_judges_it(
    lost: int, start: Start, begin: Callable[..., "subprocess.Popen[str]"]
) -> None:
    service = ready(start)
    port = f"{free_port()}"
    master = begin(
        *("--master", "--expect-workers=2", "--master-bind-host=127.0.0.1", f"--master-bind-port={port}"),
        *(f"--host={service.url}", "--shape=steady", "--rate=40", "--run-time=12s"),
    )
    workers = [begin("--worker", "--master-host=127.0.0.1", f"--master-port={port}") for _ in range(2)]
    # For long enough that each worker has told its master of some: they do every three seconds.
    wait_for(lambda: answered(service) > 160, "the workers make no requests")
    for worker in workers[:lost]:
        worker.kill()
    _, said = master.communicate(timeout=100)

    if lost:
        assert master.returncode == Exit.VOID, said
        assert "The run was broken off" in said
    else:
        assert master.returncode == Exit.KEPT, said
        assert "Both objectives were kept." in said
        assert [worker.wait(timeout=20) for worker in workers] == [0, 0]
