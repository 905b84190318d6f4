"""What holds for a tree whatever was chosen.

The profiles hold every pair of choices, and every three that decide about one file.

The command that makes the tree of a failing test again is shown with the failure.
"""

import shlex
import subprocess
import sys
from collections.abc import Iterable
from functools import cache
from itertools import combinations
from pathlib import Path, PurePosixPath
from typing import Any

import profiles
import pytest
from conftest import ROOT, Run
from options import answered, written
from options import tree as tree_of
from services import make
from trees import contents, dead_links, problems, text_of, untidy

IN_PAIRS, IN_THREES = profiles.in_pairs(), profiles.in_threes()

# Comparisons, and what is the same in all trees, name what others would have had.
TELLS_OF_OTHERS = {
    "docs/architecture/CI-CD-COMPARISON.md",
    "docs/architecture/THREAT-MODEL.md",
    "tests/documents.py",
    "tests/unit/test_provenance.py",
}

# How long a line gets depends on the answers.
YAMLLINT = f"{{extends: {ROOT / '.yamllint'}, rules: {{line-length: disable}}}}"


@pytest.fixture(
    scope="session",
    params=[*IN_PAIRS, *(pytest.param(profile, marks=pytest.mark.ci) for profile in IN_THREES)],
    ids=lambda profile: "-".join(profile.values()),
)
def profile(request: pytest.FixtureRequest) -> profiles.Answers:
    answers: profiles.Answers = request.param
    return answers


@pytest.fixture(scope="session")
def tree(profile: profiles.Answers, cookies_session: Any) -> Path:
    """A service of the profile. Shared: read it only."""
    return generated(profile, cookies_session)


@pytest.fixture(autouse=True)
def how_to_make_it_again(request: pytest.FixtureRequest) -> None:
    """Show with a failure what to type for the same tree."""
    if "profile" in request.fixturenames:
        answers = request.getfixturevalue("profile")
        request.node.add_report_section("setup", "the same tree", profiles.command(answers))


def generated(answers: profiles.Answers, cookies: Any) -> Path:
    result = cookies.bake(extra_context=dict(answers), template=str(ROOT))
    assert result.exception is None, f"{profiles.command(answers)}: {result.exception!r}"
    return Path(result.project_path)


def said(*command: str | Path, project: Path) -> str:
    """What a checker has to say, nothing when it is content."""
    done = subprocess.run(command, cwd=project, capture_output=True, text=True, check=False)
    return f"{done.stdout}{done.stderr}" if done.returncode else ""


def test_every_pair_of_choices_is_in_a_profile() -> None:
    held = set().union(*(profiles.held(profile, profiles.pairs()) for profile in IN_PAIRS))
    counted = sum(len(a) * len(b) for a, b in combinations(profiles.choices().values(), 2))

    assert len(held) == counted > 150


def test_every_three_choices_that_decide_about_one_file_are_in_a_profile() -> None:
    wanted = profiles.threes()

    assert len(wanted) > 200
    # They decide together whether tools/access.py is there.
    assert {("ci_system", "none"), ("deployment", "kubectl"), ("exposure", "cluster-internal")} in wanted
    assert set().union(*(profiles.held(profile, wanted) for profile in (*IN_PAIRS, *IN_THREES))) == wanted


def test_what_a_text_takes_from_elsewhere_decides_about_it_too() -> None:
    assert profiles.options_of("{{ cookiecutter.__reaches_cluster }}") == {"deployment", "exposure"}
    # It includes another.
    assert profiles.options_of("{% include 'docker/runtime' %}") == {"license"}
    # It puts together the names of those that it includes.
    assert profiles.options_of("{% include 'prometheus/rules' %}") == {"database", "exposure", "release_strategy"}


def test_a_choice_that_no_profile_holds_is_missed() -> None:
    without = [profile for profile in IN_PAIRS if profile["exposure"] != "ingress"]

    assert set().union(*(profiles.held(profile, profiles.pairs()) for profile in without)) != profiles.pairs()


def test_files_parse_and_nothing_is_left_unrendered_or_untidy(tree: Path) -> None:
    assert problems(tree) == []
    assert untidy(tree) == []


def test_the_same_answers_give_the_same_bytes_again(tree: Path, profile: profiles.Answers, cookies: Any) -> None:
    assert contents(generated(profile, cookies)) == contents(tree)


def test_the_strict_checkers_of_the_service_find_nothing(tree: Path) -> None:
    tools = Path(sys.executable).parent

    assert not said(tools / "ruff", "check", "--no-cache", project=tree)
    assert not said(tools / "ruff", "format", "--no-cache", "--check", project=tree)
    assert not said(sys.executable, "-m", "yamllint", "--strict", "-d", YAMLLINT, ".", project=tree)


@cache
def paths_with_any_answers() -> frozenset[str]:
    """The files of all profiles, and their folders."""
    names = written()
    trees = (tree_of(answered(**profile), names) for profile in (*IN_PAIRS, *IN_THREES))
    return with_folders(frozenset().union(*trees))


def with_folders(names: Iterable[str]) -> frozenset[str]:
    """These files, and the folders that they are in, as text has them: one of a single word has a slash at its end."""
    folders = {folder for name in names for folder in PurePosixPath(name).parents[:-1]}
    return frozenset(names) | {str(folder) if len(folder.parts) > 1 else f"{folder}/" for folder in folders}


def test_nothing_that_was_left_out_is_mentioned(tree: Path, profile: profiles.Answers) -> None:
    texts = {name: raw.decode() for name, raw in contents(tree).items() if text_of(tree / name) is not None}
    mentions = [
        f"{name}: {gone}"
        for gone in sorted(paths_with_any_answers() - with_folders(tree_of(answered(**profile), written())))
        for name, text in texts.items()
        if name not in TELLS_OF_OTHERS and (gone in text or module(gone) in text)
    ]
    assert mentions == []


def test_links_of_documents_lead_to_files_and_headings_that_exist(tree: Path) -> None:
    dead = {str(document.relative_to(tree)): dead_links(document) for document in tree.rglob("*.md")}

    assert {document: links for document, links in dead.items() if links} == {}


def module(path: str) -> str:
    """How code names a Python file, or a path that is in no text."""
    return ".".join(PurePosixPath(path).with_suffix("").parts) if path.endswith(".py") else path


@pytest.mark.long
@pytest.mark.parametrize("profile", IN_PAIRS, ids=lambda profile: "-".join(profile.values()))
def test_the_suite_of_the_service_passes(profile: profiles.Answers, cookies: Any) -> None:
    make(generated(profile, cookies), "types", "test")


@pytest.mark.parametrize("profile", [max(IN_PAIRS, key=lambda one: len(profiles.command(one)))], ids=profiles.command)
def test_what_is_shown_with_a_failure_makes_the_same_tree(
    profile: profiles.Answers, request: pytest.FixtureRequest, cookies: Any, run: Run, tmp_path: Path
) -> None:
    (shown,) = [text for _, title, text in request.node._report_sections if title == "the same tree"]

    done = run(*shlex.split(shown), "--output-dir", tmp_path / "out", cwd=ROOT)

    assert done.returncode == 0, done.stderr
    (project,) = (tmp_path / "out").iterdir()
    assert contents(project) == contents(generated(profile, cookies))
