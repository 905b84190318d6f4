"""One list of gates: the table in the documents, the Makefile and the workflows say the same."""

import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import gates
import pytest
from conftest import Bake

ANSWERS: list[dict[str, str]] = [
    {},
    {"deployment": "kubectl"},
    {"deployment": "kubectl", "load_tests": "no"},
    {"ci_system": "both", "exposure": "cluster-internal", "production_image": "standard", "database": "none"},
]


@pytest.fixture(params=ANSWERS, ids=str)
def project(request: pytest.FixtureRequest, bake: Bake) -> Path:
    return bake(**request.param)


def differences(project: Path) -> Iterator[str]:
    """Where the workflows do other than the table says."""
    ran: dict[str, set[str]] = {}
    for job in gates.jobs(project):
        for step in job.steps:
            target = gates.target_of(step)
            if target is None:
                yield f"{job.name}: {step!r} is not one make target"
            elif target not in gates.targets(project):
                yield f"{job.name}: the Makefile has no {target}"
            else:
                ran.setdefault(target, set()).add(job.name)
    rows = gates.table(project)
    for gate in rows:
        if (found := ran.get(gate.target, set())) != gate.jobs:
            yield f"{gate.target}: in {sorted(found)}, and by the table in {sorted(gate.jobs)}"
    if unknown := ran.keys() - {gate.target for gate in rows} - gates.helpers(project):
        yield f"not in the table: {sorted(unknown)}"


def test_workflows_run_what_the_table_says_and_nothing_else(project: Path) -> None:
    assert list(differences(project)) == []


@pytest.mark.parametrize(
    ("old", "new", "told"),
    [
        ("run: make types", "run: make types && make sast", "is not one make target"),
        ("run: make types", "run: ruff check", "is not one make target"),
        ("      - run: make types\n", "", "types: in []"),
        ("run: make types", "run: make typos", "the Makefile has no typos"),
        ("run: make types", "run: make clean", "not in the table: ['clean']"),
    ],
)
def test_a_workflow_that_differs_is_found(old: str, new: str, told: str, bake: Bake) -> None:
    project = bake()
    workflow = project / ".github" / "workflows" / "ci-cd.yml"
    text = workflow.read_text(encoding="utf-8")
    assert old in text
    workflow.write_text(text.replace(old, new, 1), encoding="utf-8")

    assert [found for found in differences(project) if told in found]


def test_every_gate_is_a_target_and_no_gate_is_there_twice(project: Path) -> None:
    listed = [gate.target for gate in gates.table(project)]

    assert len(listed) > 20
    assert len(listed) == len(set(listed))
    assert set(listed) <= gates.targets(project)


def test_an_image_is_pushed_only_when_everything_that_blocks_has_passed(project: Path) -> None:
    passed = gates.needed(project, "ci-cd/publish") | {"ci-cd/publish"}

    assert {gate.effect for gate in gates.table(project)} == {"blocks", "warns"}
    for gate in gates.table(project):
        before_push = {job for job in gate.jobs if job.startswith("ci-cd/")} - {"ci-cd/version"}
        if before_push:
            assert (before_push <= passed) == (gate.effect == "blocks"), gate


def test_make_gates_runs_every_gate_that_needs_no_registry(project: Path) -> None:
    told = re.search(r"^GATES \?= ((?:.*\\\n)*.*)$", (project / "Makefile").read_text(), re.MULTILINE)
    assert told
    listed = told[1].replace("\\\n", " ").split()
    rows = [gate.target for gate in gates.table(project)]

    assert set(listed) == set(rows[: rows.index("push")]) - {"sonar"}


def test_each_gate_writes_the_reports_that_the_table_names(project: Path) -> None:
    for gate in gates.table(project):
        command = ["make", "--dry-run", "--always-make", gate.target]
        done = subprocess.run(command, cwd=project, capture_output=True, text=True, check=False)
        modules = re.findall(r"-m (tools\.\w+)", done.stdout)
        said = done.stdout + "".join((project / f"{name.replace('.', '/')}.py").read_text() for name in modules)

        assert [name for name in gate.reports if name not in said] == [], gate
