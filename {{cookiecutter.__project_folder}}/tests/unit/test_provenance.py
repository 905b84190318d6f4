"""What is said of the origin of an image: the commit, the lock, and who built it."""

import json
import re

import pytest

from tools import provenance

COMMIT = "0123456789" * 4

GITHUB = {
    "GITHUB_SERVER_URL": "https://github.com",
    "GITHUB_WORKFLOW_REF": "a/b/.github/workflows/ci-cd.yml@refs/heads/main",
    "GITHUB_REPOSITORY": "a/b",
    "GITHUB_RUN_ID": "12",
    "GITHUB_RUN_ATTEMPT": "3",
}
JENKINS = {"BUILD_URL": "https://jenkins.example.com/job/a/7/", "JOB_URL": "https://jenkins.example.com/job/a/"}


def test_it_names_the_commit_and_the_lock_that_the_image_was_made_from() -> None:
    source, lock = provenance.predicate(COMMIT, {})["buildDefinition"]["resolvedDependencies"]

    assert source["digest"] == {"gitCommit": COMMIT}
    assert source["uri"].startswith("git+https://")
    assert lock["uri"].endswith("#requirements-prod.txt")
    assert re.fullmatch("[0-9a-f]{64}", lock["digest"]["sha256"])


@pytest.mark.parametrize(
    ("environment", "builder", "run"),
    [
        (
            GITHUB,
            "https://github.com/a/b/.github/workflows/ci-cd.yml@refs/heads/main",
            "https://github.com/a/b/actions/runs/12/attempts/3",
        ),
        (JENKINS, "https://jenkins.example.com/job/a/", "https://jenkins.example.com/job/a/7/"),
        ({}, "urn:machine-of-a-person", ""),
    ],
    ids=["GitHub", "Jenkins", "a person"],
)
def test_it_names_what_ran_the_build(environment: dict[str, str], builder: str, run: str) -> None:
    details = provenance.predicate(COMMIT, environment)["runDetails"]

    assert details == {"builder": {"id": builder}, "metadata": {"invocationId": run}}


def test_it_can_be_written_as_json() -> None:
    assert json.loads(json.dumps(provenance.predicate(COMMIT, GITHUB))) == provenance.predicate(COMMIT, GITHUB)
