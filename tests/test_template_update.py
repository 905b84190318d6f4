"""`make template-update` of a service: it takes what is new, and fails where a person has to decide."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import FOLDER, LINK, Git, Run, commit
from services import environment_of, make


@pytest.fixture
def service(template: Path, run: Run, git: Git, tmp_path: Path) -> Path:
    """A service of the default answers, committed."""
    done = run("cookiecutter", template, "--no-input", "-o", tmp_path / "out")
    assert done.returncode == 0, done.stderr
    folder = tmp_path / "out" / "sre-demo-api"
    git(folder, "init", "--quiet")
    commit(folder, git)
    return folder


def update(service: Path, environment: dict[str, str]) -> "subprocess.CompletedProcess[str]":
    """Run the target, with the cruft that tests of the template have."""
    make(service)
    tools = Path(sys.executable).parent.parent
    venv = environment_of(service)
    old = [f"--assume-old={lock}" for lock in ("requirements.txt", "requirements-ci.txt", f"{tools}/.ready")]
    return subprocess.run(
        ["make", *old, f"VENV={venv}", f"CI={tools}", "template-update"],
        cwd=service,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )


PATCH = {"TEMPLATE_PATCH": "reports/template.patch"}


def test_without_anything_new_nothing_changes(service: Path, environment: dict[str, str], git: Git) -> None:
    done = update(service, environment | PATCH)

    assert done.returncode == 0, done.stdout + done.stderr
    assert git(service, "status", "--porcelain") == ""
    assert (service / PATCH["TEMPLATE_PATCH"]).read_text(encoding="utf-8") == ""


def test_what_is_new_is_taken_and_what_was_released_stays(
    template: Path, service: Path, environment: dict[str, str], git: Git
) -> None:
    release = "k8s/overlays/dev/release/kustomization.yaml"
    for folder, text in ((template / FOLDER, "of the template"), (service, "of the pipeline")):
        path = folder / release
        path.write_text(f"# {text}\n{path.read_text(encoding='utf-8')}", encoding="utf-8")
    (template / FOLDER / "NEW.md").write_text("new\n", encoding="utf-8")
    (template / FOLDER / "NEW.bin").write_bytes(bytes(range(256)))
    commit(template, git)
    commit(service, git)

    done = update(service, environment | PATCH)

    assert done.returncode == 0, done.stdout + done.stderr
    assert (service / "NEW.md").read_text(encoding="utf-8") == "new\n"
    assert (service / release).read_text(encoding="utf-8").startswith("# of the pipeline\n")
    head = git(template, "rev-parse", "HEAD").strip()
    assert json.loads((service / LINK).read_text())["commit"] == head
    assert f"  MIGRATING.md of {template} at {head}\n" in done.stdout
    git(service, "apply", "--index", "--reverse", PATCH["TEMPLATE_PATCH"])
    assert git(service, "status", "--porcelain") == ""


def test_a_line_that_both_changed_is_told(template: Path, service: Path, environment: dict[str, str], git: Git) -> None:
    for folder, text in ((template / FOLDER, "theirs"), (service, "ours")):
        path = folder / "CODEOWNERS"
        path.write_text(f"# {text}\n", encoding="utf-8")
        commit(folder if folder == service else template, git)

    done = update(service, environment)

    assert done.returncode != 0
    assert "CODEOWNERS" in done.stderr
    assert "conflict markers" in done.stderr or "could not be applied" in done.stderr


def test_a_file_that_the_template_dropped_and_somebody_had_changed_is_told(
    template: Path, service: Path, environment: dict[str, str], git: Git
) -> None:
    (template / FOLDER / "docs" / "architecture" / "IMAGES.md").unlink()
    commit(template, git)
    (service / "docs" / "architecture" / "IMAGES.md").write_text("ours\n", encoding="utf-8")
    commit(service, git)

    done = update(service, environment)

    assert done.returncode != 0
    assert "docs/architecture/IMAGES.md" in done.stderr


def test_changes_that_are_not_committed_are_not_mixed_with_it(service: Path, environment: dict[str, str]) -> None:
    (service / "README.md").write_text("half done\n", encoding="utf-8")

    done = update(service, environment)

    assert done.returncode != 0
    assert "commit or stash them first" in done.stderr


def test_without_a_repository_nothing_is_installed_and_one_sentence_says_why(
    default_project: Path, environment: dict[str, str], tmp_path: Path
) -> None:
    service = shutil.copytree(default_project, tmp_path / "service")

    done = subprocess.run(
        ["make", "--silent", "template-update"],
        cwd=service,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )

    assert done.returncode != 0
    assert done.stdout == ""
    assert done.stderr.startswith("Git has to know this folder: begin a repository, and commit it as it is.\n")
    assert not (service / ".venv").exists()


@pytest.mark.parametrize(
    ("address", "told"),
    [
        ("https://github.com/acme/template", "https://github.com/acme/template/blob/c0ffee/MIGRATING.md"),
        ("https://github.com/acme/template.git", "https://github.com/acme/template/blob/c0ffee/MIGRATING.md"),
        ("https://gitlab.acme.com/a/b/t.git", "https://gitlab.acme.com/a/b/t/blob/c0ffee/MIGRATING.md"),
        ("git@github.com:acme/template.git", "MIGRATING.md of git@github.com:acme/template.git at c0ffee"),
        ("https://git.acme.com/template", "MIGRATING.md of https://git.acme.com/template at c0ffee"),
        ("/srv/template", "MIGRATING.md of /srv/template at c0ffee"),
    ],
)
def test_the_pages_of_a_template_are_links_where_its_host_has_pages(
    address: str, told: str, default_project: Path
) -> None:
    code = "import sys; from tools.template import pages; print(*pages(*sys.argv[1:]), sep='\\n')"
    command = [sys.executable, "-c", code, address, "c0ffee"]

    said = subprocess.run(command, cwd=default_project, capture_output=True, text=True, check=True).stdout

    assert said.splitlines() == [told.replace("MIGRATING", "CHANGELOG"), told]


@pytest.fixture
def pushes(service: Path, git: Git, tmp_path: Path) -> dict[str, str]:
    """The environment of who may push to the service's origin, and has no gh."""
    git(tmp_path, "init", "--quiet", "--bare", "origin.git")
    git(service, "remote", "add", "origin", str(tmp_path / "origin.git"))
    programs = tmp_path / "programs"
    programs.mkdir()
    (programs / "git").symlink_to(str(shutil.which("git")))
    return {"TEMPLATE_PUSH": "1", "PATH": str(programs)}


