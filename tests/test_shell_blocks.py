"""Every block of shell in a document says what proves it.

These tests run it, another one does, or it needs what no test has.

What stands after ```sh is one of:

- `run`: it is run here as it stands, in the tree that the document is in, block after block.
- `run with: ...`: the same, with something from `GIVEN`.
- `run until Ctrl-C`: the same for what serves until then; the blocks below it find it serving.
- `tested: file`: a test in this file does it; a service says `the template's` of one that it does not have itself.
- `needs: ...`: whoever types it needs something from `NEEDED`.
"""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from textwrap import dedent
from typing import IO, Any

import components
import httpx
import pytest
from conftest import FOLDER, ROOT, Bake, Git, Run
from services import environment_of, make
from test_docs import DOCUMENTS

from demo.ports import available

SERVICE = ROOT / FOLDER
SOURCES = [*DOCUMENTS, *sorted(SERVICE.rglob("*.md"))]

GIVEN = {
    "a service": "one of the default answers, where a document of the template tells of it",
    "a running service": "as `make run` starts it, unless a block above did",
    "pipx": "and with it the registry that it installs from",
    "promtool": "built by Go",
    "minutes": "nothing that is not there, but time",
}
NEEDED = {
    "a cluster",
    "a container engine",
    "a registry",
    "a running service",
    "a value of yours",
    "an idle machine",
    "Argo CD",
    "Argo Rollouts",
    "the template on GitHub",
}
# What each kind of tag may name after its colon.
KNOWN: Mapping[str, set[str]] = {"run": set(), "run until Ctrl-C": set(), "run with": set(GIVEN), "needs": NEEDED}

# `make test` has Python, make and Git, and no time: what in a page makes it one for later.
CI = ("curl ", "a running service", "pipx", "promtool")
LONG = "run with: minutes"

# Other answers, for pages that say other things then.
OTHERS = {"database": "none", "ci_system": "both", "deployment": "kubectl", "release_strategy": "canary"}


@dataclass(frozen=True)
class Block:
    """What a document says to type, and what it says of that."""

    tag: str
    script: str

    @property
    def kind(self) -> str:
        """The part of the tag that says what proves it."""
        return self.tag.partition(":")[0]

    @property
    def named(self) -> list[str]:
        """What the tag names after that."""
        return re.split(", ", self.tag.partition(": ")[2]) if ":" in self.tag else []

    @property
    def commands(self) -> list[str]:
        """The first two words of each command: what it is called by, and what that is told to do."""
        whole = re.sub(r"\\\n", " ", self.script)
        found = (re.match(r"(?:\w+=\S+ )*(\S+(?: \S+)?)", line) for line in whole.splitlines() if line[:1] not in "# ")
        return [command[1] for command in found if command]


def blocks(text: str) -> list[Block]:
    """The blocks of shell of a document, in order."""
    found = re.findall(r"^( *)```sh ?(.*)\n((?:.*\n)*?)\1```$", text, re.MULTILINE)
    return [Block(tag, dedent(script)) for _, tag, script in found]


def tags(document: Path) -> list[str]:
    """What a document says of each of its blocks, unrendered."""
    return re.findall(r"^ *```sh ?(.*)$", document.read_text(encoding="utf-8"), re.MULTILINE)


def name(document: Path) -> str:
    """What a test is called by that is about this document."""
    return str(document.relative_to(ROOT)).replace(FOLDER, "service")


def runnable(documents: list[Path]) -> list[Any]:
    """The documents with something to run, as parameters."""
    found = []
    for document in documents:
        text = document.read_text(encoding="utf-8")
        if any(tag.startswith("run") for tag in tags(document)):
            ci = [pytest.mark.ci] if any(thing in text for thing in CI) else []
            marks = [pytest.mark.long] if LONG in text else ci
            found.append(pytest.param(document, id=name(document), marks=marks))
    return found


