"""The real components of the stack: each is built from its pins, and says that it is the release that they name."""

import subprocess
from pathlib import Path

import components
import pytest

pytestmark = pytest.mark.ci

# How each program is asked, and what surrounds the release in its answer.
ANSWERS = {
    ("alertmanager", "alertmanager"): ("--version", "alertmanager, version {} "),
    ("alertmanager", "amtool"): ("--version", "amtool, version {} "),
    ("cadvisor", "cadvisor"): ("--version", "cAdvisor version {}\n"),
    ("jaeger", "jaeger"): ("version", '"gitVersion":"{}"'),
    ("kustomize", "kustomize"): ("version", "v{}\n"),
    ("otel-collector", "otelcol"): ("--version", "otelcol version {}\n"),
    ("prometheus", "prometheus"): ("--version", "prometheus, version {} "),
    ("prometheus", "promtool"): ("--version", "promtool, version {} "),
}


@pytest.mark.parametrize(("component", "program"), ANSWERS)
def test_each_program_is_built_and_answers_the_release_that_is_pinned(component: str, program: str) -> None:
    argument, answer = ANSWERS[component, program]

    asked = (components.build(component) / program, argument)
    done = subprocess.run(asked, capture_output=True, text=True, check=True)

    assert answer.format(components.release(component)) in done.stdout


def test_a_component_that_was_built_is_not_built_again() -> None:
    program = components.build("cadvisor") / "cadvisor"
    before = program.stat().st_mtime_ns

    components.build("cadvisor")

    assert program.stat().st_mtime_ns == before


def test_other_pins_are_another_component(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = components.fingerprint("cadvisor")
    for file in (components.TOOLS / "cadvisor").iterdir():
        (tmp_path / "cadvisor").mkdir(exist_ok=True)
        (tmp_path / "cadvisor" / file.name).write_bytes(file.read_bytes())
    monkeypatch.setattr(components, "TOOLS", tmp_path)
    assert components.fingerprint("cadvisor") == before

    with (tmp_path / "cadvisor" / "go.mod").open("a") as pins:
        pins.write("\n// another\n")

    assert components.fingerprint("cadvisor") != before
