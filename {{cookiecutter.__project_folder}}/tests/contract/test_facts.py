"""One fact, one place: whatever repeats a fact of `app/service.toml`, or a setting, agrees with it."""

import re
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

from app.core.config import FACTS, Environment, Settings, settings_table
from app.core.lifecycle import exit_seconds
from tests.support import ROOT

KUBERNETES = "../../k8s/components/monitoring/alerts.yml"
DOCKERFILES = sorted(ROOT.glob("docker/*/Dockerfile"))


def test_the_project_is_named_like_the_service() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]

    assert (project["name"], project["description"]) == (FACTS.service.name, FACTS.service.description)


def test_the_team_owns_the_code() -> None:
    assert f"/{FACTS.service.team}" in (ROOT / "CODEOWNERS").read_text()


def test_alertmanager_knows_the_team() -> None:
    path = ROOT / "observability" / "alertmanager" / "alertmanager.yml"
    if not path.exists():
        assert "alertmanager:" not in (ROOT / "docker-compose.yml").read_text(encoding="utf-8")
        return

    assert re.findall(r'team="(.+)"', path.read_text(encoding="utf-8")) == [FACTS.service.team]


def test_the_readme_lists_the_settings_as_they_are() -> None:
    assert settings_table() in (ROOT / "README.md").read_text(encoding="utf-8"), (
        "replace the table in README.md by what `python -m app settings` prints"
    )


def locked(name: str) -> dict[str, Version]:
    """The versions of a lock file."""
    pins = re.findall(r"^([A-Za-z0-9._-]+)(?:\[.*\])?==([^ ]+)", (ROOT / name).read_text(), re.MULTILINE)
    return {canonicalize_name(package): Version(version) for package, version in pins}


@pytest.mark.parametrize("name", ["requirements.txt", "requirements-prod.txt"])
def test_the_lock_satisfies_what_pyproject_declares(name: str) -> None:
    pyproject = tomllib.loads((ROOT / "pyproject.toml").read_text())
    declared = pyproject["project"]["dependencies"]
    if name == "requirements.txt":
        declared += pyproject["dependency-groups"]["dev"]
    versions = locked(name)

    for requirement in map(Requirement, declared):
        version = versions.get(canonicalize_name(requirement.name))
        assert version, f"{requirement.name} is not in {name}: run `make lock`"
        assert version in requirement.specifier, f"{name} has {requirement.name} {version}: run `make lock`"


@pytest.mark.parametrize("name", ["requirements.txt", "requirements-prod.txt"])
def test_everything_locked_is_checked_by_hash(name: str) -> None:
    entries = re.split(r"\n(?=\S)", re.sub(r"(?m)^#.*\n", "", (ROOT / name).read_text()).strip())

    assert entries
    assert [entry for entry in entries if "--hash=sha256:" not in entry] == []


def test_both_locks_agree() -> None:
    everything = locked("requirements.txt")

    assert {name: everything.get(name) for name in locked("requirements-prod.txt")} == locked("requirements-prod.txt")


@pytest.mark.parametrize("dockerfile", DOCKERFILES, ids=lambda path: path.parent.name)
def test_an_image_says_what_the_service_is(dockerfile: Path) -> None:
    text = dockerfile.read_text(encoding="utf-8")
    labels = dict(re.findall(r'org\.opencontainers\.image\.(\w+)="((?:\\.|[^"])*)"', text))
    stated = {name: re.sub(r"\\(.)", r"\1", labels[name]) for name in ("title", "description", "source")}

    service = FACTS.service
    # A backslash before a quote is more than linters of Dockerfiles understand.
    description = service.description.replace("\\", "/")
    assert stated == {"title": service.name, "description": description, "source": service.repository}
    assert f"\nEXPOSE {FACTS.ports.http} {FACTS.ports.metrics}" in text


