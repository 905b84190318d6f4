"""A Jenkinsfile as the Groovy that Jenkins bundles parses it: its stages, and what each of them says."""

import fcntl
import hashlib
import json
import re
import shutil
import subprocess
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import needs
import pytest
from components import CACHE, TOOLS

TOOL = TOOLS / "jenkinsfile"


@dataclass(frozen=True)
class Call:
    """A step, a section or a stage: in Groovy all of them are calls, and most take a block."""

    name: str
    line: int
    arguments: tuple[Any, ...]
    block: tuple[Any, ...]

    def find(self, name: str) -> Iterator["Call"]:
        """All calls of that name inside of this one, however deep."""
        for part in _calls((*self.arguments, *self.block)):
            if part.name == name:
                yield part
            yield from part.find(name)

    def section(self, name: str) -> "Call | None":
        """The call of that name that stands in the block itself."""
        return next((part for part in self.block if isinstance(part, Call) and part.name == name), None)

    @property
    def value(self) -> Any:
        """Its only argument, or its named ones."""
        return self.arguments[0] if self.arguments else None


@dataclass(frozen=True)
class Event:
    """Why a build runs, as far as a `when` may ask."""

    branch: str = ""
    tag: bool = False
    timer: bool = False
    changed: tuple[str, ...] = ()
    sonar: bool = False
    releases: bool = True

    def meets(self, condition: Any) -> bool:  # noqa: C901, PLR0911 - one for each condition
        """Whether a condition holds, as https://www.jenkins.io/doc/book/pipeline/syntax/#when defines it.

        Raises:
            ValueError: it is not known here.
        """
        match condition:
            case Call(name="beforeAgent" | "beforeInput"):
                return True
            case Call(name="branch", arguments=(str(name),)):
                return self.branch == name
            case Call(name="buildingTag", arguments=()):
                return self.tag
            case Call(name="triggeredBy", arguments=("TimerTrigger",)):
                return self.timer
            case Call(name="changeset", arguments=({"pattern": pattern, "comparator": "REGEXP"},)):
                return any(re.fullmatch(pattern, path) for path in self.changed)
            case Call(name="changeset", arguments=(str(pattern),)):
                # No asterisk of ours stands for more than one folder or name.
                expression = re.escape(pattern).replace(r"\*", "[^/]*")
                return any(re.fullmatch(expression, path) for path in self.changed)
            case Call(name="expression", block=({"code": "env.SONAR_HOST_URL"},)):
                return self.sonar
            case Call(name="expression", block=({"code": "env.RELEASES"},)):
                return self.releases
            case Call(name="not", block=(inner,)):
                return not self.meets(inner)
            case Call(name="anyOf", block=inner):
                return any(map(self.meets, inner))
            case Call(name="allOf", block=inner):
                return all(map(self.meets, inner))
        raise ValueError(f"unknown condition: {condition}")


@dataclass(frozen=True)
class Stage:
    """One stage, with those that it stands in."""

    call: Call
    parents: tuple["Stage", ...] = ()

    @property
    def name(self) -> str:
        """As people see it."""
        return str(self.call.value)

    @cached_property
    def children(self) -> list["Stage"]:
        """The stages in it, in parallel or one after the other."""
        inner = self.call.section("stages") or self.call.section("parallel")
        return _stages(inner, (*self.parents, self)) if inner else []

    def section(self, name: str) -> Call | None:
        """What it says itself, as its `when`."""
        return self.call.section(name)

    def inherited(self, name: str) -> Call | None:
        """What it says, or the nearest stage around it."""
        return next((found for stage in (self, *reversed(self.parents)) if (found := stage.section(name))), None)

    def runs(self, event: "Event") -> bool:
        """Whether it runs for this event, by its own `when` and those of the stages around it."""
        conditions = [stage.section("when") for stage in (*self.parents, self)]
        return all(event.meets(part) for when in conditions if when for part in when.block)

    def calls(self, name: str) -> list[Call]:
        """All calls of that name in what it says itself, not in the stages in it."""
        own = (self.section(part) for part in ("when", "environment", "options", "input", "steps", "post", "agent"))
        return [found for part in own if part for found in part.find(name)]


def _calls(parts: Sequence[Any]) -> Iterator[Call]:
    for part in parts:
        if isinstance(part, Call):
            yield part
        elif isinstance(part, list):
            yield from _calls(part)
        elif isinstance(part, dict):
            yield from _calls(list(part.values()))


