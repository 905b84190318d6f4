"""A rendered stack in a container engine: started by the commands of its users, and asked as they ask it."""

import json
import os
import re
import signal
import subprocess
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlencode
from uuid import uuid4

import bases
import pytest
import standins
from conftest import ROOT
from services import environment_of, make

from demo.client import Client, Response
from demo.ports import available

OK = 200


class Stack:
    """The services of one project's compose file, on ports that nobody else has.

    Args:
        project: the generated tree.
        name: what Compose calls the project; no other may have it.
    """

    def __init__(self, project: Path, name: str) -> None:
        self.project = project
        self.name = name
        text = (project / "docker-compose.yml").read_text(encoding="utf-8")
        variables = sorted(set(re.findall(r"\$\{(\w+_PORT):-\d+\}", text)))
        self.ports = dict(zip(variables, available([0] * len(variables)), strict=True))
        self.environment = os.environ | {variable: str(port) for variable, port in self.ports.items()}
        self.environment |= {"COMPOSE_PROJECT_NAME": name, "COMPOSE_PROGRESS": "quiet"}
        self.absent: frozenset[str] = frozenset()
        self.stood_in: frozenset[str] = frozenset()
        self.said = ""

    def prepare(self) -> None:
        """Have all images, and use stand-ins where they cannot be pulled."""
        bases.require()
        self.compose("build", "--quiet", "app")
        override = self.project.parent / f"{self.name}.yml"
        image = self.config()["app"]["image"]
        makers = {**standins.MAKERS, "grafana/loki": standins.loki(image)}
        self.absent = standins.prepare(self.project / "docker-compose.yml", override, makers)
        self.environment["COMPOSE_FILE"] = f"docker-compose.yml{os.pathsep}{override}"
        self.stood_in = frozenset(
            service
            for service, config in self.config().items()
            if "build" not in config and not standins.is_upstream(config["image"])
        )

    def up(self) -> None:
        """Start it as the README says; what that prints is kept in `said`."""
        done = self.make("up")
        if done.returncode:
            pytest.fail(f"make up\n{done.stdout[-3000:]}{done.stderr[-5000:]}", pytrace=False)
        self.said = done.stdout

    def make(self, *words: str) -> "subprocess.CompletedProcess[str]":
        """Run a target of the project's Makefile."""
        make(self.project)
        return self._run(*self.command(*words))

    def command(self, *words: str) -> tuple[str, ...]:
        """How a target of the Makefile is run in the environment that `make` has made."""
        environment = f"VENV={environment_of(self.project)}"
        return ("make", "--assume-old=requirements.txt", environment, *words)

    def compose(self, *words: str) -> str:
        """What `docker compose` prints; a failure fails the test."""
        done = self._run("docker", "compose", *words)
        if done.returncode:
            pytest.fail(f"docker compose {' '.join(words)}\n{done.stdout[-3000:]}{done.stderr[-3000:]}", pytrace=False)
        return done.stdout

    def wait(self, service: str) -> int:
        """Wait until a service ends; its exit code."""
        return self._run("docker", "compose", "wait", service).returncode

    def _run(self, *command: str) -> "subprocess.CompletedProcess[str]":
        return subprocess.run(
            command, cwd=self.project, env=self.environment, capture_output=True, text=True, check=False
        )

    def config(self, *profiles: str) -> Mapping[str, Mapping[str, Any]]:
        """The services as Compose resolves them."""
        flags = [f"--profile={profile}" for profile in profiles]
        services: Mapping[str, Mapping[str, Any]]
        services = json.loads(self.compose(*flags, "config", "--format=json"))["services"]
        return services

    def containers(self) -> Mapping[str, Mapping[str, Any]]:
        """What the engine knows of each container, ended ones included, by service."""
        ids = self.compose("ps", "--all", "--quiet").split()
        described = json.loads(standins.run("docker", "inspect", *ids)) if ids else []
        return {one["Config"]["Labels"]["com.docker.compose.service"]: one for one in described}

    def unhealthy(self) -> Mapping[str, str]:
        """The state of each service that does not run or is not healthy; nothing of one that has done its work."""
        found = {}
        for service, container in self.containers().items():
            state = container["State"]
            health = state.get("Health", {}).get("Status", "healthy")
            done = state["Status"] == "exited" and state["ExitCode"] == 0 and service == "migrate"
            if not done and (state["Status"], health) != ("running", "healthy"):
                found[service] = f"{state['Status']}, {health}"
        return found

    def process(self, service: str) -> int:
        """The first process of the service's container; 0 while there is none."""
        return int(self.containers()[service]["State"]["Pid"])

    def crash(self, service: str) -> None:
        """End the service's first process as the kernel does when memory is short."""
        os.kill(self.process(service), signal.SIGKILL)

    def remove(self) -> None:
        """Do what the README says to leave nothing."""
        self.compose("--profile=*", "down", "--volumes", "--timeout=10")

    def leftovers(self) -> list[str]:
        """Containers, networks and volumes of this project that are still there."""
        label = f"--filter=label=com.docker.compose.project={self.name}"
        commands = (("ps", "--all"), ("network", "ls"), ("volume", "ls"))
        return [line for command in commands for line in standins.run("docker", *command, label, "--quiet").split()]

    def client(self, variable: str) -> Client:
        """Who asks the port that this variable moves."""
        return Client(self.ports[variable], timeout=20)

    def ask(self, correlation_id: str, path: str = "/api/v1/items", method: str = "GET") -> Response:
        """Send the service one request."""
        return self.client("HTTP_PORT").send(method, path, {"X-Correlation-ID": correlation_id})

    def prometheus(self, query: str, endpoint: str = "query", **arguments: str) -> Any:
        """The data of Prometheus' answer to a query."""
        parameters = urlencode({"query": query, **arguments})
        return self._data(self.client("PROMETHEUS_PORT").send("GET", f"/api/v1/{endpoint}?{parameters}"))

    def value(self, query: str) -> float | None:
        """The one value of a query, if there is one."""
        result = self.prometheus(query)["result"]
        return float(result[0]["value"][1]) if result else None

    def loki(self, query: str) -> Any:
        """The data of Loki's answer to a query: metric queries as of now, others over the last hour."""
        endpoint = "query_range" if query.startswith("{") else "query"
        parameters = urlencode({"query": query, "limit": "5000"})
        return self._data(self.client("LOKI_PORT").send("GET", f"/loki/api/v1/{endpoint}?{parameters}"))["result"]

    def lines(self, query: str) -> list[dict[str, Any]]:
        """The log lines that Loki has for a query, as the service wrote them."""
        return [json.loads(line) for stream in self.loki(query) for _, line in stream["values"]]

    def traces(self, **tags: str) -> list[Mapping[str, Any]]:
        """The traces that Jaeger has of the service with these tags."""
        parameters = urlencode({"service": "sre-demo-api", "tags": json.dumps(tags), "lookback": "1h", "limit": "20"})
        found: list[Mapping[str, Any]]
        found = self._data(self.client("JAEGER_PORT").send("GET", f"/api/traces?{parameters}"))
        return found

    @staticmethod
    def _data(answer: Response) -> Any:
        if answer.status != OK:
            pytest.fail(f"{answer.url}: {answer.status} {answer.body[:500]}")
        return json.loads(answer.body)["data"]


def tags_of(trace: Mapping[str, Any]) -> Iterable[dict[str, Any]]:
    """The tags of each span of one of Jaeger's traces."""
    return ({tag["key"]: tag["value"] for tag in span["tags"]} for span in trace["spans"])


def started(cookies: Any, prefix: str) -> Iterator[Stack]:
    """The stack of the default answers, by a name that nothing else has; nothing of it stays."""
    project = Path(cookies.bake(template=str(ROOT)).project_path)
    stack = Stack(project, f"{prefix}-{uuid4().hex[:8]}")
    try:
        stack.prepare()
        stack.up()
        yield stack
    finally:
        stack.remove()
    assert stack.leftovers() == []


def for_drills(cookies: Any) -> Iterator[Stack]:
    """A service with its environment and images, of which nothing is started. Nothing else has its name."""
    slug = f"drilled-{uuid4().hex[:8]}"
    project = Path(cookies.bake(extra_context={"project_slug": slug}, template=str(ROOT)).project_path)
    stack = Stack(project, slug)
    stack.prepare()
    stack.make("help")
    yield stack
    standins.run("docker", "image", "rm", "--force", f"{slug}:production", f"{slug}:drill")
