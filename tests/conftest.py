"""What the template's tests share: answers, ways to generate, an environment that nobody's settings reach."""

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Protocol

import needs
import pytest
from cookiecutter.generate import generate_context
from cookiecutter.prompt import prompt_for_config

ROOT = Path(__file__).resolve().parent.parent
FOLDER = "{{cookiecutter.__project_folder}}"

# What links a service to its template, and holds the answers.
LINK = ".cruft.json"

# The hooks are scripts, not a package; this is how a test imports one.
sys.path[:0] = [str(ROOT / "hooks"), str(ROOT / "tools")]

# What tests share that stand in folders of their own.
sys.path += [str(ROOT / "tests" / folder) for folder in ("live", "manifests", "cluster")]

# A cluster takes what Windows does not have; what is tested there (tests/portable.txt) does without.
pytest_plugins = ["shared"] if find_spec("fcntl") else []

# A make that runs these tests would hand its flags to those that they run, which then say more than they say to users.
for variable in ("MAKEFLAGS", "MAKELEVEL", "MFLAGS"):
    os.environ.pop(variable, None)


def pytest_report_header() -> str:
    """Say what the service is tested on, and what is missing here."""
    return needs.summary()


def pytest_addoption(parser: pytest.Parser) -> None:
    """Let several machines share a run."""
    parser.addoption("--shard", help="run a part of the chosen tests: --shard=1/4 is the first of four")


# After the markers have chosen.
@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Begin with what takes longest, which would be waited for alone, and leave other shards to other machines."""
    items.sort(key=lambda item: item.path.name != "test_service.py")
    if which := config.getoption("shard"):
        kept = set(shard(items, which, lambda item: item.get_closest_marker("long") is not None))
        config.hook.pytest_deselected(items=[item for item in items if item not in kept])
        items[:] = [item for item in items if item in kept]


def shard(items: Sequence[Any], which: str, is_long: Callable[[Any], bool] = lambda _: False) -> list[Any]:
    """The part that is meant by `1/4`: neighbours, as they share what is dear to set up, and every fourth long one."""
    found = re.fullmatch(r"([1-9]\d*)/([1-9]\d*)", which)
    number, of = map(int, found.groups()) if found else (1, 0)
    if number > of:
        raise pytest.UsageError(f"a shard is written --shard=1/4, and not {which!r}")
    long, rest = ([item for item in items if is_long(item) is wanted] for wanted in (True, False))
    chosen = {*long[number - 1 :: of], *rest[len(rest) * (number - 1) // of : len(rest) * number // of]}
    return [item for item in items if item in chosen]


# Runs git in a folder; returns what it prints.
Git = Callable[..., str]


class Bake(Protocol):
    """Generate a project with these answers, and the defaults for the rest."""

    def __call__(self, **answers: str | bool) -> Path: ...


class Run(Protocol):
    """Run a Python module as a user would, with output captured."""

    def __call__(
        self,
        *arguments: str | Path,
        cwd: Path | None = None,
        stdin: str = "",
        env: Mapping[str, str] | None = None,
    ) -> subprocess.CompletedProcess[str]: ...


@pytest.fixture(scope="session")
def defaults() -> dict[str, Any]:
    """Return the context that Cookiecutter makes of the defaults, private values included."""
    context = generate_context(context_file=str(ROOT / "cookiecutter.json"))
    return dict(prompt_for_config(context, no_input=True))


@pytest.fixture
def bake(cookies: Any, capfd: pytest.CaptureFixture[str]) -> Bake:
    """Return a function that generates into a fresh folder, and fails with what the hooks had to say."""

    def generate(**answers: str | bool) -> Path:
        result = cookies.bake(extra_context=answers, template=str(ROOT))
        if result.exception is not None:
            output = capfd.readouterr()
            pytest.fail(f"{answers} was not generated: {result.exception!r}\n{output.err}{output.out}")
        return Path(result.project_path)

    return generate


@pytest.fixture(scope="session")
def default_project(cookies_session: Any) -> Path:
    """Return a project generated from the defaults. Shared: read it only."""
    result = cookies_session.bake(template=str(ROOT))
    assert result.exception is None, repr(result.exception)
    return Path(result.project_path)


@pytest.fixture(scope="session")
def overlays(cookies_session: Any) -> Any:
    """Return the overlays of all profiles, rendered. Shared: read them only."""
    # It stands beside the tests that use it, and builds kustomize.
    from rendered import render_all

    return render_all(cookies_session)


@pytest.fixture(scope="session")
def environment(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Return environment variables that hide the settings of the person who tests."""
    home = tmp_path_factory.mktemp("home")
    config = home / "cookiecutter.yaml"
    config.write_text(f"cookiecutters_dir: '{home / 'cookiecutters'}'\nreplay_dir: '{home / 'replay'}'\n")
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(("GIT_", "PYTHON"))}
    return inherited | {
        "HOME": str(home),
        "USERPROFILE": str(home),
        "COOKIECUTTER_CONFIG": str(config),
        "COLUMNS": "500",
        "GIT_CONFIG_GLOBAL": os.devnull,
        "GIT_CONFIG_NOSYSTEM": "1",
        "GIT_AUTHOR_NAME": "Tester",
        "GIT_AUTHOR_EMAIL": "tester@example.com",
        "GIT_COMMITTER_NAME": "Tester",
        "GIT_COMMITTER_EMAIL": "tester@example.com",
        "PYTHONIOENCODING": "utf-8",
        "PYTHONUTF8": "1",
    }


