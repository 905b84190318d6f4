"""What holds for a tree whatever was chosen.

The profiles hold every pair of choices, and every three that decide about one file.

The command that makes the tree of a failing test again is shown with the failure.
"""

import subprocess
import sys
from functools import cache
from itertools import combinations
from pathlib import Path, PurePosixPath
from typing import Any

import profiles
import pytest
from conftest import ROOT
from options import answered, written
from options import tree as tree_of
from test_generation import contents, problems, text_of, untidy
from test_service import make

IN_PAIRS, IN_THREES = profiles.in_pairs(), profiles.in_threes()

# Comparisons name what others would have had.
TELLS_OF_OTHERS = {
    "docs/architecture/CI-CD-COMPARISON.md",
    "docs/architecture/THREAT-MODEL.md",
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
    assert set().union(*(profiles.held(profile, wanted) for profile in (*IN_PAIRS, *IN_THREES))) == wanted


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
def names_with_any_answers() -> frozenset[str]:
    """The files of all profiles."""
    names = written()
    return frozenset().union(*(tree_of(answered(**profile), names) for profile in (*IN_PAIRS, *IN_THREES)))


def test_nothing_that_was_left_out_is_mentioned(tree: Path, profile: profiles.Answers) -> None:
    texts = {name: raw.decode() for name, raw in contents(tree).items() if text_of(tree / name) is not None}
    mentions = [
        f"{name}: {gone}"
        for gone in sorted(names_with_any_answers() - tree_of(answered(**profile), written()).keys())
        for name, text in texts.items()
        if name not in TELLS_OF_OTHERS and (gone in text or module(gone) in text)
    ]
    assert mentions == []


def module(path: str) -> str:
    """How code names a Python file, or a path that is in no text."""
    return ".".join(PurePosixPath(path).with_suffix("").parts) if path.endswith(".py") else path


@pytest.mark.long
@pytest.mark.parametrize("answers", IN_PAIRS, ids=lambda answers: "-".join(answers.values()))
def test_the_suite_of_the_service_passes(answers: profiles.Answers, cookies: Any) -> None:
    make(generated(answers, cookies), "types", "test")