@pytest.mark.parametrize("document", SOURCES, ids=name)
def test_each_block_of_shell_says_what_proves_it(document: Path) -> None:
    text = document.read_text(encoding="utf-8")
    opened = re.findall(r"^ *(?:```|~~~) *(\w*)", text, re.MULTILINE)[::2]
    assert {"", "bash", "console", "shell", "zsh"}.isdisjoint(opened), "shell is `sh`, what it says `text`"
    assert len(blocks(text)) == len(tags(document)), "a block does not end where it begins"

    for tag in tags(document):
        block = Block(tag, "")
        if block.kind == "tested":
            test = tag.removeprefix("tested: ")
            tree = SERVICE if document.is_relative_to(SERVICE) and not test.startswith("the template's ") else ROOT
            assert (tree / test.removeprefix("the template's ")).is_file(), tag
        else:
            assert block.kind in KNOWN, f"{tag!r}: say what proves it, as tests/test_shell_blocks.py tells"
            assert set(block.named) <= KNOWN[block.kind], tag
            assert bool(block.named) == bool(KNOWN[block.kind]), tag


@pytest.fixture(scope="session")
def template(tmp_path_factory: pytest.TempPathFactory, copy_template: Callable[[Path], Path], git: Git) -> Path:
    """The template as it is now, in a repository of its own, with its environment."""
    folder = copy_template(tmp_path_factory.mktemp("template"))
    git(folder, "init", "--quiet", "--initial-branch=main")
    git(folder, "add", "--all")
    git(folder, "commit", "--quiet", "--message=As it is now")
    (folder / ".venv").symlink_to(sys.prefix)
    return folder


class Maker:
    """Makes services as their owners have them: committed, with a place to push to, linked to their template."""

    def __init__(self, template: Path, folder: Path, run: Run, git: Git) -> None:
        self.template, self.folder, self.run, self.git = template, folder, run, git

    def __call__(self, **answers: str) -> Path:
        given = [f"{option}={answer}" for option, answer in answers.items()]
        done = self.run("cookiecutter", self.template, "--no-input", "--output-dir", self.folder / "out", *given)
        assert done.returncode == 0, done.stderr
        (project,) = (self.folder / "out").iterdir()
        self.git(self.folder, "init", "--quiet", "--bare", "origin")
        self.git(project, "init", "--quiet", "--initial-branch=main")
        self.git(project, "remote", "add", "origin", str(self.folder / "origin"))
        self.commit(project)
        self.git(project, "push", "--quiet", "origin", "main")
        make(project)
        # Older than the environments that are there, which so stand in for those that a first `make` would make.
        for lock in project.glob("requirements*.txt"):
            os.utime(lock, (0, 0))
        return project

    def commit(self, project: Path) -> None:
        """Keep what is there, as commands that change a tree want it."""
        self.git(project, "add", "--all")
        self.git(project, "commit", "--quiet", "--allow-empty", "--message=Go on")


@pytest.fixture
def service(template: Path, tmp_path: Path, run: Run, git: Git) -> Maker:
    return Maker(template, tmp_path, run, git)


