"""`make release` tells how HEAD is released, or everything that keeps it from being a release."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import release
from conftest import ROOT, Git, Run
from release import Version
from trees import pins

PROMPTS: dict[str, Any] = {
    "name": "Demo",
    "system": ["one", "two", "none"],
    "stack": True,
    "_private": "x",
}


@dataclass
class Files:
    """What a commit of a scratch template holds, as far as a release depends on it."""

    version: str = "1.0.0"
    changelog: str = "# Changelog\n\n## [1.0.0] - 2026-01-31\n\n- All of it.\n"
    migrating: str = "# Migrating\n"
    tests: str = "# none\n"
    prompts: dict[str, Any] = field(default_factory=lambda: dict(PROMPTS))

    def write(self, root: Path) -> None:
        """Write them."""
        (root / "tests").mkdir(exist_ok=True)
        for name, text in {
            "pyproject.toml": f'[project]\nname = "x"\nversion = "{self.version}"\n',
            "CHANGELOG.md": self.changelog,
            "MIGRATING.md": self.migrating,
            "tests/test_upgrades.py": self.tests,
            "cookiecutter.json": json.dumps(self.prompts),
        }.items():
            (root / name).write_text(text, encoding="utf-8")


def released(version: str, **other: Any) -> Files:
    """What makes this a release after 1.0.0."""
    text = f"## [Unreleased]\n\n## [{version}] - 2026-02-28\n\n- More.\n\n## [1.0.0] - 2026-01-31\n\n- All of it.\n"
    return Files(**{"version": version, "changelog": text, **other})


def without(name: str) -> dict[str, Any]:
    return {known: asked for known, asked in PROMPTS.items() if known != name}


@pytest.fixture
def commit(tmp_path: Path, git: Git) -> Callable[[Files], str]:
    """Return a function that commits such files, in a repository that has released 1.0.0."""
    git(tmp_path, "init", "--quiet", "--initial-branch=main")

    def commit_files(files: Files) -> str:
        files.write(tmp_path)
        git(tmp_path, "add", "--all")
        git(tmp_path, "commit", "--quiet", "--allow-empty", "--message=Go on")
        return git(tmp_path, "rev-parse", "HEAD").strip()

    commit_files(Files("0.0.0"))
    commit_files(Files())
    return commit_files


Commit = Callable[[Files], str]


ACCEPTED = {
    "a correction": released("1.0.1"),
    "more than is needed": released("2.0.0"),
    "a new prompt": released("1.1.0", prompts={**PROMPTS, "more": "yes"}),
    "a new choice": released("1.1.0", prompts={**PROMPTS, "system": ["one", "two", "none", "three"]}),
    "other private values": released("1.0.1", prompts={**PROMPTS, "_private": "y", "__other": "z"}),
    "a prompt that is gone, told and tested": released(
        "2.0.0",
        prompts=without("stack"),
        migrating="# Migrating\n\n## To 2.0 from any before\n\n- `stack` is always there.\n",
        tests='update(project, drop="stack")\n',
    ),
    "another default, told": released(
        "2.0.0",
        prompts={**PROMPTS, "stack": False},
        migrating="## To 2.0 from any before\n\nPass `stack=yes` in scripts.\n",
    ),
}


@pytest.mark.parametrize("files", ACCEPTED.values(), ids=ACCEPTED)
def test_a_release_is_told_by_the_commands_that_make_it(
    files: Files, commit: Commit, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    commit(files)

    assert release.main([], tmp_path) == 0

    tag, push = capsys.readouterr().out.splitlines()[1:]
    assert tag.strip() == f"git tag --sign v{files.version} --message 'Release {files.version}'"
    assert push.strip() == f"git push --atomic origin HEAD:main v{files.version}"


ENTRY = "## [1.0.1] - 2026-02-28\n\n- More.\n\n"

REFUSED = {
    "a version that is none": (released("1.0.1rc1"), "pyproject.toml has the version 1.0.1rc1"),
    "no heading": (Files("1.0.1"), "CHANGELOG.md has no heading `## [1.0.1] - "),
    "no date": (released("1.0.1", changelog="## [1.0.1]\n\n- More.\n"), "CHANGELOG.md has no date"),
    "a day that is none": (
        released("1.0.1", changelog="## [1.0.1] - 2026-02-30\n\n- More.\n"),
        "CHANGELOG.md has no date",
    ),
    "nothing told": (
        released("1.0.1", changelog="## [1.0.1] - 2026-02-28\n\n## [1.0.0] - 2026-01-31\n\n- All.\n"),
        "CHANGELOG.md says nothing of 1.0.1",
    ),
    "below an older one": (
        released("1.0.1", changelog="## [1.0.0] - 2026-01-31\n\n- All.\n\n" + ENTRY),
        "CHANGELOG.md has 1.0.0 above 1.0.1",
    ),
    "changes in no release": (
        released("1.0.1", changelog="## [Unreleased]\n\n### Added\n\n- This.\n\n" + ENTRY),
        "CHANGELOG.md has changes under [Unreleased]",
    ),
    "an older version": (released("0.9.0"), "0.9.0 does not do after 1.0.0, it has to be 1.0.1 at least"),
    "too little for a new prompt": (
        released("1.0.1", prompts={**PROMPTS, "more": "yes"}),
        "it has to be 1.1.0 at least: the prompt `more` is new",
    ),
    "too little for a new choice": (
        released("1.0.1", prompts={**PROMPTS, "system": ["one", "two", "none", "three"]}),
        "it has to be 1.1.0 at least: `system` has the new choice `three`",
    ),
    "too little for a prompt that is gone": (
        released("1.1.0", prompts=without("stack"), migrating="## To 1.1\n\n`stack`\n", tests='"stack"'),
        "it has to be 2.0.0 at least: the prompt `stack` is gone",
    ),
    "a prompt that is gone, untold": (
        released("2.0.0", prompts=without("stack"), tests='"stack"'),
        "MIGRATING.md does not say under `## To 2.0` what to do: the prompt `stack` is gone",
    ),
    "a prompt that is gone, told of another release": (
        released("2.0.0", prompts=without("stack"), tests='"stack"', migrating="## To 2.1\n\n`stack`\n\n## To 2.01\n"),
        "MIGRATING.md does not say under `## To 2.0`",
    ),
    "a prompt that is gone, untested": (
        released("2.0.0", prompts=without("stack"), migrating="## To 2.0 from any before\n\n`stack`\n"),
        "tests/test_upgrades.py does not update a service that has it: the prompt `stack` is gone",
    ),
    "a choice that is gone, untold": (
        released("2.0.0", prompts={**PROMPTS, "system": ["one", "none"]}, tests='"two"'),
        "what to do: `system` has no choice `two` any more",
    ),
    "a choice that has another name, untested": (
        released("2.0.0", prompts={**PROMPTS, "system": ["one", "second", "none"]}, migrating="## To 2.0\n\n`two`\n"),
        "does not update a service that has it: `system` has no choice `two` any more",
    ),
    "a prompt that is asked in another way": (
        released("2.0.0", prompts={**PROMPTS, "stack": ["yes", "no"]}, tests='"stack"'),
        "what to do: `stack` is asked in another way",
    ),
    "another default of a choice": (
        released("2.0.0", prompts={**PROMPTS, "system": ["two", "one", "none"]}),
        "what to do: `system` has another default",
    ),
    "another default of a text": (
        released("1.9.0", prompts={**PROMPTS, "name": "Other"}, migrating="## To 1.9\n\n`name`\n"),
        "it has to be 2.0.0 at least: `name` has another default",
    ),
    "another order": (
        released("2.0.0", prompts={"stack": True, "system": PROMPTS["system"], "name": "Demo"}),
        "what to do: the prompts come in another order",
    ),
    "a section without a number": (
        released("1.0.1", migrating="## To the next release from any before\n\n- Do this.\n"),
        "MIGRATING.md still calls a section `## To the next release`: that is `## To 1.0`",
    ),
}


@pytest.mark.parametrize(("files", "reason"), REFUSED.values(), ids=REFUSED)
def test_what_is_no_release_is_refused_with_the_reason(
    files: Files, reason: str, commit: Commit, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    commit(files)

    assert release.main([], tmp_path) == 1

    (told,) = capsys.readouterr().err.splitlines()[1:]
    assert reason in told


def test_everything_that_is_wrong_is_told_at_once(
    commit: Commit, tmp_path: Path, git: Git, capsys: pytest.CaptureFixture[str]
) -> None:
    commit(Files("1.0.1", changelog="## [Unreleased]\n\n- This.\n", prompts=without("system")))
    (tmp_path / "new").touch()
    git(tmp_path, "tag", "v1.0.1")

    assert release.main([], tmp_path) == 1

    assert [line.partition(" ")[2][:28] for line in capsys.readouterr().err.splitlines()[1:]] == [
        "The working tree holds chang",
        "There is a tag v1.0.1 alread",
        "CHANGELOG.md has no heading ",
        "CHANGELOG.md has changes und",
        "1.0.1 does not do after 1.0.",
        "MIGRATING.md does not say un",
        "tests/test_upgrades.py does ",
    ]


def test_only_the_commit_that_set_the_version_is_the_release(
    commit: Commit, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first = commit(released("1.0.1"))
    commit(released("1.0.1", tests="# more\n"))

    assert release.main([], tmp_path) == 1
    assert f"a release is the commit that did: {first[:7]} did" in capsys.readouterr().err

    released("1.0.2").write(tmp_path)
    assert release.main([], tmp_path) == 1
    assert "a release is the commit that did: it has to be committed" in capsys.readouterr().err


TAGGED = [
    ("v1.0.1", "HEAD", ""),
    ("v1.0.2", "HEAD", "The tag is v1.0.2, and the version 1.0.1."),
    ("v1.0.1", "HEAD~", "The tag v1.0.1 is not of this commit."),
]


@pytest.mark.parametrize("tagged", TAGGED, ids=str)
def test_a_tag_that_was_made_has_to_be_of_this_commit_and_version(
    tagged: tuple[str, str, str], commit: Commit, tmp_path: Path, git: Git, capsys: pytest.CaptureFixture[str]
) -> None:
    tag, of, told = tagged
    commit(released("1.0.1"))
    git(tmp_path, "tag", "--annotate", tag, of, "--message=Release")

    assert release.main([f"--tag={tag}"], tmp_path) == bool(told)
    assert told in capsys.readouterr().err


def test_the_notes_of_a_release_are_its_entry(
    commit: Commit, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    commit(released("1.0.1"))

    assert release.main(["--notes"], tmp_path) == 0
    assert capsys.readouterr().out == "- More.\n"


def test_a_history_that_is_cut_off_is_not_taken_for_a_first_release(
    commit: Commit, tmp_path: Path, git: Git, capsys: pytest.CaptureFixture[str]
) -> None:
    commit(released("1.0.1", prompts=without("stack")))
    git(tmp_path, "clone", "--quiet", "--depth=1", tmp_path.as_uri(), "shallow")

    assert release.main([], tmp_path / "shallow") == 1
    assert "git fetch --unshallow" in capsys.readouterr().err


def test_releases_are_the_commits_that_set_a_version(commit: Commit, tmp_path: Path, git: Git) -> None:
    first = git(tmp_path, "rev-parse", "HEAD").strip()
    commit(Files("1.0.0", tests="# more\n"))
    second = commit(Files("1.1.0"))
    commit(Files("1.2.0.dev0"))

    assert release.releases(tmp_path) == {Version(1, 0, 0): first, Version(1, 1, 0): second}


@pytest.mark.parametrize(
    ("last", "breaking", "adding", "least"),
    [
        ("0.7.0", True, False, "0.8.0"),
        ("0.7.0", False, True, "0.8.0"),
        ("0.7.3", False, False, "0.7.4"),
        ("1.9.3", True, True, "2.0.0"),
        ("1.9.3", False, True, "1.10.0"),
        ("1.9.3", False, False, "1.9.4"),
    ],
)
def test_versions_follow_what_changed(last: str, breaking: bool, adding: bool, least: str) -> None:
    before = Version.parse(last)

    assert before
    assert str(before.after(breaking=breaking, adding=adding)) == least


@pytest.mark.parametrize("text", ["", "1.0", "v1.0.0", "01.0.0", "1.0.0-rc.1", "1.0.0 "])
def test_what_is_no_version_is_none(text: str) -> None:
    assert Version.parse(text) is None


def in_make(folder: Path, *targets: str, **variables: str) -> None:
    """Run targets there, with the environment that these tests have."""
    venv = Path(sys.executable).parent.parent
    old = [f"--assume-old={path}" for path in ("requirements.txt", f"{venv}/.ready")]
    command = ["make", *old, f"VENV={venv}", *targets]
    done = subprocess.run(command, cwd=folder, env=os.environ | variables, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


OF_A_RELEASE = ("Makefile", "pyproject.toml", "requirements.txt", "CHANGELOG.md", "tools/release.py")


@pytest.mark.ci
def test_a_release_brings_a_template_that_generates_and_says_what_its_tools_are(
    copy_template: Callable[[Path], Path], tmp_path: Path, git: Git, run: Run
) -> None:
    folder = tmp_path / "template"
    (folder / "tools").mkdir(parents=True)
    for name in OF_A_RELEASE:
        shutil.copy(ROOT / name, folder / name)
    copy_template(folder)
    git(folder, "init", "--quiet")
    git(folder, "add", "--all")
    git(folder, "commit", "--quiet", "--message=Begin")

    in_make(folder, "dist")

    (archive,), (sbom,) = ((folder / "dist").glob(pattern) for pattern in ("*.zip", "*.cdx.json"))
    done = run("cookiecutter", archive, "--no-input", "--output-dir", tmp_path)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "sre-demo-api" / "Makefile").is_file()
    listed = json.loads(sbom.read_text(encoding="utf-8"))
    assert {(one["name"], one["version"]) for one in listed["components"]} == pins("requirements.txt")
    assert listed["metadata"]["component"]["name"] == "cookiecutter-fastapi-sre"
    assert (folder / "dist" / "notes.txt").read_text(encoding="utf-8").startswith("### ")


def test_all_that_was_built_is_published_with_its_signatures(tmp_path: Path) -> None:
    for name in ("Makefile", "pyproject.toml"):
        shutil.copy(ROOT / name, tmp_path / name)
    version = release.version_in((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    files = [f"dist/cookiecutter-fastapi-sre-{version}.{kind}" for kind in ("zip", "cdx.json", "sigstore.json")]
    for name in ("dist/notes.txt", "bundle", "bin/gh", *files[:2]):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("#!/bin/sh\nprintf '%s\\n' \"$@\" >given\n", encoding="utf-8")
    (tmp_path / "bin" / "gh").chmod(0o755)

    path = f"{tmp_path / 'bin'}{os.pathsep}{os.environ['PATH']}"
    in_make(tmp_path, "publish", TAG=f"v{version}", BUNDLE=str(tmp_path / "bundle"), PATH=path)

    given = (tmp_path / "given").read_text(encoding="utf-8").splitlines()
    assert given[:3] == ["release", "create", f"v{version}"]
    assert {"--verify-tag", "dist/notes.txt", *files} <= set(given)
