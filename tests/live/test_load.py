"""Load on the production image in its stack, with PostgreSQL: it is judged, and at half of its capacity nothing grows.

A soak takes two minutes here. `make soak` takes half an hour, by hand and on an idle machine, and writes docs/soak.md.
"""

import csv
import os
import platform
import re
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

import pytest
from conftest import ROOT
from soak import LIMITS, Trend, thinned, trend
from stack import Stack, started
from waiting import wait_for

PAGE = ROOT / "docs" / "soak.md"

# What a process allocates once, in the first requests of each kind, is no growth.
WARM_UP_SHARE = 0.25
STEP_SECONDS = 5

# The services of the profile `load`.
LOAD = ("load-master", "load-worker")


@pytest.fixture(scope="module")
def stack(cookies_session: Any) -> Iterator[Stack]:
    """The stack of the default answers."""
    yield from started(cookies_session, "load")


def load(stack: Stack, shape: str, rate: float, seconds: int | None = None) -> str:
    """Send load, past the engine's proxy, which takes so many connections at a time; what Locust says."""
    networks = stack.containers()["app"]["NetworkSettings"]["Networks"]
    address = next(network["IPAddress"] for network in networks.values() if network["IPAddress"])
    words = ["load", f"HOST=http://{address}:8000", f"ALLOW_HOST={address}", f"SHAPE={shape}", f"RATE={rate:g}"]
    done = stack.make(*words, *([f"RUN_TIME={seconds}s"] if seconds else []))
    said = f"{done.stdout}{done.stderr}"
    assert done.returncode == 0, said
    return said


def requests(stack: Stack) -> tuple[int, int]:
    """How many requests the load sent, and how many of them failed."""
    with (stack.project / "reports" / "load_stats.csv").open(encoding="utf-8") as lines:
        (total,) = [row for row in csv.DictReader(lines) if row["Name"] == "Aggregated"]
    return int(total["Request Count"]), int(total["Failure Count"])


def trends(stack: Stack, begin: float, end: float) -> list[Trend]:
    """What became of each series that must not grow."""
    found = []
    for limit in LIMITS:
        span = {"start": f"{begin:.0f}", "end": f"{end:.0f}", "step": f"{STEP_SECONDS}s"}
        (series,) = stack.prometheus(limit.query, "query_range", **span)["result"]
        points = [(float(moment), float(value)) for moment, value in series["values"]]
        assert len(points) > 0.9 * (end - begin) / STEP_SECONDS
        found.append(trend(limit, points))
    return found


def soak(stack: Stack, rate: float, seconds: int) -> tuple[list[Trend], int]:
    """Send half of a rate for so long: what grew, and how many requests there were. None may fail."""
    begin = time.time()
    said = load(stack, "soak", rate, seconds)
    count, failures = requests(stack)
    told = (stack.project / "reports" / "load_failures.csv").read_text(encoding="utf-8")
    assert failures == 0, f"{told}\n{said}"
    assert count > 0.9 * rate / 2 * seconds
    return trends(stack, begin + WARM_UP_SHARE * seconds, begin + seconds), count


@pytest.mark.live
@pytest.mark.parametrize(
    ("objective_ms", "code", "verdict"), [(300, 0, "Both objectives were kept."), (0, 3, "Latency is missed")]
)
def test_workers_in_containers_make_the_load_and_their_master_judges_it(
    objective_ms: int, code: int, verdict: str, stack: Stack
) -> None:
    facts = stack.project / "app" / "service.toml"
    text = facts.read_text(encoding="utf-8")
    # The image of the load has the facts of when it was built; the service keeps its own.
    facts.write_text(re.sub(r"(latency_threshold_ms = ).*", rf"\g<1>{objective_ms}", text), encoding="utf-8")
    stack.environment |= {"SHAPE": "smoke", "RATE": "200", "LOAD_WORKERS": "2"}
    try:
        stack.compose("--profile=load", "up", "--detach", "--build", "--no-deps", "--scale=load-worker=2", *LOAD)
        ended = stack.wait("load-master")
        said = stack.compose("logs", "--no-log-prefix", "load-master")
    finally:
        facts.write_text(text, encoding="utf-8")
        stack.compose("--profile=load", "rm", "--stop", "--force", *LOAD)

    assert ended == code, said
    assert verdict in said


@pytest.mark.live
@pytest.mark.long
def test_in_a_short_soak_nothing_fails_and_nothing_grows(stack: Stack) -> None:
    found, _ = soak(stack, rate=40, seconds=120)

    assert [(one.limit.says, one.values) for one in found if one.grows] == []


@pytest.mark.drills
def test_in_half_an_hour_at_half_of_its_capacity_nothing_fails_and_nothing_grows(stack: Stack) -> None:
    held = re.search(r"It held up to (\d+) a second", load(stack, "step", rate=25))
    assert held, "it does not even hold the first step"
    capacity = int(held[1])
    # The step that broke it may have left it unready.
    wait_for(lambda: stack.ask("soak").status == 200, "the service does not recover")

    found, count = soak(stack, capacity, seconds=1800)

    PAGE.write_text(page(capacity, count, found), encoding="utf-8")
    assert [(one.limit.says, one.slope) for one in found if one.grows] == []


def page(capacity: int, count: int, found: list[Trend]) -> str:
    """What was seen, for people."""
    rows = "\n".join(
        f"| {one.limit.says} | {one.values[0]:.1f} | {one.values[-1]:.1f} | {one.slope:+.2f} | {one.growth:+.2f} | "
        f"{one.limit.growth:g} | {'**it grows**' if one.grows else 'held'} |"
        for one in found
    )
    memory = thinned(found[0].values, 45)
    line = ", ".join(f"{value:.1f}" for value in memory)
    machine = f"{platform.machine()} with {os.cpu_count()} cores"
    return f"""\
# Soak

Half an hour at half of what it can do: does anything fail, does anything grow? `make soak` asks that of the production
image in the stack of its `docker-compose.yml`, with PostgreSQL, and writes this page; `make test-all` does so for two
minutes.

On {datetime.now(UTC):%Y-%m-%d}, {machine}, which the load and the stack shared with the service:
it held {capacity} requests a second, and so it was sent {capacity / 2:g} a second. Of {count} requests **none failed**,
and both objectives were kept. In [another run](live-proof.md#another-soak), at 150 a second, 46 of 270 000 were shed.

| After the first quarter | Begin | End | In an hour | In this time | May grow by | |
| --- | --- | --- | --- | --- | --- | --- |
{rows}

```mermaid
xychart-beta
    title "Resident memory after the first quarter, MiB"
    y-axis "MiB" 0 --> {max(memory) * 1.2:.0f}
    line [{line}]
```
"""
