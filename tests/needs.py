"""What the longer tests need of a machine, and whether it is there; to tell a person before they run."""

import os
import shutil
import sys
from pathlib import Path

import pythons


def postgresql() -> str:
    """One line about PostgreSQL, which the tests of a service start themselves unless they are given one."""
    installed = shutil.which("initdb") or next(Path("/usr/lib/postgresql").glob("*/bin/initdb"), None)
    if installed:
        return f"PostgreSQL for the service: {Path(installed).resolve().parent}"
    given = (
        "; TEST_POSTGRES_URL is set, but its faults need one of our own" if os.environ.get("TEST_POSTGRES_URL") else ""
    )
    return f"PostgreSQL for the service: missing (apt-get install postgresql){given}"


def summary() -> str:
    """A line for each need."""
    return f"{pythons.summary()}\n{postgresql()}"


if __name__ == "__main__":
    sys.stdout.write(f"{summary()}\n")
