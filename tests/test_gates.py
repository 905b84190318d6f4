"""Each gate of a service passes on a fresh one, fails on one that is broken for it, says where, and leaves its report.

What `lint-config` judges of the stack, and what happens to images, is tried in tests/live. `audit`, `scan` and `sonar`
want databases and servers that not every tester has: test_gate_options.py.
"""

import fcntl
import json
import os
import re
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from xml.etree import ElementTree as ET

import components
import gates
import pytest
from conftest import Bake
from services import CACHE, default_python, environment_name, environment_of, make, run

from demo.ports import available

# The tools of gates come from the registry, and checkov takes seconds to start.
pytestmark = pytest.mark.ci

APP = "app/main.py"


def tools(project: Path) -> Path:
    """The environment of the gates' tools, made once for each lock."""
    folder = CACHE / f"gates-{environment_name(project, (project / 'requirements-ci.txt').read_text())}"
    with folder.with_suffix(".lock").open("w") as turn:
        fcntl.flock(turn, fcntl.LOCK_EX)
        command = ["make", "--assume-old=requirements-ci.txt", f"CI={folder}", f"PYTHON={default_python()}"]
        run([*command, f"{folder}/.ready"], project)
    return folder


@pytest.fixture
def project(bake: Bake) -> Path:
    """A service of the default answers that Git knows."""
    project = bake()
    run(["git", "init", "--quiet"], project)
    run(["git", "add", "--all"], project)
    make(project)
    return project


def gate(project: Path, target: str, **environment: str) -> "subprocess.CompletedProcess[str]":
    """Run one, as a pipeline does."""
    venv = environment_of(project)
    old = [f"--assume-old={lock}" for lock in ("requirements.txt", "requirements-ci.txt")]
    command = ["make", *old, f"VENV={venv}", f"CI={tools(project)}", target]
    return subprocess.run(
        command, cwd=project, env=os.environ | environment, capture_output=True, text=True, check=False
    )


def sarif(report: Path) -> list[str]:
    """The files in which a report sees something."""
    return [
        location["physicalLocation"]["artifactLocation"]["uri"]
        for found in json.loads(report.read_text(encoding="utf-8"))["runs"]
        for result in found["results"]
        for location in result["locations"]
        if not result.get("suppressions")
    ]


def secrets(report: Path) -> list[str]:
    """The files in which secrets were found."""
    return list(json.loads(report.read_text(encoding="utf-8"))["results"])


def junit(report: Path) -> list[str]:
    """The tests that failed."""
    cases = ET.parse(report).iter("testcase")  # noqa: S314 - pytest wrote it
    return [case.attrib["name"] for case in cases if case.find("failure") is not None]


@dataclass(frozen=True)
class Broken:
    """A change that one gate has to find.

    Attributes:
        gate: the target.
        file: what is changed; made where there is none.
        was: what is replaced; without it, the text is added at the end.
        becomes: by what.
        told: what the gate says of it, the place first.
        report: the report, if it writes one, and how to read what it found.
    """

    gate: str
    file: str
    was: str
    becomes: str
    told: tuple[str, ...]
    report: tuple[str, Callable[[Path], list[str]]] | None = None

    def __str__(self) -> str:
        return f"{self.gate}-{Path(self.file).name}"

    def change(self, project: Path) -> None:
        """Break the service."""
        path = project / self.file
        text = path.read_text(encoding="utf-8") if path.exists() else ""
        assert self.was in text
        changed = text.replace(self.was, self.becomes, 1) if self.was else text + self.becomes
        path.write_text(changed, encoding="utf-8")
        if (project / ".git").exists():
            run(["git", "add", "--all"], project)


DOCKERFILE = "docker/production/Dockerfile"
DEPLOYMENT, POLICY = "k8s/base/deployment.yaml", "k8s/base/networkpolicy.yaml"

BROKEN = [
    Broken("lint-code", APP, "", "x = {  'a':1 }\n", (APP,)),
    Broken("types", APP, "", 'wrong: int = "text"\n', (f"{APP}:", "Incompatible types")),
    Broken(
        "lint-dockerfiles", DOCKERFILE, "USER 65532:65532", "USER root", (f"{DOCKERFILE}:", "DL3002"),
        ("hadolint.sarif", sarif),
    ),
    Broken(
        "sast", APP, "", 'PASSWORD = "of-the-database"\n',  # pragma: allowlist secret - it is what bandit has to find
        (f"{APP}:", "B105"), ("bandit.sarif", sarif),
    ),
    Broken("secrets", "notes.md", "", f"AKIA{'Q3EGRI7X' * 2}\n", ("notes.md:1", "AWS"), ("secrets.json", secrets)),
    Broken(
        "lint-manifests", DEPLOYMENT, "imagePullPolicy:", "imagePullPolice:",
        ("prod.yaml", "deployment/sre-demo-api", "'imagePullPolice'"),
    ),
    Broken(
        "lint-manifests", DEPLOYMENT, "readOnlyRootFilesystem: true", "privileged: true",
        ("Deployment.production.sre-demo-api", "CKV_K8S_16"), ("checkov.sarif", sarif),
    ),
    Broken("lint-manifests", POLICY, ".io/v1", ".io/v9", ("networking.k8s.io/v9 NetworkPolicy",)),
    Broken(
        "test-unit", "tests/unit/test_provenance.py", "", "\n\ndef test_broken() -> None:\n    assert not [1]\n",
        ("tests/unit/test_provenance.py", "test_broken"), ("junit-unit.xml", junit),
    ),
]  # fmt: skip

