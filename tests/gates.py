"""The one list of gates: the table in a service's CI-CD-COMPARISON.md, and where each of its targets really runs."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

DOCUMENT = Path("docs/architecture/CI-CD-COMPARISON.md")

# The whole of a step: one target, and what it is told.
STEP = re.compile(r"make ([a-z][a-z-]*)((?: [A-Z_]+=(?:[\w.-]+|\"\$[A-Z_]+\"))*)")


@dataclass(frozen=True)
class Gate:
    """A row of the table."""

    name: str
    target: str
    effect: str
    jobs: frozenset[str]
    stages: frozenset[str]
    reports: tuple[str, ...]


def table(project: Path) -> list[Gate]:
    """The rows, in their order."""
    text = (project / DOCUMENT).read_text(encoding="utf-8")
    lines = text.partition("| Gate | Target |")[2].partition("\n\n")[0].splitlines()[2:]
    return [_row(line) for line in lines]


def _row(line: str) -> Gate:
    name, target, effect, jobs, stages, reports = (cell.strip() for cell in line.strip("|").split("|"))
    return Gate(name, target.strip("`"), effect, _names(jobs), _names(stages), tuple(re.findall(r"`([^`]+)`", reports)))


def _names(cell: str) -> frozenset[str]:
    return frozenset(cell.split(", "))


def helpers(project: Path) -> set[str]:
    """The targets that the document names as judging nothing."""
    text = (project / DOCUMENT).read_text(encoding="utf-8")
    sentence = text.partition("steps that judge nothing:")[2].partition("\n\n")[0]
    return set(re.findall(r"`([^`]+)`", sentence))


def targets(project: Path) -> set[str]:
    """What the Makefile can do."""
    return set(re.findall(r"^\.PHONY: ([a-z-]+)$", (project / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))


def target_of(step: str) -> str | None:
    """The target of a step that is one make target, and nothing else."""
    found = STEP.fullmatch(step.strip())
    return found[1] if found else None


@dataclass(frozen=True)
class Job:
    """A job of a workflow."""

    name: str
    definition: dict[str, Any]

    @property
    def steps(self) -> list[str]:
        """What it runs itself."""
        return [step["run"] for step in self.definition.get("steps", []) if "run" in step]


def jobs(project: Path) -> Iterator[Job]:
    """The jobs of all workflows, named as in the table."""
    for path in sorted((project / ".github" / "workflows").glob("*.yml")):
        workflow = yaml.safe_load(path.read_text(encoding="utf-8"))
        for name, definition in workflow["jobs"].items():
            yield Job(f"{path.stem}/{name}", definition)


def needed(project: Path, job: str) -> set[str]:
    """The jobs of the same workflow that have to succeed before this one begins."""
    known = {one.name: one.definition for one in jobs(project)}
    workflow = job.partition("/")[0]
    found: set[str] = set()
    waiting = [job]
    while waiting:
        asked = known[waiting.pop()].get("needs", [])
        for name in [asked] if isinstance(asked, str) else asked:
            if (full := f"{workflow}/{name}") not in found:
                found.add(full)
                waiting.append(full)
    return found
