"""Generated services pass their own gates, by the commands their users type."""

import shutil
import subprocess
from itertools import product
from pathlib import Path
from typing import Any

import pytest
from conftest import Bake
from hostile import ACCEPTED
from pythons import found
from services import environment_of, make, run


@pytest.fixture
def project(bake: Bake) -> Path:
    """A service of the default answers, for one test alone."""
    return bake()


# Each service that this file tests has answers that are hard to write into files, so that no run is of one kind only.
SERVICES: dict[str, dict[str, str | bool]] = {
    "postgresql": {"database": "postgresql"},
    "none": {
        "database": "none",
        "chaos_drills": False,
        "project_slug": "hostile",
        **ACCEPTED["backslash before quote"],
    },
    "words": {"database": "postgresql", "observability_stack": False, **ACCEPTED["words of languages"]},
    "other script": {"database": "none", "project_slug": "hostile", **ACCEPTED["hebrew"]},
}


def on_other_pythons() -> list[Any]:
    """All tests on the newest other Python; all but the longest on the rest, of which the first has no database."""
    others = list(found())[:0:-1] or [next(iter(found()))]
    always = [(others[0], "words", "test-all"), (others[1 % len(others)], "other script", "test")]
    rest = [(version, "words", "test") for version in others[2:]]
    return [pytest.param(*case, id=f"{case[0]}-{case[1]}-{case[2]}") for case in always + rest]


@pytest.mark.parametrize(
    ("name", "target"),
    [*product(["postgresql", "none"], ["lint-code", "types", "test"]), ("words", "lint-code")],
)
def test_a_service_passes_its_own_gate(bake: Bake, name: str, target: str) -> None:
    make(bake(**SERVICES[name]), target)


@pytest.mark.ci
@pytest.mark.parametrize(("version", "name", "target"), on_other_pythons())
def test_a_service_passes_all_its_tests_on_the_other_pythons_of_this_machine(
    bake: Bake, version: str, name: str, target: str
) -> None:
    make(bake(**SERVICES[name]), target, "types", python=found()[version])


@pytest.mark.ci
@pytest.mark.parametrize("database", ["postgresql", "none"])
def test_locking_a_fresh_service_changes_nothing(bake: Bake, database: str) -> None:
    project = bake(database=database)
    before = {path.name: path.read_text() for path in project.glob("requirements*.txt")}

    make(project, "lock")

    assert {name: (project / name).read_text() for name in before} == before


def test_make_begins_a_new_migration(project: Path) -> None:
    make(project)
    environment = f"VENV={environment_of(project)}"
    run(["make", "--assume-old=requirements.txt", environment, "migration", "NAME=add a column"], project)

    (migration,) = project.glob("migrations/versions/*_add_a_column.py")
    assert migration.read_text(encoding="utf-8").startswith('"""Add a column."""\n')
    assert 'down_revision = "0001"' in migration.read_text(encoding="utf-8")


def test_make_alone_lists_the_targets(project: Path) -> None:
    result = subprocess.run(["make"], cwd=project, capture_output=True, text=True, check=True)

    listed = {line.split()[1] for line in result.stdout.splitlines()}
    assert {"run", "up", "down", "test", "lint", "format", "types", "lock", "migrate", "help"} <= listed


def test_without_a_usable_python_make_says_what_to_install(project: Path) -> None:
    result = subprocess.run(["make", "PYTHON=", "test"], cwd=project, capture_output=True, text=True, check=False)

    assert result.returncode != 0
    assert "No Python 3.11 or newer with venv was found" in result.stderr


def test_everything_a_developers_commands_leave_behind_is_ignored_by_git(project: Path) -> None:
    run(["git", "init", "--quiet"], project)
    run(["git", "add", "--all"], project)
    make(project, "lint-code")
    shutil.copytree(project / "app", project / ".venv" / "app")
    (project / "items.db").touch()

    status = subprocess.run(
        ["git", "status", "--porcelain", "--untracked-files=all"],
        cwd=project,
        capture_output=True,
        text=True,
        check=True,
    )

    assert [line for line in status.stdout.splitlines() if line.startswith("??")] == []