def _stages(section: Call, parents: tuple[Stage, ...] = ()) -> list[Stage]:
    return [Stage(call, parents) for call in section.block if isinstance(call, Call) and call.name == "stage"]


@dataclass(frozen=True)
class Pipeline:
    """The whole file."""

    call: Call

    @property
    def stages(self) -> list[Stage]:
        """The outermost stages, in their order."""
        section = self.call.section("stages")
        assert section, "the pipeline has no stages"
        return _stages(section)

    def walk(self) -> Iterator[Stage]:
        """All stages, each before those in it."""
        waiting = list(self.stages)
        while waiting:
            stage = waiting.pop(0)
            yield stage
            waiting = stage.children + waiting


def groovy() -> Path:
    """The jar of Groovy, fetched by Maven unless it is in the cache."""
    needs.demand(needs.java(), "Java and Maven for a Jenkinsfile")
    pins = TOOL / "pom.xml"

    def fetch(folder: Path) -> None:
        goal = ("dependency:copy-dependencies", f"-DoutputDirectory={folder}")
        _run(["mvn", "--quiet", "--batch-mode", "--file", pins, *goal])

    (jar,) = _kept(pins, fetch).glob("*.jar")
    return jar


def parse(text: str) -> Pipeline:
    """Parse a Jenkinsfile.

    Raises:
        ValueError: it is no Groovy, or no declarative pipeline.
    """
    command: list[str | Path] = ["java", "-classpath", groovy(), TOOL / "Ast.java"]
    done = subprocess.run(command, input=text, capture_output=True, text=True, check=False, timeout=120)
    if done.returncode:
        raise ValueError(done.stderr)
    statements = [_node(one) for one in json.loads(done.stdout)]
    if [one.name for one in statements if isinstance(one, Call)] != ["pipeline"] or len(statements) > 1:
        raise ValueError("it is more, or less, than one pipeline")
    return Pipeline(statements[0])


def _node(raw: Any) -> Any:
    match raw:
        case {"call": name, "line": line, "arguments": arguments, "block": block}:
            return Call(name, line, tuple(map(_node, arguments)), tuple(map(_node, block or ())))
        case {"code": code, "line": _}:
            return {"code": code}
        case dict():
            return {key: _node(value) for key, value in raw.items()}
        case list():
            return [_node(value) for value in raw]
    return raw


def linter() -> Path:
    """npm-groovy-lint, installed unless it is in the cache."""
    needs.demand(needs.npm(), "Node.js for a Jenkinsfile")
    pins = TOOL / "package.json"
    flags = ("--no-package-lock", "--no-audit", "--no-fund", "--ignore-scripts", "--silent")

    def install(folder: Path) -> None:
        shutil.copy(pins, folder)
        _run(["npm", "install", *flags], cwd=folder)

    return _kept(pins, install) / "node_modules" / ".bin" / "npm-groovy-lint"


def _kept(pins: Path, fill: Callable[[Path], None]) -> Path:
    """The folder that is filled with what a file pins, unless it is in the cache: whole, whatever was interrupted."""
    folder = CACHE / f"jenkinsfile-{hashlib.sha256(pins.read_bytes()).hexdigest()[:16]}"
    whole, partial = folder / "whole", folder / "partial"
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "lock").open("w") as turn:
        fcntl.flock(turn, fcntl.LOCK_EX)
        if not whole.exists():
            shutil.rmtree(partial, ignore_errors=True)
            partial.mkdir()
            fill(partial)
            partial.rename(whole)
    return whole


def lint(text: str, folder: Path) -> str:
    """What CodeNarc has against a Jenkinsfile, down to a remark; nothing if it has nothing."""
    program = linter()
    needs.demand(needs.java(), "Java for a Jenkinsfile")
    (folder / "Jenkinsfile").write_text(text, encoding="utf-8")
    # A server that it would leave behind is of no use to a single run.
    command: list[str | Path] = [
        program,
        "--noserver",
        "--failon",
        "info",
        "--config",
        TOOL / ".groovylintrc.json",
        "Jenkinsfile",
    ]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False, timeout=300)
    assert "linted files" in done.stdout + done.stderr, done.stdout + done.stderr
    return done.stdout if done.returncode else ""


def _run(command: Sequence[str | Path], cwd: Path | None = None) -> None:
    done = subprocess.run(command, cwd=cwd, capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.fail(f"{command}\n{done.stdout[-5000:]}{done.stderr[-5000:]}", pytrace=False)
