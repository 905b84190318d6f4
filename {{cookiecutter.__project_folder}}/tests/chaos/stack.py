"""The stack of docker-compose.yml as the place of a drill: a copy, on ports of its own, removed afterwards.

Its containers, networks and volumes carry a name that nothing else has. So a drill never touches what `make up`
started, alerts see no trace of an earlier drill, and what a drill left behind that was killed is found by that name.
"""

import json
import os
import socket
import subprocess
import tempfile
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from app.core.config import FACTS, Environment
from tests.chaos.observe import Targets
from tests.chaos.spec import (
    Drill,
    DrillError,
    Execute,
    Load,
    Network,
    Overrides,
    Pause,
    Process,
    Refuse,
    Stop,
    Toxic,
)
from tools.compose import ROOT, DockerError

NAME = f"{FACTS.service.name}-drill"
PROXY = "toxiproxy"
WATCHERS = ("prometheus", "alertmanager", "alert-inbox")
FAULTS = "/tmp/faults.json"  # noqa: S108 - in a container, on a file system of its own
PATIENCE_SECONDS = 180


Run = Callable[[Sequence[str], Mapping[str, str]], str]


def run(command: Sequence[str], variables: Mapping[str, str]) -> str:
    """What a command prints. It is in a group of its own: a Ctrl-C that ends the drill must not end its cleaning up.

    Raises:
        DockerError: it failed.
    """
    try:
        done = subprocess.run(
            command,
            cwd=ROOT,
            env={**os.environ, **variables},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
            start_new_session=True,
        )
    except FileNotFoundError as error:
        raise DockerError(f"{command[0]} is not installed") from error
    if done.returncode:
        raise DockerError(f"{' '.join(command)}\n{done.stderr.strip()[-2000:]}")
    return done.stdout.strip()


def free_ports(count: int) -> list[int]:
    """Ports of the loopback that nobody has."""
    held = [socket.socket() for _ in range(count)]
    try:
        for one in held:
            one.bind(("127.0.0.1", 0))
        return [int(one.getsockname()[1]) for one in held]
    finally:
        for one in held:
            one.close()


