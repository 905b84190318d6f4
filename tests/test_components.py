"""The real components of the stack: each is built from its pins, and says that it is the release that they name."""

import subprocess
from pathlib import Path

import components
import pytest

pytestmark = pytest.mark.ci

# How each program is asked, and what surrounds the release in its answer.
ANSWERS = {
    ("actionlint", "actionlint"): ("-version", "{}\n"),
    ("alertmanager", "alertmanager"): ("--version", "alertmanager, version {} "),
    ("alertmanager", "amtool"): ("--version", "amtool, version {} "),
    ("argo-rollouts", "kubectl-argo-rollouts"): ("version", "kubectl-argo-rollouts: v{}+"),
    ("argo-rollouts", "rollouts-controller"): ("--version", "v{}+"),
    ("cadvisor", "cadvisor"): ("--version", "cAdvisor version {}\n"),
    ("jaeger", "jaeger"): ("version", '"gitVersion":"{}"'),
    ("kubernetes", "kube-apiserver"): ("--version", "Kubernetes v{}\n"),
    ("kubernetes", "kube-controller-manager"): ("--version", "Kubernetes v{}\n"),
    ("kubernetes", "kube-proxy"): ("--version", "Kubernetes v{}\n"),
    ("kubernetes", "kube-scheduler"): ("--version", "Kubernetes v{}\n"),
    ("kubernetes", "kubectl"): ("version --client", "Client Version: v{}\n"),
    ("kubernetes", "kubelet"): ("--version", "Kubernetes v{}\n"),
    ("kustomize", "kustomize"): ("version", "v{}\n"),
    ("kustomize-oldest", "kustomize"): ("version", "v{}\n"),
    ("otel-collector", "otelcol"): ("--version", "otelcol version {}\n"),
    ("prometheus", "prometheus"): ("--version", "prometheus, version {} "),
    ("prometheus", "promtool"): ("--version", "promtool, version {} "),
    ("toxiproxy", "server"): ("-version", "toxiproxy-server version {}\n"),
}

# Those that share a module with Kubernetes, and their own modules. The server of metrics says what Kubernetes says.
GUESTS = {
    "coredns": ("github.com/coredns/coredns", "-version", "CoreDNS-{}\n"),
    "server": ("go.etcd.io/etcd/server/v3", "--version", "etcd Version: {}\n"),
}


@pytest.mark.parametrize(("component", "program"), ANSWERS)
def test_each_program_is_built_and_answers_the_release_that_is_pinned(component: str, program: str) -> None:
    argument, answer = ANSWERS[component, program]

    asked = [str(components.build(component) / program), *argument.split()]
    done = subprocess.run(asked, capture_output=True, text=True, check=True)

    assert answer.format(components.release(component)) in done.stdout


@pytest.mark.parametrize("program", GUESTS)
def test_what_is_built_with_kubernetes_answers_the_release_of_its_own(program: str) -> None:
    module, argument, answer = GUESTS[program]

    asked = (components.build("kubernetes") / program, argument)
    done = subprocess.run(asked, capture_output=True, text=True, check=True)

    assert answer.format(components.version("kubernetes", module).removeprefix("v")) in done.stdout


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
