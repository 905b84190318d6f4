"""What is said of the origin of an image: the commit, the lock, and who built it."""

import base64
import io
import json
import re
from typing import Any

import pytest

from tools import provenance

COMMIT = "0123456789" * 4
OTHER = "f" * 40

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


def verified(predicate: dict[str, Any]) -> str:
    """A line that cosign prints for an attestation whose signature it verified."""
    statement = {"predicateType": "https://slsa.dev/provenance/v1", "predicate": predicate}
    return json.dumps({"payload": base64.b64encode(json.dumps(statement).encode()).decode()}) + "\n"


def elsewhere() -> dict[str, Any]:
    """The provenance of the same commit in a repository of somebody else."""
    predicate = provenance.predicate(COMMIT, {})
    predicate["buildDefinition"]["resolvedDependencies"][0]["uri"] = "git+https://example.com/a-fork"
    return predicate


@pytest.mark.parametrize(
    ("predicates", "told"),
    [
        ([provenance.predicate(COMMIT, {})], ""),
        ([provenance.predicate(OTHER, {}), provenance.predicate(COMMIT, GITHUB)], ""),
        ([provenance.predicate(OTHER, {})], f"@{OTHER}, and not of "),
        ([elsewhere()], f"https://example.com/a-fork@{COMMIT}, and not of "),
        ([], "of no commit, and not of "),
    ],
    ids=["the same", "built twice", "another commit", "another repository", "nothing"],
)
def test_an_image_of_another_commit_is_refused(
    predicates: list[dict[str, Any]],
    told: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO("".join(map(verified, predicates))))

    code = provenance.main([COMMIT])

    said = capsys.readouterr().err
    assert code == bool(told)
    assert told in said
    assert said.count("\n") == code
