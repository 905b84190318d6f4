"""Environments of generated services, and the commands that their users type."""

import fcntl
import hashlib
import re
import subprocess
from pathlib import Path

import pytest
from conftest import ROOT
from pythons import found

CACHE = ROOT / ".cache"


def default_python() -> str:
    """The Python that services are tested on, other than by the test of all of them."""
    return next(iter(found().values()))


def environment_name(project: Path, python: str) -> str:
    """The name of the environment that this project's lock and this Python make."""
    lock = (project / "requirements.txt").read_bytes()
    return hashlib.sha256(lock + python.encode()).hexdigest()[:16]


def make(project: Path, *targets: str, python: str | None = None) -> None:
    """Run targets of a generated Makefile, in an environment that projects with the same lock share.

    The first that needs an environment makes it, as a user's first `make` would, while the others wait.
    """
    interpreter = python or default_python()
    name = environment_name(project, interpreter)
    # The lock file of a fresh tree is always newer than the environment that was made from its twin.
    command = ["make", "--assume-old=requirements.txt", f"VENV={CACHE / name}", f"PYTHON={interpreter}"]
    CACHE.mkdir(exist_ok=True)
    with (CACHE / f"{name}.lock").open("w") as turn:
        fcntl.flock(turn, fcntl.LOCK_EX)
        run([*command, f"{CACHE / name}/.ready"], project)
    for target in targets:
        run([*command, target], project)


def environment_of(project: Path) -> Path:
    """The environment that `make` makes for a project."""
    return CACHE / environment_name(project, default_python())


def python_of(project: Path) -> Path:
    """The Python of an environment that has all that the service needs."""
    make(project)
    return environment_of(project) / "bin" / "python"


def run(command: list[str], project: Path) -> None:
    """Run a command in a project; its output is the reason when it fails."""
    result = subprocess.run(command, cwd=project, capture_output=True, text=True, check=False)
    if result.returncode:
        # Thousands of access lines of one failed test would leave no room for what failed.
        said = re.sub(r"^.*\[info +\] request .*\n", "", result.stdout, flags=re.MULTILINE)
        pytest.fail(f"{' '.join(command)} in {project}\n{said[-20_000:]}\n{result.stderr[-5_000:]}", pytrace=False)