class Terminal:
    """Types what a document says, in a folder, with the environment of a service active.

    Args:
        folder: where it is typed.
        service: whose environment it is.
        environment: that of the person who types.
        scratch: a folder for what the terminal itself needs.
    """

    def __init__(self, folder: Path, service: Path, environment: Mapping[str, str], scratch: Path) -> None:
        self.folder = folder
        venv = environment_of(service)
        api, metrics = available((0, 0))
        self.ready = f"http://127.0.0.1:{api}/health/ready"
        # What people have installed, here of the environment of the tests; and it is what `make` finds in `CI`.
        programs = scratch / "bin"
        programs.mkdir()
        for program in ("cookiecutter", "cruft"):
            (programs / program).symlink_to(Path(sys.prefix) / "bin" / program)
        (programs / "pipx").write_text(f'#!/bin/sh\nexec {sys.prefix}/bin/uvx pipx "$@"\n')
        (programs / "pipx").chmod(0o755)
        (scratch / ".ready").touch()
        # What documents call by the ports that are everybody's is called by ports that are ours.
        (scratch / ".curlrc").write_text(
            f'connect-to = "localhost:8000:127.0.0.1:{api}"\nconnect-to = "localhost:9000:127.0.0.1:{metrics}"\n'
        )
        self.environment = dict(environment) | {
            "PATH": os.pathsep.join([str(programs), str(venv / "bin"), environment["PATH"]]),
            "CURL_HOME": str(scratch),
            "HTTP_PORT": str(api),
            "METRICS_PORT": str(metrics),
            "MAKEFLAGS": f"VENV={venv} CI={scratch}",
            "PWD": str(folder),
        }

    def run(self, script: str, **environment: str) -> tuple[int, str]:
        """Type a block; where it asks, the answer is yes. The exit code, and what was said.

        What it leaves in the background ends with it, and holds nobody up.
        """
        with tempfile.TemporaryFile("w+", encoding="utf-8") as said, self.shell(script, said, environment) as process:
            try:
                process.communicate(b"y\n" * 9, timeout=1800)
            finally:
                with suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)
            said.seek(0)
            return process.returncode, said.read()

    def shell(self, script: str, said: IO[Any], environment: Mapping[str, str]) -> "subprocess.Popen[bytes]":
        """A shell that gives up at the first command that fails, in a group of its own."""
        return subprocess.Popen(
            ["sh", "-euc", script],
            cwd=self.folder,
            env=self.environment | dict(environment),
            stdin=subprocess.PIPE,
            stdout=said,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )

    @contextmanager
    def serving(self, script: str) -> Iterator[None]:
        """Type what serves, and end it by Ctrl-C when it is no longer wanted."""
        with tempfile.TemporaryFile("w+", encoding="utf-8") as said:
            with self.shell(script, said, {}) as process:
                try:
                    deadline = time.monotonic() + 60
                    while process.poll() is None and time.monotonic() < deadline:
                        with suppress(httpx.TransportError):
                            if httpx.get(self.ready).is_success:
                                break
                        time.sleep(0.1)
                    yield
                finally:
                    # To make and to what it runs, as a terminal does it.
                    with suppress(ProcessLookupError):
                        os.killpg(process.pid, signal.SIGINT)
            said.seek(0)
            whole = said.read()
        assert "Shutting down" in whole, f"{script}\n{whole}"
        assert "Traceback" not in whole, f"{script}\n{whole}"


def play(page: str, terminal: Terminal, after: Callable[[], None]) -> int:
    """Type what a page says to type, top to bottom, as far as these tests can; how many blocks that were."""
    played = 0
    with ExitStack() as stack:
        serves = False
        for block in blocks(page):
            begins = block.tag == "run until Ctrl-C"
            if not serves and (begins or (block.kind == "run with" and "a running service" in block.named)):
                stack.enter_context(terminal.serving(block.script if begins else "make run"))
                serves = True
            if block.kind in ("run", "run with"):
                assert "curl " not in block.script or shutil.which("curl"), "missing: apt-get install curl"
                environment = {}
                if "promtool" in block.named:
                    environment["PROMTOOL"] = str(components.build("prometheus") / "promtool")
                code, said = terminal.run(block.script, **environment)
                assert code == 0, f"{block.script}\n{said[-9000:]}"
                after()
            played += block.kind.startswith("run")
    return played


@pytest.mark.parametrize("document", runnable(DOCUMENTS))
def test_blocks_of_the_template_run_as_they_stand(
    document: Path, template: Path, service: Maker, environment: dict[str, str], tmp_path: Path
) -> None:
    """In the template; or in a service, when the page is about what its owner does."""
    page = document.read_text(encoding="utf-8")
    project = service()
    in_service = any("a service" in block.named for block in blocks(page))
    terminal = Terminal(project if in_service else template, project, environment, tmp_path)

    played = play(page, terminal, lambda: service.commit(project))

    assert played == sum(tag.startswith("run") for tag in tags(document))