@pytest.fixture(scope="session")
def run(environment: dict[str, str]) -> Run:
    """Return a function that runs `python -m <arguments>`; it never raises, the test judges the exit code."""

    def run_module(
        *arguments: str | Path, cwd: Path | None = None, stdin: str = "", env: Mapping[str, str] | None = None
    ) -> subprocess.CompletedProcess[str]:
        # The shell keeps PWD in step with its folder; so must whoever stands in for it.
        place = environment | {"PWD": str(cwd or Path.cwd())} | dict(env or {})
        return subprocess.run(
            [sys.executable, "-m", *map(str, arguments)],
            capture_output=True,
            check=False,
            cwd=cwd,
            encoding="utf-8",
            env=place,
            input=stdin,
        )

    return run_module


@pytest.fixture(scope="session")
def git(environment: dict[str, str]) -> Git:
    """Return a function that runs git in a folder and returns what it prints."""

    def run_git(folder: Path, *arguments: str) -> str:
        command = ["git", "-C", str(folder), *arguments]
        return subprocess.run(command, capture_output=True, check=True, encoding="utf-8", env=environment).stdout

    return run_git


@pytest.fixture(scope="session")
def copy_template() -> Callable[[Path], Path]:
    """Return a function that copies the template as it is now, committed or not, without its history."""
    from options import LEFT_BEHIND

    def copy(target: Path) -> Path:
        for name in ("hooks", "templates", FOLDER):
            if (ROOT / name).is_dir():
                shutil.copytree(ROOT / name, target / name, ignore=shutil.ignore_patterns(*LEFT_BEHIND))
        shutil.copy(ROOT / "cookiecutter.json", target)
        return target

    return copy


def commit(folder: Path, git: Git) -> str:
    """Commit all that is in a repository; return the commit."""
    git(folder, "add", "--all", "--force")
    git(folder, "commit", "--quiet", "--message=all of it")
    return git(folder, "rev-parse", "HEAD").strip()


@pytest.fixture
def template(tmp_path: Path, copy_template: Callable[[Path], Path], git: Git) -> Path:
    """Return a Git repository that holds the template as it is now."""
    repository = copy_template(tmp_path / "template")
    git(repository, "init", "--quiet", "--initial-branch=main")
    commit(repository, git)
    return repository
