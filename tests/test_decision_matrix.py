"""Each row of the decision matrix comes with a command, and that command makes a service whose suite passes."""

import re
import shlex
from pathlib import Path

import gates
import pytest
from conftest import ROOT, Bake
from services import make

# What the template itself says, whatever was chosen; no answer changes these lines.
TEXT = (ROOT / "{{cookiecutter.__project_folder}}" / gates.DOCUMENT).read_text(encoding="utf-8")
SECTION = TEXT.partition("## Decision matrix")[2]
ROWS = re.findall(r"^\| (?!You are|---)([^|]+) \|", SECTION, re.MULTILINE)
COMMANDS = dict(re.findall(r"^# (.+)\n\{\{ cookiecutter_command \}\} (.+)$", SECTION, re.MULTILINE))


def answers(command: str) -> dict[str, str]:
    """What the command answers."""
    return dict(word.split("=", 1) for word in shlex.split(command))


def test_each_row_has_its_command() -> None:
    assert len(ROWS) == 5
    assert list(COMMANDS) == ROWS


def test_the_document_shows_the_commands_as_they_are_typed(default_project: Path) -> None:
    shown = (default_project / gates.DOCUMENT).read_text(encoding="utf-8")

    for command in COMMANDS.values():
        assert f"\ncookiecutter gh:<owner>/cookiecutter-fastapi-sre --no-input {command}\n" in shown


@pytest.mark.parametrize("row", ROWS)
def test_the_command_of_a_row_makes_what_the_row_says(row: str, bake: Bake) -> None:
    chosen = re.search(rf"^\| {row} \| ([^|]+) \|", SECTION, re.MULTILINE)
    assert chosen
    said = chosen[1].lower()
    given = answers(COMMANDS[row])

    project = bake(**given)

    assert (project / ".github" / "workflows").is_dir() == ("github actions" in said or "both" in said)
    assert (project / "ci-cd" / "jenkins").is_dir() == ("jenkins" in said or "both" in said)
    assert (project / "ci-cd" / "argocd").is_dir() == ("argo cd" in said)
    assert (project / "k8s" / "components" / "canary").is_dir() == ("canary" in said)


@pytest.mark.long
@pytest.mark.parametrize("row", ROWS)
def test_the_suite_of_a_row_passes(row: str, bake: Bake) -> None:
    make(bake(**answers(COMMANDS[row])), "test")