@pytest.mark.parametrize("document", runnable(sorted(SERVICE.rglob("*.md"))))
def test_blocks_of_a_service_run_as_they_stand(
    document: Path, service: Maker, environment: dict[str, str], tmp_path: Path
) -> None:
    project = service()
    page = (project / document.relative_to(SERVICE)).read_text(encoding="utf-8")

    played = play(page, Terminal(project, project, environment, tmp_path), lambda: service.commit(project))

    assert played == sum(tag.startswith("run") for tag in tags(document))


@pytest.mark.ci
def test_blocks_of_the_readme_run_as_they_stand_with_other_answers_too(
    service: Maker, environment: dict[str, str], tmp_path: Path
) -> None:
    project = service(**OTHERS)
    page = (project / "README.md").read_text(encoding="utf-8")

    assert play(page, Terminal(project, project, environment, tmp_path), lambda: service.commit(project))


@pytest.mark.parametrize("answers", [{}, OTHERS], ids=["defaults", "others"])
def test_a_test_that_a_block_names_does_what_the_block_says(answers: dict[str, str], service: Maker) -> None:
    project = service(**answers)
    unproven = []
    for tree, documents in ((ROOT, DOCUMENTS), (project, sorted(project.rglob("*.md")))):
        for document in documents:
            for block in blocks(document.read_text(encoding="utf-8")):
                if block.kind == "tested":
                    (test,) = block.named
                    place = ROOT if test.startswith("the template's ") else tree
                    text = (place / test.removeprefix("the template's ")).read_text(encoding="utf-8")
                    words = set(re.findall(r"[^\s\"'(),]+", text))
                    missing = [one for one in block.commands if one not in text and not set(one.split()) <= words]
                    unproven += [(document.name, test, command) for command in missing if document.name not in text]

    assert not unproven, "\n".join(map(str, unproven))


@pytest.mark.ci
@pytest.mark.parametrize("answers", [{}, OTHERS], ids=["defaults", "others"])
@pytest.mark.parametrize("program", ["docker", "kubectl"])
def test_a_program_understands_what_documents_say_to_it(
    program: str, answers: dict[str, str], bake: Bake, tmp_path: Path
) -> None:
    """A command with a flag that is none, or without a word that is wanted, ends before anybody is asked."""
    project = bake(**answers)
    nobody = {"clusters": [{"name": "it", "cluster": {"server": "http://127.0.0.1:1"}}], "current-context": "it"}
    context = {"contexts": [{"name": "it", "context": {"cluster": "it"}}]}
    (tmp_path / "kubeconfig").write_text(json.dumps(nobody | context), encoding="utf-8")
    programs = [components.build(name) for name in ("kubernetes", "argo-rollouts")] if program == "kubectl" else []
    ours = {name: value for name, value in os.environ.items() if not name.startswith(("COMPOSE_", "DOCKER_", "KUBE"))}
    environment = ours | {
        "DOCKER_HOST": "tcp://127.0.0.1:1",
        "KUBECONFIG": str(tmp_path / "kubeconfig"),
        "PATH": os.pathsep.join([*map(str, programs), os.environ["PATH"]]),
    }
    # What is said when nobody is there, or before: a terminal and a file are not there either.
    refusals = ("refused", "annot connect to the Docker daemon", "not a TTY", "tls.crt: no such file")
    # Each on its own, up to where its quotes are closed.
    command = re.compile(rf"^(?:\w+=\S+ )*{program} (?:'[^']*'|\\\n|[^'\n])*", re.MULTILINE)
    pages = [page.read_text(encoding="utf-8") for page in sorted(project.rglob("*.md"))]
    commands = {said for page in pages for block in blocks(page) for said in command.findall(block.script)}

    assert len(commands) > 20
    for said in sorted(commands):
        where: dict[str, Any] = {"cwd": project, "env": environment, "stdin": subprocess.DEVNULL}
        try:
            answer = subprocess.run(["sh", "-c", said], **where, capture_output=True, timeout=10, check=False).stderr
        except subprocess.TimeoutExpired as asking:
            answer = asking.stderr or b""
        assert any(refusal in answer.decode() for refusal in refusals), f"{said}\n{answer.decode()}"
