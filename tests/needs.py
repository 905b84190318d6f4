"""What the longer tests need of a machine, and whether it is there; to tell a person before they run."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import pythons

BUSYBOX = Path("/bin/busybox")

# Where Debian has the programs that give a pod its network.
CNI = Path("/usr/lib/cni")


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


def engine() -> str:
    """What is missing of the container engine, which runs images and the stack; nothing if it is whole."""
    if shutil.which("docker") is None:
        return "missing (apt-get install docker.io docker-cli docker-buildx docker-compose, on Debian 13 or newer)"
    for command, cure in {
        "buildx version": "apt-get install docker-buildx",
        "compose version": "apt-get install docker-compose",
        "info": "start dockerd, or join the group docker",
    }.items():
        done = subprocess.run(["docker", *command.split()], capture_output=True, text=True, check=False)
        if done.returncode:
            return f"docker {command} fails ({cure}): {done.stderr.strip()}"
    return ""


def debian() -> str:
    """What is missing of the tools that make images where none can be pulled; nothing if they are there."""
    found = {
        "debootstrap": shutil.which("debootstrap", path=f"{os.environ['PATH']}{os.pathsep}/usr/sbin"),
        "busybox-static": BUSYBOX.exists() and _is_static(BUSYBOX),
    }
    missing = [name for name, there in found.items() if not there]
    return f"missing (apt-get install {' '.join(missing)})" if missing else ""


def cluster() -> str:
    """What is missing for a Kubernetes of our own, beside Go and the container engine; nothing if it is there."""
    if sys.platform != "linux" or os.geteuid() != 0:
        return "missing (it runs as root, on Linux)"
    path = f"{os.environ['PATH']}{os.pathsep}/usr/sbin"
    programs = {
        "containerd": ("containerd", "ctr"),
        "curl": ("curl",),
        "iproute2": ("ip",),
        "nftables": ("nft",),
        "openssl": ("openssl",),
        "procps": ("ps", "sysctl"),
        "runc": ("runc",),
        "util-linux": ("nsenter", "setpriv", "unshare"),
    }
    missing = [name for name, needed in programs.items() if not all(shutil.which(one, path=path) for one in needed)]
    missing += [] if (CNI / "bridge").exists() else ["containernetworking-plugins"]
    missing += [] if BUSYBOX.exists() and _is_static(BUSYBOX) else ["busybox-static"]
    return f"missing (apt-get install {' '.join(missing)})" if missing else engine()


def java() -> str:
    """What is missing of Java and Maven, which parse and judge a Jenkinsfile; nothing if they are there."""
    missing = [
        package
        for program, package in {"javac": "default-jdk-headless", "mvn": "maven"}.items()
        if not shutil.which(program)
    ]
    return f"missing (apt-get install {' '.join(missing)}; Java 11 or newer)" if missing else ""


def npm() -> str:
    """What is missing of Node.js, which has the checkers of a Jenkinsfile and of LogQL; nothing if it is there."""
    there = all(map(shutil.which, ("node", "npm")))
    return "" if there else "missing (apt-get install nodejs npm)"


def demand(missing: str, what: str) -> None:
    """Fail the test that needs this, and say how to get it."""
    if missing:
        pytest.fail(f"{what}: {missing}", pytrace=False)


def _is_static(program: Path) -> bool:
    """Whether a program needs no libraries: Debian's other busybox bears the same name, and does."""
    return subprocess.run(["ldd", program], capture_output=True, check=False).returncode != 0


def summary() -> str:
    """A line for each need."""
    return "\n".join((
        pythons.summary(),
        postgresql(),
        f"Go for the components of the stack: {go() or NO_GO}",
        f"Container engine: {engine() or 'there'}",
        f"Debian's tools for stand-in images: {debian() or 'there'}",
        f"Kubernetes: {cluster() or 'there'}",
        f"Java and Maven for a Jenkinsfile: {java() or 'there'}",
        f"Node.js for the checkers of Jenkinsfiles and LogQL: {npm() or 'there'}",
    ))  # fmt: skip


if __name__ == "__main__":
    sys.stdout.write(f"{summary()}\n")
