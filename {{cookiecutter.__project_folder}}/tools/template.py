"""`make template-update`: take what is new in the template of this service, and say what is left to do.

cruft ends with success also where it leaves conflicts, rejected parts, or files that the new answers do not choose: one
that somebody changed stays when the template drops it.

The template's own code runs in this, and may replace any file: TEMPLATE_PATCH names a file for what changed, which
another job, one with a token, can propose without running a line of it.
"""

import json
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tools.compose import ROOT
from tools.git import GitError, git

LINK = ".cruft.json"


def generated(state: dict[str, Any], clone: Path, tools: Path) -> set[str]:
    """The files of a fresh service with the answers, and from the commit, of a `.cruft.json`."""
    git("checkout", "--quiet", "--force", "--detach", state["commit"], at=clone)
    answers = state["context"]["cookiecutter"]
    chosen = [f"{name}={answer}" for name, answer in answers.items() if not name.startswith("_")]
    with tempfile.TemporaryDirectory() as folder:
        template = clone / (state.get("directory") or "")
        command = [str(tools / "cookiecutter"), str(template), "--no-input", "--default-config", "--output-dir", folder]
        subprocess.run([*command, *chosen], check=True, stdout=subprocess.DEVNULL)
        (project,) = Path(folder).iterdir()
        return {path.relative_to(project).as_posix() for path in project.rglob("*") if path.is_file()}


def dropped(before: dict[str, Any], after: dict[str, Any], tools: Path) -> list[str]:
    """The files that the template has no longer for these answers, and that are still here."""
    with tempfile.TemporaryDirectory() as folder:
        git("clone", "--quiet", after["template"], folder)
        old, new = (generated(state, Path(folder), tools) for state in (before, after))
    return sorted(path for path in old - new if (ROOT / path).exists())


def conflicts(project: Path) -> Iterator[str]:
    """What cruft could not bring together, in a tree of this project."""
    changed = git("diff", "--name-only", "--relative", "HEAD", at=project).splitlines()
    new = git("ls-files", "--others", "--exclude-standard", at=project).splitlines()
    for path in sorted({*changed, *new}):
        file = project / path
        if path.endswith(".rej"):
            yield f"{path}: what could not be applied to {path.removesuffix('.rej')}"
        elif file.is_file() and b"\n<<<<<<< " in b"\n" + file.read_bytes():
            yield f"{path}: conflict markers"


def pages(template: str, commit: str, **_: Any) -> list[str]:
    """Where the template tells what is new, and what an update cannot do: links, where its host has pages.

    Args:
        template: its address, as `.cruft.json` has it.
        commit: the one that was taken.
    """
    host = re.fullmatch(r"(https://git(?:hub|lab)\.[\w.-]+/[\w./-]+?)(?:\.git)?/?", template)
    names = ("CHANGELOG.md", "MIGRATING.md")
    return [f"{host[1]}/blob/{commit}/{name}" if host else f"{name} of {template} at {commit}" for name in names]


def update(tools: Path) -> int:
    """Take what is new; the exit code of the process."""
    link = ROOT / LINK
    if not link.is_file():
        sys.stderr.write(f"There is no {LINK}: link the service to its template by `cruft link <Git address>`.\n")
        return 1
    if git("status", "--porcelain"):
        sys.stderr.write("The working tree holds changes that are not committed: commit or stash them first.\n")
        return 1
    before = json.loads(link.read_text(encoding="utf-8"))
    done = subprocess.run([tools / "cruft", "update", "--skip-apply-ask"], cwd=ROOT, check=False)
    if done.returncode:
        return done.returncode
    after = json.loads(link.read_text(encoding="utf-8"))
    if before == after:
        return 0
    told = "".join(f"  {page}\n" for page in pages(**after))
    sys.stdout.write(f"What is new, and what is left for a person to do:\n{told}")
    found = [*conflicts(ROOT), *(f"{path}: no longer chosen, remove it" for path in dropped(before, after, tools))]
    sys.stderr.write("".join(f"{problem}\n" for problem in found))
    return 1 if found else 0


def keep(patch: Path) -> None:
    """Write what is not committed to a file."""
    patch.parent.mkdir(parents=True, exist_ok=True)
    git("add", "--all")
    git("diff", "--cached", "--binary", f"--output={patch}", "HEAD")


def main(arguments: list[str]) -> int:
    """Update by the programs in this folder; the exit code of the process."""
    try:
        code = update(Path(arguments[0]).absolute())
        if patch := os.environ.get("TEMPLATE_PATCH"):
            keep(ROOT / patch)
    except GitError as error:
        sys.stderr.write(f"{error}\n")
        return 1
    return code


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