# A few tests are enough to see whether a gate fails with them.
FEW = {"PYTEST_ADDOPTS": "-k test_provenance"}


@pytest.mark.parametrize("name", sorted({broken.gate for broken in BROKEN}))
def test_a_fresh_service_passes(name: str, project: Path) -> None:
    done = gate(project, name, **FEW)

    assert done.returncode == 0, done.stdout + done.stderr
    for broken in BROKEN:
        if broken.gate == name and broken.report:
            file, read = broken.report
            assert read(project / "reports" / file) == []


@pytest.mark.parametrize("broken", BROKEN, ids=str)
def test_a_broken_one_fails_and_is_told_where(broken: Broken, project: Path) -> None:
    broken.change(project)

    done = gate(project, broken.gate, **FEW)

    assert done.returncode != 0, done.stdout
    assert [told for told in broken.told if told not in done.stdout + done.stderr] == []
    if broken.report:
        file, read = broken.report
        assert read(project / "reports" / file)


def test_too_little_coverage_fails_and_is_told_where(project: Path) -> None:
    assert gate(project, "coverage").returncode != 0
    assert gate(project, "test-unit", **FEW).returncode == 0
    reports = project / "reports"
    (reports / ".coverage.integration").write_bytes((reports / ".coverage.unit").read_bytes())

    done = gate(project, "coverage")

    assert done.returncode != 0
    assert APP in done.stdout
    assert "fail" in (done.stdout + done.stderr).lower()
    covered = ET.parse(reports / "coverage.xml").getroot()  # noqa: S314 - coverage wrote it
    assert float(covered.attrib["line-rate"]) < 0.95
    # SonarQube's scanner reads it in a container, where the project is another folder.
    assert [source.text for source in covered.iter("source")] == ["app"]
    # What was added up is still there to be added up again.
    assert (reports / ".coverage.unit").exists()


@pytest.fixture
def rules(bake: Bake) -> Path:
    """A service without the stack, of which promtool judges all that `make lint-config` judges."""
    project = bake(observability_stack=False)
    make(project)
    return project


def lint_config(project: Path) -> "subprocess.CompletedProcess[str]":
    """Run it with the promtool that the template pins."""
    return gate(project, "lint-config", PROMTOOL=str(components.build("prometheus") / "promtool"))


def test_wrong_rules_fail_and_are_told_where(rules: Path) -> None:
    files = ("observability/prometheus/alerts.yml", "k8s/components/monitoring/alerts.yml")
    for file in files:
        Broken("lint-config", file, "expr: ", "expr: ) ", ()).change(rules)

    done = lint_config(rules)

    assert done.returncode != 0
    for file in files:
        assert re.search(rf"{file}: \d+:\d+: .* could not parse expression", done.stderr)


def test_rules_of_the_cluster_that_differ_from_their_source_fail_and_are_told(rules: Path) -> None:
    file = "k8s/overlays/prod/prometheusrule.yaml"
    Broken("lint-config", file, "for: ", "for: 1", ()).change(rules)

    done = lint_config(rules)

    assert done.returncode != 0
    assert f"{file} is not what its rules" in done.stderr
    assert done.stdout.count("promtool test rules") == 2, "the rules themselves are right"


@pytest.mark.long
def test_a_fresh_service_passes_all_gates_together_and_leaves_each_report(project: Path) -> None:
    # The rest takes a container engine, or a database of vulnerabilities.
    chosen = "lint-code types lint-dockerfiles lint-manifests sast secrets test-unit test-integration coverage"

    done = gate(project, "gates", GATES=chosen)

    assert done.returncode == 0, done.stdout[-5000:] + done.stderr
    reports = {name for row in gates.table(project) if row.target in chosen.split() for name in row.reports}
    assert {name for name in reports if not (project / "reports" / name).exists()} == set()


def test_all_gates_run_and_those_that_failed_are_told_at_the_end(project: Path) -> None:
    BROKEN[0].change(project)

    done = gate(project, "gates", GATES="lint-code lint-dockerfiles image-of-nobody sast")

    assert done.returncode != 0
    assert "Failed: lint-code image-of-nobody\n" in done.stderr
    assert (project / "reports" / "bandit.sarif").exists()


@pytest.mark.parametrize(
    ("target", "told"),
    [
        ("scan", "run make image first"),
        ("sbom", "run make image first"),
        ("push", "run make image first"),
        ("attest", "run make sbom first"),
        ("sign", "run make push or make digest"),
        ("verify", "run make push or make digest"),
        ("coverage", "run make test-unit and make test-integration first"),
        ("check-tag", "app/service.toml has 0.1.0"),
    ],
)
def test_what_has_to_come_before_is_told(target: str, told: str, project: Path) -> None:
    done = gate(project, target)

    assert done.returncode != 0
    assert told.lower() in done.stderr.lower()


def test_without_its_token_sonarqube_is_not_asked(project: Path) -> None:
    done = gate(project, "sonar", SONAR_TOKEN="")

    assert done.returncode == 0
    assert "SONAR_TOKEN is not set" in done.stdout


def test_dependencies_that_nobody_can_judge_fail_as_vulnerable_ones_do(project: Path) -> None:
    nobody = f"http://127.0.0.1:{available([0])[0]}"

    done = gate(project, "audit", HTTPS_PROXY=nobody, HTTP_PROXY=nobody)

    assert done.returncode != 0
    # It got as far as asking: every option was understood.
    assert "usage:" not in done.stderr
    assert "Unable to connect to proxy" in done.stderr
    assert "A dependency is vulnerable, or could not be judged" in done.stderr.splitlines()[-2]
