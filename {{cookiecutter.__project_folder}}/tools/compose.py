"""What `docker compose` knows of this project, for the other tools."""

import json
import re
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
FILE = ROOT / "docker-compose.yml"


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


def resolved() -> dict[str, Any]:
    """The file with anchors and variables resolved; of the services, those without a profile."""
    config: dict[str, Any] = json.loads(docker("compose", "config", "--format", "json"))
    return config


def published(services: Mapping[str, Any]) -> dict[int, str]:
    """The ports of this machine that services take, each with its service."""
    return {int(port["published"]): name for name, service in services.items() for port in service.get("ports", [])}


def variables() -> dict[int, str]:
    """The variables that move ports, by the ports that they have without."""
    found = re.findall(r"\$\{(\w+_PORT):-(\d+)\}", FILE.read_text(encoding="utf-8"))
    return {int(port): name for name, port in found}
