"""What a cluster runs in ends with whoever started it, even with one that is killed."""

import os
import subprocess
import sys
from pathlib import Path

import needs
import pytest
import sandbox

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
SLEEP = "98765"


@pytest.fixture(autouse=True)
def able() -> None:
    if missing := needs.cluster():
        pytest.fail(f"Kubernetes: {missing}", pytrace=False)


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
    environment = os.environ | {"PYTHONPATH": str(Path(sandbox.__file__).parent)}
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) as run:
        assert run.stdout is not None
        folder = Path(run.stdout.readline().strip())
        assert sandbox.within(10, sleeps, lambda: "nothing was started")
        run.kill()
    sandbox.within(10, lambda: not sleeps(), lambda: "the program outlived the run that started it")
    left = folder.exists()

    with sandbox.Sandbox() as place:
        assert place.folder == folder
        assert not (folder / "logs").exists()

    assert left
    assert not folder.exists()
    assert place.left == set()
    folder.with_suffix(".lock").unlink()
