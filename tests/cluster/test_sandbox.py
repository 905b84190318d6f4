"""What a cluster runs in ends with whoever started it, even with one that is killed."""

import os
import subprocess
import sys
from pathlib import Path

import needs
import pytest
import sandbox
from waiting import wait_for

pytestmark = pytest.mark.cluster

# Starts a program, says where, and waits for its end.
SCRIPT = """
import sys, time
import sandbox
sandbox.NAME = sys.argv[1]
with sandbox.Sandbox() as place:
    place.start("sleeper", "sleep", sys.argv[2])
    print(place.folder, flush=True)
    time.sleep(600)
"""
# No other run on this machine sleeps for as long.
SLEEP = f"98765.{os.getpid()}"


@pytest.fixture(autouse=True)
def able() -> None:
    needs.demand(needs.cluster(), "Kubernetes")


def sleeps() -> bool:
    """Whether the program runs, in whatever namespace."""
    commands = subprocess.run(["ps", "-e", "-o", "args="], capture_output=True, text=True, check=True).stdout
    return f"sleep {SLEEP}" in commands.splitlines()


def test_a_run_that_is_killed_takes_its_programs_along_and_the_next_one_removes_its_files(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    name = f"test-sandbox-{os.getpid()}"
    monkeypatch.setattr(sandbox, "NAME", name)
    command = [sys.executable, "-c", SCRIPT, name, SLEEP]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) as run:
        assert run.stdout is not None
        folder = Path(run.stdout.readline().strip())
        wait_for(sleeps, "nothing was started", 10)
        run.kill()
    wait_for(lambda: not sleeps(), "the program outlived the run that started it", 10)
    left = folder.exists()

    with sandbox.Sandbox() as place:
        assert place.folder == folder
        assert not (folder / "logs").exists()

    assert left
    assert not folder.exists()
    assert place.left == set()
    folder.with_suffix(".lock").unlink()
