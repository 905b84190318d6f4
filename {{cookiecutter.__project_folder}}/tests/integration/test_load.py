"""Locust against real processes of the service: a run that keeps the objectives passes, another says what is wrong."""

import csv
import re
import shutil
import subprocess
import sys
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import pytest

from tests.load.gate import Exit
from tests.support import ROOT, Service, free_port, wait_for

Start = Callable[..., Service]
Locust = Callable[..., "subprocess.Popen[str]"]

# What a service keeps even on a machine that does a lot beside, and misses where a test wants it to.
OBJECTIVES = "[slo]\navailability_percent = 90\nlatency_threshold_ms = 4000\nlatency_percent = 95\n"
TOO_SLOW = {"TEST_DELAY": "4.2"}
TOO_BAD = {"TEST_FAILS": "4"}

ROUTES = {
    ("GET", "/api/v1/items"),
    ("POST", "/api/v1/items"),
    ("GET", "/api/v1/items/{item_id}"),
    ("PUT", "/api/v1/items/{item_id}"),
    ("DELETE", "/api/v1/items/{item_id}"),
}
CLEAN_UP = ("DELETE", "/api/v1/items/{item_id} (clean-up)")


@pytest.fixture
def begin(tmp_path: Path) -> Iterator[Locust]:
    """Begins Locust in a tree with these objectives, and ends what did not end itself."""
    tree = tmp_path / "tree"
    shutil.copytree(ROOT / "tests" / "load", tree / "tests" / "load")
    (tree / "app").mkdir()
    (tree / "app" / "service.toml").write_text(OBJECTIVES, encoding="utf-8")
    command = (sys.executable, "-m", "locust", "-f", "tests/load/locustfile.py", "--headless", "--only-summary")
    processes: list[subprocess.Popen[str]] = []

    def begin(*arguments: str) -> "subprocess.Popen[str]":
        processes.append(
            subprocess.Popen(  # noqa: S603 - our own words
                [*command, *arguments], cwd=tree, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True
            )
        )
        return processes[-1]

    yield begin
    for process in processes:
        process.kill()
        process.communicate()


@pytest.fixture
def locust(begin: Locust) -> Callable[..., tuple[int, str]]:
    """Runs Locust to its end: exit code, and what it says."""

    def locust(*arguments: str) -> tuple[int, str]:
        process = begin(*arguments)
        _, said = process.communicate(timeout=150)
        return process.returncode, said

    return locust


def ready(start: Start, **environment: str) -> Service:
    """A service that is ready, with what is wrong with it."""
    quiet = {"STORAGE_URL": "memory://", "LOG_LEVEL": "WARNING", "DRAIN_SECONDS": "0"}
    service = start(module="tests.load.faulty" if environment else "app", **quiet, **environment)
    service.wait_until("/health/ready", 200)
    return service


def answered(service: Service) -> float:
    """How many requests the service has answered."""
    with urllib.request.urlopen(service.metrics_url) as answer:
        told = answer.read().decode()
    return sum(map(float, re.findall(r"^http_requests_total\{.*\} (\S+)$", told, re.MULTILINE)))


def test_a_sound_service_passes_and_keeps_nothing_of_it(
    start: Start, locust: Callable[..., tuple[int, str]], tmp_path: Path
) -> None:
    service = ready(start)

    code, said = locust(
        f"--host={service.url}",
        *("--users=40", "--spawn-rate=20", "--run-time=13s"),
        *(f"--html={tmp_path / 'load.html'}", f"--csv={tmp_path / 'load'}"),
    )

    assert code == Exit.KEPT, said
    assert "Both objectives were kept." in said
    assert "<title>Locust" in (tmp_path / "load.html").read_text(encoding="utf-8")
    with (tmp_path / "load_stats.csv").open(encoding="utf-8") as lines:
        named = {(row["Type"], row["Name"]) for row in csv.DictReader(lines)}
    assert named - {CLEAN_UP} == ROUTES | {("", "Aggregated")}
    counted, sent, cleaned_up = (
        int(found[1]) if (found := re.search(pattern, said)) else 0
        for pattern in (r"40 users +\d+ +(\d+)", r"Aggregated +(\d+)", r"\(clean-up\) +(\d+)")
    )
    assert counted == sent - cleaned_up
    assert httpx.get(f"{service.url}/api/v1/items").json()["items"] == []


