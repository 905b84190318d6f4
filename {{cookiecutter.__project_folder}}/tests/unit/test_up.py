"""`make up`: what stands in the way is told at once, with what to do."""

import json
import socket
import subprocess
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, HTTPServer
from threading import Thread
from typing import Any

import pytest

from tools import compose, up
from tools.compose import DockerError, Port

SERVICES: dict[str, Any] = {"app": {"mem_limit": "268435456"}, "db": {"mem_limit": "805306368"}}
PORTS = [Port("app", 8000, 8000, "HTTP_PORT"), Port("app", 9000, 59000, "METRICS_PORT")]


def docker_that_says(**answers: str | DockerError) -> Callable[..., str]:
    """A `docker` whose commands, by their first word, print these texts or fail."""

    def docker(*arguments: str) -> str:
        answer = answers[arguments[0]]
        if isinstance(answer, DockerError):
            raise answer
        return answer

    return docker


@pytest.mark.parametrize(
    ("engine", "composer", "expected"),
    [
        ("25.0.0", "2.24.0", []),
        ("28.5.2+dfsg1", "v5.5.0-desktop.1", []),
        ("24.0.9", "2.40.1", ["The Docker engine is 24.0.9: this needs 25 or newer."]),
        ("26.1.5", "2.23.3", ["Docker Compose is 2.23.3: this needs 2.24 or newer."]),
        (
            "20.10.5",
            "1.29.2",
            [
                "The Docker engine is 20.10.5: this needs 25 or newer.",
                "Docker Compose is 1.29.2: this needs 2.24 or newer.",
            ],
        ),
        (
            "26.1.5",
            DockerError("docker: 'compose' is not a docker command."),
            ["Docker Compose is not installed: https://docs.docker.com/compose/install/"],
        ),
        (DockerError("Docker is not installed: …"), "2.24.0", ["Docker is not installed: …"]),
    ],
)
def test_a_docker_that_is_too_old_or_absent_is_told(
    engine: str | DockerError, composer: str | DockerError, expected: list[str]
) -> None:
    assert up.engine_problems(docker_that_says(version=engine, compose=composer)) == expected


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        ("Cannot connect to the Docker daemon at unix:///var/run/docker.sock.", "The Docker engine does not answer"),
        ("permission denied while trying to connect to the Docker daemon socket", "in the group docker"),
        ("failed to connect to the docker API at unix:///var/run/docker.sock", "The Docker engine does not answer"),
        ("yaml: line 3: mapping values are not allowed in this context", "yaml: line 3: mapping values"),
        ("", "`docker info` failed"),
    ],
)
def test_what_docker_says_is_passed_on_with_what_to_do(
    said: str, expected: str, tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake = tmp_path / "docker"
    fake.write_text(f"#!/bin/sh\necho '{said}' >&2\nexit 1\n")
    fake.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")

    with pytest.raises(DockerError) as error:
        compose.docker("info")

    assert expected in str(error.value)
    assert said in str(error.value)


def test_without_docker_it_is_said_where_to_get_it(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))

    with pytest.raises(DockerError, match=r"not installed: https://docs\.docker\.com"):
        compose.docker("info")


def test_a_text_without_a_version_is_no_version() -> None:
    with pytest.raises(DockerError, match="'dev' is no version"):
        compose.version("dev")


def test_memory_is_judged_by_the_limits_of_all_services() -> None:
    enough = int(1073741824 * up.SHARE_OF_LIMITS)

    assert up.memory_problems(SERVICES, enough) == []
    (problem,) = up.memory_problems(SERVICES, enough - 1)
    assert "has 0.6 GiB of memory: this needs 0.6 GiB" in problem


def test_a_port_that_others_have_is_told_with_its_variable() -> None:
    problems = up.port_problems(PORTS, ours=(), free=lambda _: False)

    assert [problem.partition(".")[0] for problem in problems] == [
        "Port 8000 is taken, and app needs it",
        "Port 59000 is taken, and app needs it",
    ]
    assert [problem.rpartition(": ")[2] for problem in problems] == [
        "HTTP_PORT=18000 make up",
        "METRICS_PORT=19000 make up",
    ]


@pytest.mark.parametrize(("ours", "taken"), [((8000, 59000), ()), ((), (3000,)), ((8000,), (59000,))])
def test_a_port_that_is_free_or_of_this_stack_is_no_obstacle(ours: tuple[int, ...], taken: tuple[int, ...]) -> None:
    problems = up.port_problems(PORTS, ours, free=lambda port: port not in {*ours, *taken})

    assert len(problems) == len({*taken} & {8000, 59000})


def test_ports_are_those_that_variables_give_and_each_has_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    written = ["127.0.0.1:${HTTP_PORT:-8000}:8000", "127.0.0.1:${METRICS_PORT:-9000}:9000"]
    meant = [{"target": 8000, "published": "8000"}, {"target": 9000, "published": "59000"}]

    def docker(*arguments: str) -> str:
        ports = written if "--no-interpolate" in arguments else meant
        return json.dumps({"services": {"app": {"ports": ports}, "db": {}}})

    monkeypatch.setattr(compose, "docker", docker)

    assert compose.ports() == PORTS
    assert set(compose.services()) == set(compose.services(with_profiles=True)) == {"app", "db"}


def test_whether_a_port_is_free_is_asked_of_the_system() -> None:
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen()
        port = server.getsockname()[1]
        assert not up.is_free(port)

    assert up.is_free(port)


@pytest.mark.parametrize("lines", ["objects", "array"])
def test_ports_of_running_containers_are_those_of_this_machine(lines: str, monkeypatch: pytest.MonkeyPatch) -> None:
    containers = [{"Publishers": [{"PublishedPort": 8000}, {"PublishedPort": 0}]}, {"Publishers": None}]
    said = json.dumps(containers) if lines == "array" else "\n".join(map(json.dumps, containers))
    monkeypatch.setattr(up, "docker", docker_that_says(compose=said))

    assert up.running_ports() == {8000}


def test_links_lead_to_the_ports_that_services_really_have() -> None:
    assert up.links(PORTS) == (
        "  http://localhost:8000/docs      the API\n  http://localhost:59000/metrics  its metrics\n"
    )


def test_a_service_that_cannot_be_checked_from_inside_is_asked_from_outside() -> None:
    answers = iter([503, 200])

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(next(answers))
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        port = server.server_address[1]
        thread = Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        up.wait_until_healthy("otel-collector", port, patience=30, pause=0)
        server.shutdown()
        thread.join()
    assert next(answers, None) is None


def test_a_service_that_stays_silent_is_named() -> None:
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        port = server.getsockname()[1]

        with pytest.raises(DockerError, match=r"otel-collector does not serve: .*`docker compose logs otel-collector`"):
            up.wait_until_healthy("otel-collector", port, patience=0, pause=0)


def test_all_obstacles_are_told_together_and_nothing_is_started(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(up, "engine_problems", list)
    monkeypatch.setattr(up, "services", lambda: SERVICES)
    monkeypatch.setattr(up, "ports", lambda: PORTS)
    monkeypatch.setattr(up, "docker", docker_that_says(info="1000", compose=""))
    monkeypatch.setattr(up, "is_free", lambda _: False)
    monkeypatch.setattr(subprocess, "run", lambda *_, **__: pytest.fail("something was started"))

    assert up.main() == 1

    said = capsys.readouterr().err.splitlines()
    assert said[0] == "Nothing was started."
    assert [line[:8] for line in said[1:]] == ["- The en", "- Port 8", "- Port 5"]
