"""`make load` finds who is to get load, tells Locust what was asked for, and never sends any to prod by its name."""

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from tools import deploy, load
from tools.kubectl import ClusterError
from tools.overlay import Manifest, Overlay

EXPOSED = Manifest("apiVersion: v1\nkind: HTTPRoute\nspec:\n  hostnames:\n  - api.staging.example.com\n")


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """The commands that were started; each ends with 3."""
    commands: list[list[str]] = []

    def run(command: list[str], cwd: Path, check: bool) -> "subprocess.CompletedProcess[str]":
        commands.append(command)
        return subprocess.CompletedProcess(command, 3)

    monkeypatch.setattr(subprocess, "run", run)
    return commands


def reachable(monkeypatch: pytest.MonkeyPatch, *manifests: Manifest) -> None:
    """Let staging be these objects, and a tunnel lead into its cluster."""

    def target(action: str, environment: str) -> Any:
        assert (action, environment) == ("smoke", "staging")
        return SimpleNamespace(overlay=Overlay(environment, manifests), cluster="its cluster")

    @contextmanager
    def tunnel(cluster: str, patience: float) -> Iterator[str]:
        assert cluster == "its cluster"
        yield "http://127.0.0.1:40000"

    monkeypatch.setattr(deploy, "target", target)
    monkeypatch.setattr(load, "tunnel", tunnel)
    monkeypatch.delenv("URL", raising=False)


@pytest.mark.parametrize(
    ("environment", "variables", "host"),
    [
        ("", {}, "http://127.0.0.1:8000"),
        ("", {"HTTP_PORT": "8080"}, "http://127.0.0.1:8080"),
        ("", {"HOST": "http://localhost:1"}, "http://localhost:1"),
        ("prod", {"HOST": "https://api.prod.example.com"}, "https://api.prod.example.com"),
    ],
)
def test_load_is_for_who_was_named(
    environment: str, variables: dict[str, str], host: str, started: list[list[str]]
) -> None:
    assert load.main(environment, variables) == 3
    ((*command,),) = started
    assert f"--host={host}" in command


@pytest.mark.parametrize(
    ("manifests", "host"), [((EXPOSED,), "https://api.staging.example.com"), ((), "http://127.0.0.1:40000")]
)
def test_load_of_an_environment_is_for_its_address_or_goes_through_a_tunnel(
    manifests: tuple[Manifest, ...], host: str, started: list[list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    reachable(monkeypatch, *manifests)

    assert load.main("staging", {}) == 3
    ((*command,),) = started
    assert command[:3] == [sys.executable, "-m", "locust"]
    assert f"--host={host}" in command
    assert "--shape=steady" in command


def test_what_is_asked_for_is_told_to_locust(started: list[list[str]]) -> None:
    load.main("", {"SHAPE": "step", "RATE": "50", "USERS": "", "RUN_TIME": "30s", "ALLOW_HOST": "app", "PATH": "/bin"})

    ((*command,),) = started
    assert command[-7:-3] == ["--shape=step", "--rate=50", "--run-time=30s", "--allow-host=app"]


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (deploy.RefusedError("one reason", "another"), "- one reason\n- another\n"),
        (ClusterError("no tunnel"), "- no tunnel\n"),
    ],
)
def test_what_stands_in_the_way_is_told_and_nothing_sent(
    error: Exception,
    told: str,
    started: list[list[str]],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def target(action: str, environment: str) -> None:
        raise error

    monkeypatch.setattr(deploy, "target", target)

    assert load.main("staging", {}) == 2
    assert capsys.readouterr().err == f"Nothing was sent.\n{told}"
    assert not started


def test_prod_gets_no_load_by_its_name(started: list[list[str]], capsys: pytest.CaptureFixture[str]) -> None:
    assert load.main("prod", {}) == 2
    assert "prod gets no load by its name" in capsys.readouterr().err
    assert not started