def test_where_there_is_no_gh_what_is_new_is_pushed_to_a_branch(
    service: Path, pushes: dict[str, str], git: Git, run: Run, tmp_path: Path
) -> None:
    (service / "NEW").write_text("new\n", encoding="utf-8")

    done = run("tools.propose", cwd=service, env=pushes)

    assert (done.returncode, done.stderr) == (0, "")
    assert "open a pull request" in done.stdout
    assert git(tmp_path / "origin.git", "show", "template-update:NEW") == "new\n"


def test_what_a_patch_brings_is_proposed_and_never_lies_where_it_could_run(
    service: Path, pushes: dict[str, str], git: Git, run: Run
) -> None:
    (service / "tools" / "propose.py").write_text("raise SystemExit('This ran.')\n", encoding="utf-8")
    (service / "CODEOWNERS").write_text("<<<<<<< ours\n", encoding="utf-8")
    (service / "reports").mkdir()
    git(service, "diff", f"--output={PATCH['TEMPLATE_PATCH']}")
    git(service, "checkout", "--quiet", ".")
    head = git(service, "rev-parse", "HEAD")

    done = run("tools.propose", cwd=service, env=PATCH | pushes)

    assert (done.returncode, done.stderr) == (0, "")
    proposed = git(service, "show", "--name-only", "--format=%b", "origin/template-update").splitlines()
    assert {"- CODEOWNERS: conflict markers", "CODEOWNERS", "tools/propose.py"} <= set(proposed)
    assert any(line.startswith("- MIGRATING.md of ") for line in proposed)
    assert git(service, "status", "--porcelain") == ""
    assert git(service, "rev-parse", "HEAD") == head


def test_a_patch_that_changes_nothing_is_nothing_new(service: Path, run: Run) -> None:
    patch = service / PATCH["TEMPLATE_PATCH"]
    patch.parent.mkdir()
    patch.touch()

    done = run("tools.propose", cwd=service, env=PATCH)

    assert (done.returncode, done.stdout, done.stderr) == (0, "Nothing is new.\n", "")


@pytest.mark.parametrize(("opened", "command"), [("", "issue create --title"), ("7", "issue edit 7")])
def test_what_is_new_stands_in_one_issue_however_often_it_is_told(
    opened: str, command: str, service: Path, run: Run, tmp_path: Path
) -> None:
    (service / "NEW").write_text("new\n", encoding="utf-8")
    programs = tmp_path / "programs"
    programs.mkdir()
    said = tmp_path / "said"
    gh = programs / "gh"
    gh.write_text(
        f'#!/bin/sh\n[ "$2" != list ] || {{ echo {opened}; exit 0; }}\necho "$@" >>{said}\n', encoding="utf-8"
    )
    gh.chmod(0o755)

    done = run("tools.propose", cwd=service, env={"PATH": f"{programs}:/usr/bin:/bin"})

    assert (done.returncode, done.stderr) == (0, "")
    assert said.read_text(encoding="utf-8").startswith(command)
    assert "+new" in said.read_text(encoding="utf-8")
