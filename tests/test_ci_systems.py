"""A tree speaks of the systems that were chosen, and of no other."""

import re
from collections.abc import Iterator
from pathlib import Path

import gates
import pytest
from conftest import LINK, Bake
from trees import dead_links, files, text_of

# How each system shows. What a Git host is needs no pipeline: `CODEOWNERS` and addresses of other projects stay.
TRACES = {
    "github-actions": re.compile(
        r"github.actions|\.github/|GITHUB_|githubusercontent|dependabot|actionlint|zizmor", re.IGNORECASE
    ),
    "jenkins": re.compile(r"jenkins|BUILD_URL|groovy", re.IGNORECASE),
}
CHOSEN = {
    "github-actions": {"github-actions"},
    "jenkins": {"jenkins"},
    "both": {"github-actions", "jenkins"},
    "none": set[str](),
}

# The page that compares them, what tells who built an image wherever that was, and whom `make verify` trusts.
ABOUT_BOTH = {gates.DOCUMENT, Path("tools/provenance.py"), Path("tests/unit/test_provenance.py")}
SIGNERS = re.compile(r"^TRUSTED|--certificate|ACTIONS_ID_TOKEN")


def traces(project: Path, system: str) -> Iterator[str]:
    """Where a tree speaks of a system."""
    for path in files(project):
        name = path.relative_to(project)
        if name in ABOUT_BOTH or name.name == LINK or name.name.startswith("requirements"):
            continue
        if TRACES[system].search(name.as_posix()):
            yield f"{name}: its name"
        for number, line in enumerate((text_of(path) or "").splitlines(), 1):
            if TRACES[system].search(line) and not (name == Path("Makefile") and SIGNERS.search(line.strip())):
                yield f"{name}:{number}: {line.strip()}"


@pytest.mark.parametrize("deployment", ["argocd", "kubectl"])
@pytest.mark.parametrize("choice", CHOSEN)
def test_a_tree_has_traces_of_the_systems_that_were_chosen_and_of_no_other(
    choice: str, deployment: str, bake: Bake
) -> None:
    project = bake(ci_system=choice, deployment=deployment)

    for system in TRACES:
        found = list(traces(project, system))
        assert bool(found) if system in CHOSEN[choice] else found == []


@pytest.mark.parametrize("choice", CHOSEN)
def test_no_page_names_a_file_of_a_system_that_is_not_there(choice: str, bake: Bake) -> None:
    project = bake(ci_system=choice)

    for page in project.rglob("*.md"):
        text = page.read_text(encoding="utf-8")
        named = re.findall(r"(?:\.github|ci-cd/jenkins)/[\w./-]*\w", text)
        assert [name for name in named if not (project / name).exists()] == [], page
        assert dead_links(page) == [], page


@pytest.mark.parametrize("choice", CHOSEN)
def test_the_hand_over_from_one_system_to_the_other_is_told_only_where_there_are_two(choice: str, bake: Bake) -> None:
    project = bake(ci_system=choice)
    told = {path.name for path in files(project) if re.search(r"\bRELEASES\b", text_of(path) or "")}

    assert told == ({"Jenkinsfile", "README.md", "compose.yaml", "jcasc.yaml"} if choice == "both" else set())
