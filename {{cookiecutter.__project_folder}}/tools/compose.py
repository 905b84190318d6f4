"""What `docker compose` knows of this project, for the other tools."""

import json
import re
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

ROOT = Path(__file__).resolve().parent.parent


class DockerError(Exception):
    """Docker cannot do what is asked; the message says why and what to do, for people."""


def docker(*arguments: str) -> str:
    """What `docker` prints.

    Raises:
        DockerError: it is not installed, its engine does not answer, or it failed.
    """
    try:
        done = subprocess.run(["docker", *arguments], cwd=ROOT, capture_output=True, text=True, check=False)
    except FileNotFoundError as error:
        raise DockerError("Docker is not installed: https://docs.docker.com/engine/install/") from error
    said = done.stderr.strip()
    if done.returncode and re.search(r"permission denied|docker (daemon|API)", said, re.IGNORECASE):
        raise DockerError(
            "The Docker engine does not answer. Start it (Linux: systemctl start docker; elsewhere: Docker Desktop); "
            f"on Linux, your user has to be in the group docker.\n  It said: {said}"
        )
    if done.returncode:
        raise DockerError(said or f"`docker {' '.join(arguments)}` failed")
    return done.stdout.strip()


def version(text: str) -> tuple[int, int]:
    """Major and minor of a version such as `v2.40.3` or `28.5.2+dfsg1`.

    Raises:
        DockerError: the text holds no version.
    """
    found = re.search(r"(\d+)\.(\d+)", text)
    if not found:
        raise DockerError(f"{text!r} is no version")
    return int(found[1]), int(found[2])


def _config(*flags: str, profiles: Sequence[str] = ()) -> dict[str, Any]:
    described = docker("compose", *profiles, "config", *flags, "--format", "json")
    found: dict[str, Any] = json.loads(described)["services"]
    return found


def services(*, with_profiles: bool = False) -> dict[str, Any]:
    """The services that are started unless told otherwise, or all; with anchors and variables resolved."""
    return _config(profiles=["--profile", "*"] if with_profiles else [])


class Port(NamedTuple):
    """A port of this machine that leads into a container.

    Args:
        service: whose container.
        inside: the port in it.
        published: the port of this machine.
        variable: what moves it.
    """

    service: str
    inside: int
    published: int
    variable: str


def ports() -> list[Port]:
    """The ports that the services without a profile take."""
    variables = {
        (service, int(inside)): variable
        for service, config in _config("--no-interpolate").items()
        for variable, inside in re.findall(r"\$\{(\w+):-\d+\}:(\d+)", " ".join(config.get("ports", [])))
    }
    return [
        Port(service, port["target"], int(port["published"]), variables[service, port["target"]])
        for service, config in services().items()
        for port in config.get("ports", [])
    ]
