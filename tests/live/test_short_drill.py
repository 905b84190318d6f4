"""A drill on the real stack: it holds, it fails without what it is about, and nothing of it stays.

This is its form for pipelines: the alerts of the whole form take minutes, and `make drills` waits for them.
"""

import json
import os
import signal
import subprocess
from collections.abc import Iterator
from typing import Any

import pytest
from stack import Stack, for_drills
from standins import run

pytestmark = pytest.mark.live

DRILL = "database-down"


@pytest.fixture(scope="module")
def stack(cookies_session: Any) -> Iterator[Stack]:
    """A service that is drilled."""
    yield from for_drills(cookies_session)


def leftovers(stack: Stack) -> list[str]:
    """What bears the name of this service's drills."""
    label = f"--filter=label=com.docker.compose.project={stack.name}-drill"
    kinds = (("ps", "--all"), ("network", "ls"), ("volume", "ls"))
    return [one for kind in kinds for one in run("docker", *kind, label, "--quiet").split()]


@pytest.fixture
def clean(stack: Stack) -> Iterator[Stack]:
    """The service, of whose drills nothing may be left afterwards."""
    yield stack
    assert leftovers(stack) == []


def result(stack: Stack, name: str) -> dict[str, Any]:
    """What a drill has written down."""
    folder = stack.project / "reports" / "drills"
    assert (folder / f"{name}.svg").read_text(encoding="utf-8").startswith("<svg ")
    assert (folder / f"{name}.md").is_file()
    return dict(json.loads((folder / f"{name}.json").read_text(encoding="utf-8")))


# How fast a refusal is depends on who else uses this machine; that there is one does not.
TIMES = ("before the fault", "once it is open", "requests were sent")


def failed(kept: dict[str, Any]) -> list[str]:
    """The sentences that were false, but for those about time."""
    return [one["says"] for one in kept["checks"] if one["held"] is False and not one["says"].startswith(TIMES)]


@pytest.mark.ci
def test_the_short_drill_holds(clean: Stack) -> None:
    clean.make("drill", f"DRILL={DRILL}", "FLAGS=--short")

    kept = result(clean, f"{DRILL}-short")
    assert failed(kept) == []
    assert kept["form"].startswith("short: alerts were not waited for")


@pytest.mark.ci
def test_without_its_protection_the_short_drill_fails(clean: Stack) -> None:
    done = clean.make("drill", f"DRILL={DRILL}", "FLAGS=--short --without-protection")

    assert done.returncode != 0
    assert "the circuit breaker opens" in failed(result(clean, f"{DRILL}-short-without-protection"))


def test_a_drill_that_is_told_to_stop_leaves_nothing_and_the_next_removes_what_a_killed_one_left(clean: Stack) -> None:
    command = clean.command("drill", f"DRILL={DRILL}", "FLAGS=--short")
    where: dict[str, Any] = {"cwd": clean.project, "env": clean.environment, "start_new_session": True, "text": True}
    for number in (signal.SIGKILL, signal.SIGTERM):
        with subprocess.Popen(command, stderr=subprocess.PIPE, **where) as drill:
            assert drill.stderr
            said = []
            for line in drill.stderr:
                said.append(line)
                if "steady:" in line:
                    # To make and to what it runs, as a terminal does it.
                    os.killpg(drill.pid, number)
        assert (number == signal.SIGKILL) == bool(leftovers(clean))
    assert any("An earlier drill was cut short" in line for line in said)
