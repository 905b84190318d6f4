"""`make template-propose`: show people what `make template-update` did.

As a branch and a pull request where the token may push workflows, else as an issue. What is new is what is not
committed, or what the file TEMPLATE_PATCH would change.
"""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tools.compose import ROOT
from tools.git import GitError, git, worktree
from tools.template import LINK, conflicts, pages

BRANCH = "template-update"
TITLE = "Take what is new in the template"

# An issue holds up to 65536 characters.
LONGEST = 60_000


@contextmanager
def tree(patch: str | None) -> Iterator[Path]:
    """This project with what is new: as it is here; with a patch elsewhere, so that nothing of it can run in here."""
    if not patch:
        yield ROOT
        return
    with worktree("HEAD") as project:
        git("apply", "--index", "--allow-empty", str(ROOT / patch), at=project)
        yield project


def propose(project: Path) -> int:
    """Show what is new in this tree; the exit code of the process."""
    if not git("status", "--porcelain", at=project):
        sys.stdout.write("Nothing is new.\n")
        return 0
    on_github = shutil.which("gh") is not None
    link = json.loads((project / LINK).read_text(encoding="utf-8"))
    what = "By `make template-update`. What is new, and what is left for a person to do:"
    body = "\n- ".join([what, *pages(**link), *conflicts(project)])
    if os.environ.get("TEMPLATE_PUSH") == "1":
        git("switch", "--quiet", "--force-create", BRANCH, at=project)
        git("add", "--all", at=project)
        git("commit", "--quiet", "--message", TITLE, "--message", body, at=project)
        git("push", "--quiet", "--force", "origin", f"HEAD:refs/heads/{BRANCH}", at=project)
        if not on_github:
            sys.stdout.write(f"{BRANCH} is pushed: open a pull request from it.\n")
            return 0
        opened = ("pr", "create", "--head", BRANCH, "--title", TITLE, "--body", body)
        return 0 if _gh(*opened) or _gh("pr", "view", BRANCH) else 1
    if not on_github:
        sys.stderr.write("gh, which talks to GitHub, is not installed: https://cli.github.com, or TEMPLATE_PUSH=1.\n")
        return 1
    git("add", "--all", at=project)
    difference = git("diff", "--cached", "HEAD", at=project)[:LONGEST]
    told = f"{body}\n\nTake it by `make template-update` on a machine of yours:\n\n~~~~diff\n{difference}\n~~~~\n"
    known = _open_issue()
    command = ("edit", known) if known else ("create", "--title", TITLE)
    return 0 if _gh("issue", *command, "--body", told) else 1


def _open_issue() -> str:
    """The number of the issue that an earlier run opened and nobody has closed, or nothing."""
    asked = ("issue", "list", "--state", "open", "--search", f'in:title "{TITLE}"', "--json", "number")
    command = ["gh", *asked, "--jq", ".[0].number // empty"]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False).stdout.strip()


def _gh(*arguments: str) -> bool:
    return not subprocess.run(["gh", *arguments], cwd=ROOT, check=False).returncode


def main() -> int:
    """Show it, or say what git has against it; the exit code of the process."""
    try:
        with tree(os.environ.get("TEMPLATE_PATCH")) as project:
            return propose(project)
    except GitError as error:
        sys.stderr.write(f"{error}\n")
        return 1


if __name__ == "__main__":
    sys.exit(main())
