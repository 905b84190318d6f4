"""What `git` answers about this repository, for the other tools."""

import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tools.compose import ROOT


class GitError(Exception):
    """Git refuses; the message is its own."""


def git(*arguments: str, at: Path | None = None) -> str:
    """What `git` prints, in this project or in a folder.

    Raises:
        GitError: it is not installed, or failed.
    """
    try:
        done = subprocess.run(["git", *arguments], cwd=at or ROOT, capture_output=True, text=True, check=False)
    except FileNotFoundError as error:
        raise GitError("git is not installed: https://git-scm.com") from error
    if done.returncode:
        raise GitError(done.stderr.strip() or f"`git {' '.join(arguments)}` failed")
    return done.stdout.strip()


@contextmanager
def worktree(commit: str) -> Iterator[Path]:
    """This project as it was at a commit, in a folder that goes away: nothing done there happens in this one."""
    with tempfile.TemporaryDirectory() as folder:
        git("worktree", "add", "--quiet", "--detach", folder, commit)
        try:
            # The project may be a folder of its repository.
            yield Path(folder, git("rev-parse", "--show-prefix"))
        finally:
            git("worktree", "remove", "--force", folder)