def test_images_are_built_alike() -> None:
    stages = [path.read_text(encoding="utf-8").partition("FROM ${BUILD_IMAGE} AS build\n")[2] for path in DOCKERFILES]
    # What follows is each image's own, and so is the lock that it installs.
    alike = {re.sub(r"requirements(-prod)?\.txt", "", stage.partition(" -exec strip")[0]) for stage in stages}

    assert len(stages) == 3
    assert len(alike) == 1
    assert all("--require-hashes" in stage for stage in alike)


def test_the_compose_file_says_what_the_service_is() -> None:
    text = (ROOT / "docker-compose.yml").read_text(encoding="utf-8")
    ports = dict(re.findall(r"\$\{(HTTP_PORT|METRICS_PORT):-(\d+)\}:\2\n", text))

    assert f'\nname: "{FACTS.service.name}"\n' in text
    assert ports == {"HTTP_PORT": str(FACTS.ports.http), "METRICS_PORT": str(FACTS.ports.metrics)}


def test_a_container_has_the_time_that_the_service_needs_to_stop() -> None:
    text = (ROOT / "docker-compose.yml").read_text(encoding="utf-8")
    service = text.partition("x-service:")[2].partition("\n\n")[0]
    (seconds,) = re.findall(r"stop_grace_period: (\d+)s", service)

    assert int(seconds) > exit_seconds(Settings(environment=Environment.TEST))


@pytest.mark.parametrize(
    ("file", "pattern", "fact"),
    [
        ("prometheus.yml", r'job_name: "(.+)"', FACTS.service.name),
        ("prometheus.yml", r"targets: \[app:(\d+)\]", str(FACTS.ports.metrics)),
        ("alerts-stack.yml", r'team: "(.+)"', FACTS.service.team),
        ("alerts-stack.yml", r"runbook_url: (.+)/blob/", FACTS.service.repository),
        ("alerts.yml", r'team: "(.+)"', FACTS.service.team),
        ("alerts.yml", r"runbook_url: (.+)/blob/", FACTS.service.repository),
        ("alerts.yml", r'job="([^"]+)"', FACTS.service.name),
        ("recording.yml", r'job="([^"]+)"', FACTS.service.name),
        (KUBERNETES, r'team: "(.+)"', FACTS.service.team),
        (KUBERNETES, r'job: "(.+)"', FACTS.service.name),
        (KUBERNETES, r"runbook_url: (.+)/blob/", FACTS.service.repository),
        (KUBERNETES, r'(?<!job_)(?:deployment|horizontalpodautoscaler|name)="([^"]+?)(?:-tls)?"', FACTS.service.name),
        (KUBERNETES, r'pod=~"(.+)-\[a-z0-9\]\+-\[a-z0-9\]\{5\}"', FACTS.service.name),
    ],
)
def test_prometheus_is_told_what_the_service_is(file: str, pattern: str, fact: str) -> None:
    path = ROOT / "observability" / "prometheus" / file
    if not path.exists():
        # Without the stack, it only judges rules.
        assert "\n  prometheus:\n    profiles: [rules]\n" in (ROOT / "docker-compose.yml").read_text(encoding="utf-8")
        return
    stated = set(re.findall(pattern, path.read_text(encoding="utf-8")))

    assert stated == {fact}


def test_the_rules_measure_by_the_objectives() -> None:
    rules = ROOT / "observability" / "prometheus"
    recording, alerts = ((rules / name).read_text(encoding="utf-8") for name in ("recording.yml", "alerts.yml"))
    slo = FACTS.slo
    objectives = {slo.availability_percent, slo.latency_percent}

    assert {float(bound) for bound in re.findall(r'le="([^"]+)"', recording)} == {slo.latency_threshold_ms / 1000}
    for text in (recording, alerts):
        stated = {float(share) * 100 for share in re.findall(r"\(1 - (0\.\d+)\)", text)}
        assert sorted(stated) == pytest.approx(sorted(objectives))
