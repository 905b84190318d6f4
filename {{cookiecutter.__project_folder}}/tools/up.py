"""`make up`: look whether this machine can run the stack, start it, wait until all of it serves, and say where it is.

Everything that stands in the way is told at once, with what to do, and before anything is started.
"""

import json
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Container, Iterable, Mapping
from typing import Any

from tools.compose import ROOT, DockerError, Port, docker, ports, services, version
from tools.facts import FACTS

# `start_interval` of health checks came with these.
ENGINE = (25, 0)
COMPOSE = (2, 24)

# The limits of all containers are not reached together.
SHARE_OF_LIMITS = 0.6
GIB = 1 << 30

PATIENCE_SECONDS = 300

# Where a person looks, in this order: service, port inside it, path, what is there.
LINKS = (
    ("app", FACTS["ports"]["http"], "/docs", "the API"),
    ("app", FACTS["ports"]["metrics"], "/metrics", "its metrics"),
    ("grafana", 3000, "/", "Grafana: metrics, logs and traces, each leading to the others (admin, admin)"),
    ("prometheus", 9090, "/targets", "Prometheus: what is measured"),
    ("alertmanager", 9093, "/", "Alertmanager: what is wrong"),
    ("jaeger", 16686, "/", "Jaeger: traces"),
)

# Their images hold nothing that the engine could check them with: service, port inside it.
CHECKED_FROM_OUTSIDE = (("otel-collector", 13133),)


def engine_problems(docker: Callable[..., str] = docker) -> list[str]:
    """What is wrong with Docker itself; nothing else can be asked until it is right."""
    try:
        engine = docker("version", "--format", "{" + "{.Server.Version}}")
    except DockerError as error:
        return [str(error)]
    problems = []
    if version(engine) < ENGINE:
        problems.append(f"The Docker engine is {engine}: this needs {ENGINE[0]} or newer.")
    try:
        compose = docker("compose", "version", "--short")
    except DockerError:
        return [*problems, "Docker Compose is not installed: https://docs.docker.com/compose/install/"]
    if version(compose) < COMPOSE:
        problems.append(f"Docker Compose is {compose}: this needs {COMPOSE[0]}.{COMPOSE[1]} or newer.")
    return problems


def memory_problems(known: Mapping[str, Any], available: int) -> list[str]:
    """Whether the engine has the memory, in bytes, that the services need."""
    limits = sum(int(service.get("mem_limit", 0)) for service in known.values())
    needed = int(limits * SHARE_OF_LIMITS)
    if available >= needed:
        return []
    has, needs = f"{available / GIB:.1f} GiB", f"{needed / GIB:.1f} GiB"
    return [f"The engine has {has} of memory: this needs {needs}. Docker Desktop has a setting for it (Resources)."]


def is_free(port: int) -> bool:
    """Whether nobody listens on this port of the loopback address."""
    with socket.socket() as server:
        # As the engine does: what has closed and still waits for late packets is no obstacle.
        server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            server.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True


def port_problems(wanted: Iterable[Port], ours: Container[int], free: Callable[[int], bool]) -> list[str]:
    """Ports that others have taken, but for those that this stack has already."""
    return [
        f"Port {number} is taken, and {port.service} needs it. Who has it: ss -ltnp 'sport = :{number}' (on macOS: "
        f"lsof -i :{number}). To take another: {port.variable}={number % 50_000 + 10_000} make up"
        for port in wanted
        if (number := port.published) not in ours and not free(number)
    ]


def running_ports() -> set[int]:
    """The ports of this machine that this stack has now."""
    lines = docker("compose", "ps", "--format", "json").splitlines()
    containers = [json.loads(line) for line in lines]
    # Compose before 2.21 printed one array.
    flat = [one for entry in containers for one in (entry if isinstance(entry, list) else [entry])]
    return {port["PublishedPort"] for one in flat for port in one.get("Publishers") or [] if port["PublishedPort"]}


def problems() -> list[str]:
    """Everything that stands in the way."""
    found = engine_problems()
    if found:
        return found
    memory = int(docker("info", "--format", "{" + "{.MemTotal}}"))
    return memory_problems(services(), memory) + port_problems(ports(), running_ports(), is_free)


def links(known: Iterable[Port]) -> str:
    """Where a person looks, a line each."""
    published = {(port.service, port.inside): port.published for port in known}
    found = [
        (f"http://localhost:{published[service, inside]}{path}", text)
        for service, inside, path, text in LINKS
        if (service, inside) in published
    ]
    widest = max(len(address) for address, _ in found)
    return "".join(f"  {address:{widest}}  {text}\n" for address, text in found)


def wait_until_healthy(service: str, port: int, patience: float = PATIENCE_SECONDS, pause: float = 0.5) -> None:
    """Wait until a service answers on this port with a success; times in seconds.

    Raises:
        DockerError: it did not within `patience` seconds.
    """
    deadline = time.monotonic() + patience
    while True:
        try:
            urllib.request.urlopen(f"http://127.0.0.1:{port}/", timeout=5).close()
        except OSError as error:
            if time.monotonic() > deadline:
                raise DockerError(f"{service} does not serve: {error}. See `docker compose logs {service}`") from error
            time.sleep(pause)
        else:
            return


def main() -> int:
    """Start everything; the exit code of the process."""
    try:
        if found := problems():
            sys.stderr.write("Nothing was started.\n" + "".join(f"- {problem}\n" for problem in found))
            return 1
        command = ("docker", "compose", "up", "--detach", "--build", "--wait", "--wait-timeout", str(PATIENCE_SECONDS))
        if code := subprocess.run(command, cwd=ROOT, check=False).returncode:
            sys.stderr.write("Not all of it serves: `docker compose ps --all` says what, `docker compose logs` why.\n")
            return code
        known = ports()
        for port in known:
            if (port.service, port.inside) in CHECKED_FROM_OUTSIDE:
                wait_until_healthy(port.service, port.published)
    except DockerError as error:
        sys.stderr.write(f"{error}\n")
        return 1
    sys.stdout.write(f"\n{links(known)}\n`docker compose logs -f app` shows what it says, `make down` stops it.\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
