"""No secret is in what any profile generates, nor in this repository: the gates that people run search both."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import profiles
import pytest
from conftest import ROOT, Git
from lock import GATES_LOCK
from test_profiles import generated
from trees import contents, pins

# A tree takes detect-secrets some twenty seconds.
pytestmark = pytest.mark.ci

KEY = f"AKIA{'Q3EGRI7X' * 2}\n"


def search(folder: Path, *locks: str) -> "subprocess.CompletedProcess[str]":
    """Run `make secrets` there, with the programs that the tests of the template have."""
    programs = Path(sys.executable).parent.parent
    old = [f"--assume-old={path}" for path in (*locks, f"{programs}/.ready")]
    command = ["make", *old, f"VENV={programs}", f"CI={programs}", "secrets"]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)


def known_to_git(folder: Path, files: dict[str, bytes], git: Git) -> Path:
    """Write the files into a repository of their own."""
    for name, raw in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(raw)
    git(folder, "init", "--quiet")
    git(folder, "add", "--all")
    return folder


def test_it_is_searched_by_the_version_that_services_have() -> None:
    locks = map(pins, ("requirements.txt", GATES_LOCK))
    ours, theirs = ({pin for pin in lock if pin[0] == "detect-secrets"} for lock in locks)

    assert ours == theirs != set()


def test_no_profile_holds_a_secret(cookies: Any, tmp_path: Path, git: Git) -> None:
    found = []
    seen: set[tuple[str, bytes]] = set()
    for number, answers in enumerate((*profiles.in_pairs(), *profiles.in_threes())):
        tree = contents(generated(answers, cookies))
        # Most files are the same in many profiles, and once is enough.
        new = dict(tree.items() - seen)
        seen |= new.items()
        folder = known_to_git(tmp_path / str(number), {**new, "Makefile": tree["Makefile"]}, git)
        done = search(folder, "requirements-ci.txt")
        if done.returncode:
            found.append(f"{profiles.command(answers)}\n{done.stdout}{done.stderr}")

    assert not found, "\n".join(found)


def test_a_key_in_a_service_is_found(default_project: Path, tmp_path: Path, git: Git) -> None:
    makefile = (default_project / "Makefile").read_bytes()

    done = search(
        known_to_git(tmp_path, {"Makefile": makefile, "docs/notes.md": KEY.encode()}, git), "requirements-ci.txt"
    )

    assert done.returncode != 0
    assert "docs/notes.md:1" in done.stdout


def test_this_repository_holds_no_secret() -> None:
    done = search(ROOT, "requirements.txt")

    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize(
    "place", ["docs/notes.md", "{{cookiecutter.__project_folder}}/app/{% if 1 %}notes.py{% endif %}"]
)
def test_a_key_in_this_repository_is_found(place: str, tmp_path: Path, git: Git) -> None:
    makefile = (ROOT / "Makefile").read_bytes()

    done = search(known_to_git(tmp_path, {"Makefile": makefile, place: KEY.encode()}, git), "requirements.txt")

    assert done.returncode != 0
    assert f"{place}:1" in done.stdout
