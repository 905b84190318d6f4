"""A service takes what is new with `cruft update`, from each release in this repository's history on.

A release is the commit that set its version in `pyproject.toml`; the changelog lists them.
"""

import json
import re
import shutil
from collections.abc import Callable
from functools import cache
from pathlib import Path

import pytest
from conftest import LINK, ROOT, Git, Run
from release import releases
from trees import contents

# A service is generated, updated and generated again in each, which takes seconds.
pytestmark = pytest.mark.ci

Copy = Callable[[Path], Path]

CHANGELOG = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
RELEASES = re.findall(r"^## \[(\d+\.\d+\.\d+)\]", CHANGELOG, re.MULTILINE)[::-1]

# Releases whose services are taken through every kind of change; from the others an untouched service is enough, and
# from the newest there may be nothing to take yet.
OLDEST, PREVIOUS, NEWEST = RELEASES[0], RELEASES[-2], RELEASES[-1]


@cache
def history() -> dict[str, str]:
    """The commit of each release. Tags are for people: this holds without them."""
    return {str(version): commit for version, commit in releases().items()}


def commit_of(release: str) -> str:
    """The commit that set the version."""
    found = history().get(release)
    assert found, f"no commit sets the version {release}: it is not released, or `git fetch --unshallow` is needed"
    return found


@pytest.fixture(scope="session")
def template(tmp_path_factory: pytest.TempPathFactory, copy_template: Copy, git: Git) -> Path:
    """This repository with its history, and on its main branch the tree as it is now, committed or not."""
    repository = tmp_path_factory.mktemp("upgrades") / "template"
    git(ROOT, "clone", "--quiet", "--no-checkout", str(ROOT), str(repository))
    git(repository, "checkout", "--quiet", "-B", "main", "HEAD")
    for path in repository.iterdir():
        if path.name != ".git":
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    copy_template(repository)
    git(repository, "add", "--all")
    git(repository, "commit", "--quiet", "--allow-empty", "--message=As it is now")
    return repository


class Maker:
    """Makes services of any release, and the same as they would be made today."""

    def __init__(self, template: Path, folder: Path, run: Run, git: Git) -> None:
        self.template, self.folder, self.run, self.git = template, folder, run, git

    def service(self, release: str, *, plain: bool = False, **answers: str | bool) -> Path:
        """A service of this release, committed as its owner would; `plain` when by Cookiecutter itself."""
        copy = self.folder / f"template-{release}"
        self.git(self.folder, "clone", "--quiet", "--shared", "--no-checkout", str(self.template), str(copy))
        self.git(copy, "checkout", "--quiet", "--detach", commit_of(release))
        project = self._make(copy, self.folder / release, answers, plain=plain)
        # Whoever generated it then is linked to the template's address, and gets what is there today.
        self.git(copy, "checkout", "--quiet", "-B", "main", "origin/main")
        self.git(project, "init", "--quiet")
        self.commit(project)
        return project

    def fresh(self, release: str, **answers: str | bool) -> Path:
        """What the template makes today, from the same address."""
        return self._make(self.folder / f"template-{release}", self.folder / "fresh", answers)

    def _make(self, template: Path, folder: Path, answers: dict[str, str | bool], *, plain: bool = False) -> Path:
        if plain:
            given = [f"{name}={answer}" for name, answer in answers.items()]
            done = self.run("cookiecutter", template, "--no-input", "--output-dir", folder, *given)
        else:
            given = ["--extra-context", json.dumps(answers)]
            done = self.run("cruft", "create", template, "--no-input", "--output-dir", folder, *given)
        assert done.returncode == 0, done.stderr
        (project,) = folder.iterdir()
        return project

    def commit(self, project: Path) -> None:
        self.git(project, "add", "--all")
        self.git(project, "commit", "--quiet", "--message=Go on")

    def release(self, project: Path, environment: str) -> None:
        """Let the environment run some image, as the pipeline does."""
        digest, env = f"sha256:{'0' * 64}", {"PYTHONDONTWRITEBYTECODE": "1"}
        done = self.run("tools.release", environment, digest, "1.2.3", cwd=project, env=env)
        assert done.returncode == 0, done.stderr

    def update(self, project: Path, **changed: str | bool) -> None:
        """Take what is new, and with it other answers; nothing may be left for a person to do."""
        variables = ("--variables-to-update", json.dumps(changed)) if changed else ()
        done = self.run("cruft", "update", "--skip-apply-ask", *variables, cwd=project)
        assert done.returncode == 0, done.stdout + done.stderr
        assert left_to_do(project) == []


@pytest.fixture
def make(template: Path, tmp_path: Path, run: Run, git: Git) -> Maker:
    return Maker(template, tmp_path, run, git)


def left_to_do(project: Path) -> list[str]:
    """The files with a conflict, and what could not be applied."""
    return [
        name
        for name, content in contents(project).items()
        if name.endswith((".rej", ".orig")) or b"\n<<<<<<< " in content
    ]


def differences(project: Path, fresh: Path) -> list[str]:
    """The files that are not what a fresh generation has; of the link, what is not an answer."""
    ours, theirs = contents(project), contents(fresh)
    return sorted(name for name in ours.keys() | theirs.keys() if ours.get(name) != theirs.get(name))


