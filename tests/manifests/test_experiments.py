"""The experiments of Chaos Mesh in a service: known to it, small, short, with hypothesis, alert and runbook."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import schemas
import yaml
from conftest import Bake

FOLDER = Path("tests", "chaos", "chaos-mesh")
KINDS = {"PodChaos", "StressChaos", "NetworkChaos", "HTTPChaos"}


def experiments(project: Path) -> dict[str, dict[str, Any]]:
    """The experiments by the names of their files."""
    return {file.stem: yaml.safe_load(file.read_text(encoding="utf-8")) for file in (project / FOLDER).glob("*.yaml")}


def faults(project: Path) -> Iterator[str]:
    """What is dangerous or missing about an experiment."""
    alerts = "".join(file.read_text(encoding="utf-8") for file in project.glob("**/alerts.yml"))
    for name, one in experiments(project).items():
        spec, told = one["spec"], one["metadata"]["annotations"]
        if (spec["mode"], spec["selector"]["namespaces"]) != ("one", ["staging"]):
            yield f"{name}: may hit more than one pod of staging"
        if not re.fullmatch(r"\d+m", spec.get("duration", "")):
            yield f"{name}: does not end by itself"
        if not told["hypothesis"]:
            yield f"{name}: supposes nothing"
        if not told["alert"].startswith("none; ") and f"alert: {told['alert']}\n" not in alerts:
            yield f"{name}: there is no alert {told['alert']}"
        if not (project / "docs" / "runbooks" / told["runbook"].rpartition("/")[2]).is_file():
            yield f"{name}: there is no {told['runbook']}"


@pytest.mark.ci
@pytest.mark.parametrize("database", ["postgresql", "none"])
def test_chaos_mesh_knows_every_field_of_every_experiment(database: str, bake: Bake) -> None:
    found = experiments(bake(database=database))

    assert {one["kind"] for one in found.values()} == KINDS - ({"NetworkChaos"} if database == "none" else set())
    assert list(schemas.problems(tuple(found.values()))) == []


@pytest.mark.ci
def test_a_field_that_chaos_mesh_does_not_know_is_found(bake: Bake) -> None:
    one = experiments(bake())["pod-crash"]
    one["spec"]["graceperiod"] = 0

    (problem,) = schemas.problems((one,))

    assert "graceperiod" in problem


@pytest.mark.parametrize("database", ["postgresql", "none"])
def test_an_experiment_is_small_and_short_and_names_alert_and_runbook(database: str, bake: Bake) -> None:
    project = bake(database=database)

    assert len(experiments(project)) == (6 if database == "postgresql" else 4)
    assert list(faults(project)) == []


@pytest.mark.parametrize("database", ["postgresql", "none"])
def test_memory_is_used_up_to_between_the_alert_and_the_limit(database: str, bake: Bake) -> None:
    project = bake(database=database)
    text = (project / FOLDER / "memory-leak.yaml").read_text(encoding="utf-8")
    staging = (project / "k8s" / "overlays" / "staging" / "deployment.yaml").read_text(encoding="utf-8")

    needed, stressed, limit = (
        int(re.findall(pattern, text)[0])
        for pattern, text in ((r"some (\d+) MiB", text), (r"size: (\d+)MiB", text), (r"memory: (\d+)Mi", staging))
    )

    assert 0.9 * limit < needed + stressed < limit


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        ("mode: one", "mode: all", "may hit more"),
        ("namespaces: [staging]", "namespaces: [production]", "may hit more"),
        ("  duration: 5m\n", "", "does not end"),
        ("alert: CircuitBreakerOpen", "alert: NoSuchAlert", "there is no alert"),
        ("circuit-breaker-open.md", "nowhere.md", "there is no"),
    ],
)
def test_one_that_is_not_is_found(old: str, new: str, expected: str, bake: Bake) -> None:
    project = bake()
    file = project / FOLDER / "database-down.yaml"
    text = file.read_text(encoding="utf-8")
    assert old in text
    file.write_text(text.replace(old, new), encoding="utf-8")

    (fault,) = faults(project)

    assert expected in fault
