"""What the longer tests need of a machine, and whether it is there; to tell a person before they run."""

import os
import re
import shutil
import subprocess
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


def go() -> Path | None:
    """Go, which builds the real components in `tools/`; from 1.21 on it fetches the version that they ask for."""
    found = shutil.which("go", path=f"{os.environ['PATH']}{os.pathsep}/usr/local/go/bin")
    if found is None:
        return None
    said = subprocess.run([found, "env", "GOVERSION"], capture_output=True, text=True, check=False).stdout
    version = re.match(r"go(\d+)\.(\d+)", said)
    return Path(found) if version and (int(version[1]), int(version[2])) >= (1, 21) else None


NO_GO = "missing (apt-get install golang-go on Debian 13 or newer, else https://go.dev/doc/install; 1.21 or newer)"


def summary() -> str:
    """A line for each need."""
    return f"{pythons.summary()}\n{postgresql()}\nGo for the OpenTelemetry Collector: {go() or NO_GO}"


if __name__ == "__main__":
    sys.stdout.write(f"{summary()}\n")