def append(path: Path, line: str) -> None:
    path.write_text(f"{path.read_text(encoding='utf-8')}{line}\n", encoding="utf-8", newline="\n")


def test_every_release_is_a_commit_and_the_newest_is_the_version() -> None:
    version = re.search(r'^version = "(.+)"', (ROOT / "pyproject.toml").read_text(encoding="utf-8"), re.MULTILINE)

    assert version
    assert version[1] == NEWEST
    assert len({commit_of(release) for release in RELEASES}) == len(RELEASES) > 1


@pytest.mark.parametrize("release", RELEASES)
def test_an_untouched_service_becomes_what_a_fresh_one_is(release: str, make: Maker) -> None:
    project = make.service(release)

    make.update(project)

    assert differences(project, make.fresh(release)) == []
    assert make.run("cruft", "check", cwd=project).returncode == 0


# Each release has these, and the template has changed the second since the first of them.
DELETED = ("CODEOWNERS", "tests/unit/test_tracing.py")


@pytest.mark.parametrize("release", [OLDEST, PREVIOUS])
def test_what_its_owner_changed_added_and_deleted_stays_so(release: str, make: Maker) -> None:
    project = make.service(release)
    append(project / "README.md", "Ours.")
    facts = project / "app" / "service.toml"
    facts.write_text(facts.read_text(encoding="utf-8").replace('"0.1.0"', '"1.2.3"'), encoding="utf-8", newline="\n")
    (project / "app" / "api" / "ours.py").write_text("ours = True\n", encoding="utf-8")
    before = contents(project)
    for name in DELETED:
        (project / name).unlink()
    make.commit(project)

    make.update(project)

    fresh = make.fresh(release)
    assert (project / "README.md").read_text(encoding="utf-8").endswith("\nOurs.\n")
    assert 'version = "1.2.3"' in facts.read_text(encoding="utf-8")
    assert (project / "app" / "api" / "ours.py").exists()
    assert [name for name in DELETED if (project / name).exists()] == []
    assert release != OLDEST or contents(fresh)[DELETED[1]] != before[DELETED[1]], "the template did not change it"
    assert set(differences(project, fresh)) == {"README.md", "app/service.toml", "app/api/ours.py", *DELETED}


# What a service of the release can be asked, and what it changes to.
TOGGLED = [
    {"license": "MIT"},
    {"license": "Apache-2.0"},
    {"database": "none"},
    {"observability_stack": False},
    {"production_image": "standard"},
    {"slo_availability": "99.5", "slo_latency_ms": "250"},
    {"deployment": "kubectl", "release_strategy": "canary", "exposure": "ingress"},
    {"ci_system": "both", "exposure": "load-balancer"},
    {"ci_system": "none", "exposure": "cluster-internal"},
    {"load_tests": False, "chaos_drills": False},
    {"team": "shop", "description": "Sells things.", "domain": "shop.example"},
]


@pytest.mark.parametrize("release", [OLDEST, PREVIOUS])
@pytest.mark.parametrize("changed", TOGGLED, ids=str)
def test_an_answer_changed_with_an_update_changes_exactly_what_it_decides(
    changed: dict[str, str | bool], release: str, make: Maker
) -> None:
    project = make.service(release)

    make.update(project, **changed)

    assert differences(project, make.fresh(release, **changed)) == []


def test_an_option_that_was_left_out_comes_with_its_files(make: Maker) -> None:
    offered = json.loads((ROOT / "cookiecutter.json").read_text(encoding="utf-8"))
    left_out: dict[str, str | bool] = {
        "ci_system": "none",
        "deployment": "kubectl",
        "exposure": "cluster-internal",
        "database": "none",
        "observability_stack": False,
        "load_tests": False,
        "chaos_drills": False,
    }
    project = make.service(NEWEST, plain=False, **left_out)

    defaults = {name: offered[name] for name in left_out}
    make.update(project, **{name: one[0] if isinstance(one, list) else one for name, one in defaults.items()})

    assert differences(project, make.fresh(NEWEST)) == []


def test_a_service_of_plain_cookiecutter_is_updated_the_same_way(make: Maker) -> None:
    project = make.service(PREVIOUS, plain=True)

    make.update(project)

    assert [name for name in differences(project, make.fresh(PREVIOUS)) if name != LINK] == []


@pytest.mark.parametrize("release", [PREVIOUS, NEWEST])
def test_a_renamed_service_changes_everywhere_but_in_the_name_of_its_folder(release: str, make: Maker) -> None:
    project = make.service(release)

    named = {"project_slug": "shop", "repository_url": "https://github.com/example-org/shop"}
    named |= {"image_repository": "ghcr.io/example-org/shop"}

    make.update(project, **named)

    assert project.name == "sre-demo-api"
    fresh = make.fresh(release, **named)
    environments = ("dev", "prod", "staging")
    # What releases wrote stays, until the next ones.
    assert differences(project, fresh) == [f"k8s/overlays/{one}/release/kustomization.yaml" for one in environments]
    for tree in (project, fresh):
        for environment in environments:
            make.release(tree, environment)
    assert differences(project, fresh) == []