class Stack:
    """A copy of the stack for one drill.

    Args:
        drill: what will be done to it.
        protected: whether the protection that the drill is about is on.
        run: runs a command.
    """

    def __init__(self, drill: Drill, *, protected: bool = True, run: Run = run) -> None:
        self._drill = drill
        self._protected = protected
        self._run = run
        self._ports: dict[tuple[str, int], int] = {}
        self._files = os.environ.get("COMPOSE_FILE", "docker-compose.yml")
        self._override: Path | None = None

    def refusal(self) -> str:
        """Why no drill may happen here: the stack says that it is production, or its engine is another machine's."""
        environments = {
            name: service["environment"]["ENVIRONMENT"]
            for name, service in self._config().items()
            if "ENVIRONMENT" in (service.get("environment") or {})
        }
        if production := [name for name, said in environments.items() if said == Environment.PRODUCTION]:
            return f"docker-compose.yml says that {', '.join(production)} is production"
        endpoint = os.environ.get("DOCKER_HOST") or self._docker(
            "context", "inspect", "--format", "{" + "{.Endpoints.docker.Host}}"
        )
        if not endpoint.startswith(("unix://", "npipe://")):
            return f"the Docker engine is that of another machine, {endpoint}"
        return ""

    def leftovers(self) -> list[str]:
        """Containers, networks and volumes that bear the name of drills."""
        label = f"--filter=label=com.docker.compose.project={NAME}"
        kinds = (("ps", "--all"), ("network", "ls"), ("volume", "ls"))
        return [one for kind in kinds for one in self._docker(*kind, label, "--quiet").split()]

    def start(self) -> Targets:
        """Start the service, what it depends on, and what watches it."""
        known = self._config()
        watchers = [name for name in WATCHERS if self._is_started(known, name)]
        services = ["app", *watchers, *self._drill.needs]
        if missing := set(services) - known.keys():
            raise DrillError(f"{self._drill.name} needs {', '.join(sorted(missing))}, which this stack does not have")
        self._write_override(known)
        self._compose("build", "--quiet", "app")
        if self._drill.misbehaves:
            image = known["app"]["image"]
            self._docker("build", "--quiet", f"--build-arg=IMAGE={image}", "--tag", _faulty(image), "tests/chaos/image")
        self._compose("up", "--detach", "--wait", f"--wait-timeout={PATIENCE_SECONDS}", *services)
        return self._targets(known, watchers)

    def inject(self) -> float | None:
        """Begin the fault."""
        match self._drill.fault:
            case Stop(service=service):
                self._compose("stop", service)
            case Pause(service=service):
                self._compose("pause", service)
            case Refuse(proxy=proxy):
                self._proxy(f"proxies/{proxy}", {"enabled": False})
            case Network(proxy=proxy, toxics=toxics):
                for number, toxic in enumerate(toxics):
                    self._proxy(f"proxies/{proxy}/toxics", _described(number, toxic))
            case Execute(service=service, command=command):
                self._compose("exec", "--detach", service, *command)
            case Load(requests_per_second=rate):
                return rate
            case Process() as fault:
                self._misbehave(fault.model_dump(exclude={"kind"}))
            case other:
                raise DrillError(f"the fault {other.kind} needs a cluster")
        return None

    def restore(self) -> None:
        """End the fault."""
        match self._drill.fault:
            case Stop(service=service):
                self._compose("start", service)
            case Pause(service=service) if self._is_paused(service):
                self._compose("unpause", service)
            case Refuse() | Network():
                self._proxy("reset", {})
            case Execute(service=service, undo=undo):
                self._compose("exec", "--no-TTY", service, *undo)
            case Process():
                self._misbehave({})
            case _:
                pass

    def replicas(self) -> int:
        """There is one."""
        return 1

    def clean(self) -> None:
        """Remove all that bears the name of drills."""
        if paused := self._docker(
            "ps", "--quiet", f"--filter=label=com.docker.compose.project={NAME}", "--filter=status=paused"
        ).split():
            self._docker("unpause", *paused)
        self._compose("--profile=*", "down", "--volumes", "--remove-orphans", "--timeout=5")
        if self._override:
            self._override.unlink()
            self._override = None

    @staticmethod
    def _is_started(known: Mapping[str, Any], service: str) -> bool:
        return service in known and not known[service].get("profiles")

    def _docker(self, *words: str) -> str:
        return self._run(("docker", *words), self._variables())

    def _compose(self, *words: str) -> str:
        return self._docker("compose", *words)

    def _variables(self) -> dict[str, str]:
        files = self._files + (f"{os.pathsep}{self._override}" if self._override else "")
        return {"COMPOSE_PROJECT_NAME": NAME, "COMPOSE_PROGRESS": "quiet", "COMPOSE_FILE": files}

    def _config(self) -> dict[str, Any]:
        services: dict[str, Any] = json.loads(self._compose("--profile=*", "config", "--format=json"))["services"]
        return services

    def _write_override(self, known: Mapping[str, Any]) -> None:
        """Say in a further Compose file what is different, and give each published port a free one."""
        published = [
            (name, port["target"]) for name, service in known.items() for port in service.get("ports", []) if port
        ]
        numbers = dict(zip(published, free_ports(len(published)), strict=True))
        services: dict[str, dict[str, Any]] = {}
        for (name, target), number in numbers.items():
            ports = services.setdefault(name, {}).setdefault("ports", [])
            ports.append({"target": target, "published": str(number), "host_ip": "127.0.0.1", "protocol": "tcp"})
            self._ports[name, target] = number
        app = services.setdefault("app", {})
        # Nothing collects logs and spans here, unless the drill asks for it.
        app["logging"] = {"driver": "local", "options": {}}
        environment = {"OTEL_EXPORTER_OTLP_ENDPOINT": "", **self._drill.app.environment}
        self._apply(app, environment, self._drill.app)
        if not self._protected:
            self._apply(app, environment, self._drill.protection.off)
        app["environment"] = environment
        if self._drill.misbehaves:
            app["image"] = _faulty(known["app"]["image"])
        for name, command in self._drill.commands.items():
            services.setdefault(name, {})["command"] = list(command)
        handle, path = tempfile.mkstemp(prefix=f"{NAME}-", suffix=".yml")
        self._override = Path(path)
        # JSON is YAML, but for the tag that replaces what Compose would add up.
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write(json.dumps({"services": services}).replace('"ports": [', '"ports": !override ['))

    @staticmethod
    def _apply(app: dict[str, Any], environment: dict[str, str], overrides: Overrides) -> None:
        environment.update(overrides.environment)
        if overrides.mem_limit is not None:
            app["mem_limit"] = app["memswap_limit"] = overrides.mem_limit

    def _targets(self, known: Mapping[str, Any], watchers: Sequence[str]) -> Targets:
        def url(service: str, port: int) -> str:
            return f"http://127.0.0.1:{self._ports[service, port]}" if service in {"app", *watchers} else ""

        return Targets(
            service=url("app", FACTS.ports.http),
            metrics=f"{url('app', FACTS.ports.metrics)}/metrics",
            prometheus=url("prometheus", 9090),
            alertmanager=url("alertmanager", 9093),
            absent=frozenset(known) - set(watchers) - set(self._drill.needs) - {"app"},
        )

    def _proxy(self, path: str, body: Mapping[str, Any]) -> None:
        """Tell the proxy what to do.

        Raises:
            DrillError: it does not.
        """
        url = f"http://127.0.0.1:{self._ports[PROXY, 8474]}/{path}"
        request = urllib.request.Request(url, json.dumps(body).encode(), method="POST")
        try:
            with urllib.request.urlopen(request, timeout=10):
                return
        except urllib.error.URLError as error:
            raise DrillError(f"the proxy does not do {path}: {error}") from error

    def _misbehave(self, faults: Mapping[str, Any]) -> None:
        script = f"open({FAULTS!r}, 'w').write({json.dumps(faults)!r})"
        self._compose("exec", "--no-TTY", "app", "python3.13", "-c", script)

    def _is_paused(self, service: str) -> bool:
        return bool(self._compose("ps", "--quiet", "--status=paused", service))


def _faulty(image: str) -> str:
    """The name of the image whose service can be told to misbehave."""
    return f"{image.partition(':')[0]}:drill"


def _described(number: int, toxic: Toxic) -> dict[str, Any]:
    return {"name": f"{toxic.type}-{number}", **toxic.model_dump()}
