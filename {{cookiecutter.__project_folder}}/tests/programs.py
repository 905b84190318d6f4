"""Programs that stand in for kubectl and argocd: real processes, which note what they are told and answer as set."""

import json
import stat
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

# Started without what it does not need (-I -S), as a test starts it dozens of times.
_SCRIPT = """#!{python} -IS
import json, re, sys

said = " ".join(sys.argv[1:])
given = "" if sys.stdin.isatty() else sys.stdin.read()
with open(__file__ + ".log", "a") as log:
    log.write(json.dumps([said, given]) + "\\n")
with open(__file__ + ".json") as answers:
    known = json.load(answers)
for pattern, answer, code in known:
    if re.search(pattern, said):
        (sys.stderr if code else sys.stdout).write(answer)
        sys.exit(code)
"""


@dataclass
class Program:
    """A program of this name in a folder; what it is told and not set to answer, it does silently.

    Args:
        folder: where it is; `PATH` has to name it.
        name: what it is called by.
        answers: what it answers to which words: the first pattern that is found in them decides.
    """

    folder: Path
    name: str
    answers: list[tuple[str, str, int]] = field(default_factory=list)

    def __post_init__(self) -> None:
        path = self.folder / self.name
        path.write_text(_SCRIPT.format(python=sys.executable), encoding="utf-8")
        path.chmod(path.stat().st_mode | stat.S_IXUSR)
        self._save()

    def answer(self, pattern: str, answer: Any = "", code: int = 0) -> None:
        """Answer so from now on: a text as it is, anything else as JSON; with an exit code, as an error."""
        self.answers.insert(0, (pattern, answer if isinstance(answer, str) else json.dumps(answer), code))
        self._save()

    @property
    def heard(self) -> list[str]:
        """What it was told, in order."""
        return [said for said, _ in self._log()]

    def given(self, pattern: str) -> list[str]:
        """What it was given to read by commands that hold this text."""
        return [given for said, given in self._log() if pattern in said]

    def _log(self) -> list[tuple[str, str]]:
        log = self.folder / f"{self.name}.log"
        return [json.loads(line) for line in log.read_text(encoding="utf-8").splitlines()] if log.exists() else []

    def _save(self) -> None:
        (self.folder / f"{self.name}.json").write_text(json.dumps(self.answers), encoding="utf-8")