@pytest.mark.parametrize(
    ("fault", "asked", "told"),
    [
        (TOO_SLOW, ("--rate=20",), ("Latency is missed",)),
        (TOO_BAD, ("--users=20", "--spawn-rate=20"), ("Availability is missed",)),
        (TOO_BAD | TOO_SLOW, ("--rate=20",), ("Availability is missed", "Latency is missed")),
    ],
    ids=str,
)
def test_a_run_that_does_not_keep_them_fails_and_says_which(
    fault: dict[str, str],
    asked: tuple[str, ...],
    told: tuple[str, ...],
    start: Start,
    locust: Callable[..., tuple[int, str]],
) -> None:
    service = ready(start, **fault)

    code, said = locust(f"--host={service.url}", "--run-time=3s", *asked)

    assert code == Exit.MISSED, said
    assert tuple(sentence for sentence in ("Availability is missed", "Latency is missed") if sentence in said) == told


def test_a_run_without_a_request_is_no_success(start: Start, locust: Callable[..., tuple[int, str]]) -> None:
    code, said = locust(f"--host={ready(start).url}", "--run-time=2s", "--users=0")

    assert code == Exit.VOID, said
    assert "Nothing was measured" in said


def test_who_is_not_there_is_not_available(locust: Callable[..., tuple[int, str]]) -> None:
    code, said = locust(f"--host=http://127.0.0.1:{free_port()}", "--run-time=2s", "--users=5", "--spawn-rate=5")

    assert code == Exit.MISSED
    assert "Availability is missed" in said


@pytest.mark.parametrize(
    ("asked", "told"),
    [
        (("--host=https://example.com",), "example.com is neither this machine nor the host of dev or staging"),
        (("--host=http://127.0.0.1:1", "--rate=20", "--users=20"), "--rate and --users exclude each other"),
        (("--host=http://127.0.0.1:1", "--shape=spike", "--spawn-rate=1"), "--spawn-rate is for runs without a shape"),
    ],
    ids=str,
)
def test_what_should_not_be_done_is_refused_before_a_request(
    asked: tuple[str, ...], told: str, locust: Callable[..., tuple[int, str]]
) -> None:
    code, said = locust(*asked, "--run-time=2s")

    assert code == Exit.REFUSED
    assert f"Nothing was sent. {told}" in said


@pytest.mark.long
def test_a_spike_is_told_stage_by_stage(start: Start, locust: Callable[..., tuple[int, str]]) -> None:
    service = ready(start)

    code, said = locust(f"--host={service.url}", "--shape=spike", "--rate=10", "--run-time=25s")

    assert code == Exit.KEPT, said
    assert re.findall(r"(\d+) a second  ", said) == ["10", "50", "10"]


@pytest.mark.long
def test_more_at_each_step_ends_with_the_first_that_breaks_it(
    start: Start, locust: Callable[..., tuple[int, str]]
) -> None:
    # A fifth of a second for each of the few requests that may be inside: at most forty a second. Of each step, a
    # twentieth may be missing: it takes half a minute, so that a machine that stands still for a second is no reason.
    service = ready(start, TEST_DELAY="0.2", MAX_CONCURRENT_REQUESTS="8")

    code, said = locust(f"--host={service.url}", "--shape=step", "--rate=20", "--run-time=300s")

    assert code == Exit.KEPT, said
    held = re.search(r"It held up to (\d+) a second", said)
    assert held, said
    assert 20 <= int(held[1]) < 60
    assert "is missed" in said
    # Users who end together are refused, and ask again for the end of what they made.
    assert httpx.get(f"{service.url}/api/v1/items").json()["items"] == []


@pytest.mark.long
@pytest.mark.parametrize("lost", [0, 2])
def test_workers_make_the_load_and_their_master_judges_it(lost: int, start: Start, begin: Locust) -> None:
    service = ready(start)
    port = f"{free_port()}"
    master = begin(
        *("--master", "--expect-workers=2", "--master-bind-host=127.0.0.1", f"--master-bind-port={port}"),
        *(f"--host={service.url}", "--shape=steady", "--rate=40", "--run-time=30s"),
    )
    workers = [begin("--worker", "--master-host=127.0.0.1", f"--master-port={port}") for _ in range(2)]
    # For long enough that each worker has told its master of some: they do every three seconds.
    wait_for(lambda: master.poll() is not None or answered(service) > 160, "the workers make no requests", timeout=60)
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
