"""`make template-propose`: show people what `make template-update` did.

As a branch and a pull request where the token may push workflows, else as an issue.
"""

import os
import shutil
import subprocess
import sys

from tools.compose import ROOT
from tools.git import GitError, git
from tools.template import conflicts

BRANCH = "template-update"
TITLE = "Take what is new in the template"

# An issue holds up to 65536 characters.
LONGEST = 60_000


def propose() -> int:
    """Show it; the exit code of the process."""
    if not git("status", "--porcelain"):
        sys.stdout.write("Nothing is new.\n")
        return 0
    on_github = shutil.which("gh") is not None
    body = "\n".join(["By `make template-update`.", *(f"- {problem}" for problem in conflicts())])
    if os.environ.get("TEMPLATE_PUSH") == "1":
        git("switch", "--quiet", "--force-create", BRANCH)
        git("add", "--all")
        git("commit", "--quiet", "--message", TITLE, "--message", body)
        git("push", "--quiet", "--force", "origin", f"HEAD:refs/heads/{BRANCH}")
        if not on_github:
            sys.stdout.write(f"{BRANCH} is pushed: open a pull request from it.\n")
            return 0
        opened = ("pr", "create", "--head", BRANCH, "--title", TITLE, "--body", body)
        return 0 if _gh(*opened) or _gh("pr", "view", BRANCH) else 1
    if not on_github:
        sys.stderr.write("gh, which talks to GitHub, is not installed: https://cli.github.com, or TEMPLATE_PUSH=1.\n")
        return 1
    git("add", "--all")
    difference = git("diff", "--cached", "HEAD")[:LONGEST]
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
        return propose()
    except GitError as error:
        sys.stderr.write(f"{error}\n")
        return 1


if __name__ == "__main__":
    sys.exit(main())
