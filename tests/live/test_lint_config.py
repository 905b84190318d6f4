"""`make lint-config` of a service: each program takes the file that it will read, and refuses it when it is broken."""

import os
import subprocess
from uuid import uuid4

import bases
import pytest
from conftest import Bake
from services import make, python_of
from stack import Stack

pytestmark = pytest.mark.live

# How often each program judges: Prometheus' its configuration, two folders of rules, and the tests of both.
SERVICES = {"prometheus": 5, "alertmanager": 2, "otel-collector": 1, "jaeger": 1, "loki": 1}


@pytest.fixture
def stack(bake: Bake) -> Stack:
    """A service whose images are there, not started."""
    bases.require()
    stack = Stack(bake(), f"lint-{uuid4().hex[:8]}")
    stack.prepare()
    make(stack.project)
    return stack


def lint(stack: Stack, *services: str) -> "subprocess.CompletedProcess[str]":
    """Run what `make lint-config` runs, for these services."""
    python = python_of(stack.project)
    command = [str(python), "-m", "tools.lint_config", *services]
    return subprocess.run(
        command, cwd=stack.project, env=stack.environment, capture_output=True, text=True, check=False
    )


def judged(stack: Stack) -> list[str]:
    """The services whose programs are here: a stand-in for Loki cannot judge Loki's file, unless `LOKI` names one."""
    return [name for name in SERVICES if name != "loki" or "loki" not in stack.stood_in or os.environ.get("LOKI")]


def test_every_program_takes_its_file(stack: Stack) -> None:
    done = lint(stack, *judged(stack))

    assert done.returncode == 0, done.stderr
    assert len(done.stdout.splitlines()) == sum(SERVICES[name] for name in judged(stack))


@pytest.mark.parametrize(
    ("file", "was", "becomes", "told"),
    [
        ("prometheus/prometheus.yml", "scrape_interval: 5s", "scrape_interval: often", "not a valid duration"),
        ("prometheus/alerts-stack.yml", "} == 0", "} ==", "could not parse expression"),
        ("prometheus/alerts-stack.yml", "for: 1m", "for: 9m", "FAILED"),
        ("alertmanager/alertmanager.yml", "receiver: page", "receiver: anyone", 'undefined receiver "anyone"'),
        ("alertmanager/templates/notification.tmpl", "humanizeDuration", "humanDuration", "humanDuration"),
        ("alertmanager/templates/notification.tmpl", ".StartsAt.UTC", ".StartedAt.UTC", "StartedAt"),
        ("otel-collector/config.yaml", "exporters: [otlp_http/loki]", "exporters: [loki]", "loki"),
        ("otel-collector/config.yaml", "ParseJSON(log.body)", "ParseJSN(log.body)", "ParseJSN"),
        ("jaeger/jaeger.yaml", "trace_storage: memory", "trace_store: memory", "trace_store"),
    ],
)
def test_a_broken_file_is_refused_in_the_words_of_its_program(
    file: str, was: str, becomes: str, told: str, stack: Stack
) -> None:
    path = stack.project / "observability" / file
    text = path.read_text(encoding="utf-8")
    assert was in text
    path.write_text(text.replace(was, becomes, 1), encoding="utf-8")

    done = lint(stack, file.partition("/")[0])

    assert done.returncode == 1
    assert told in done.stderr, done.stderr


def test_a_broken_compose_file_is_refused_in_the_words_of_compose(stack: Stack) -> None:
    path = stack.project / "docker-compose.yml"
    path.write_text(path.read_text(encoding="utf-8").replace("restart: unless-stopped", "restart: [never]", 1))

    done = lint(stack)

    assert done.returncode == 1
    assert "restart" in done.stderr
