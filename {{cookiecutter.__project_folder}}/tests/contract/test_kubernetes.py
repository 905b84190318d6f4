"""What the manifests in `k8s/` repeat of the service, or ask of it, is what the service is and does."""

import re
import tomllib
from collections.abc import Mapping
from pathlib import Path

import pytest

from app.core.config import FACTS, Settings
from app.core.lifecycle import exit_seconds
from app.main import create_app
from app.storage import backends
from tests.support import ROOT, client_of

K8S = ROOT / "k8s"
OVERLAYS = sorted(path.parent for path in K8S.glob("overlays/*/kustomization.yaml"))
ENVIRONMENTS = {"dev": "development", "staging": "staging", "prod": "production"}


def text(*parts: str) -> str:
    """The content of a manifest."""
    return Path(K8S, *parts).read_text(encoding="utf-8")


def variables(path: Path) -> dict[str, str]:
    """What a file of settings sets."""
    lines = path.read_text(encoding="utf-8").splitlines()
    return dict(line.split("=", 1) for line in lines if line and not line.startswith("#"))


def settings_of(overlay: Path, **others: str) -> Mapping[str, str]:
    """The environment that the pods of an environment get: as Kustomize merges it, and what secrets add."""
    secret = {} if overlay.name == "dev" else {"STORAGE_URL": backends.EXAMPLES[0]}
    return {**secret, **variables(K8S / "base" / "settings.env"), **variables(overlay / "settings.env"), **others}


def load(environment: Mapping[str, str], patch: pytest.MonkeyPatch) -> Settings:
    """The settings that the service makes of an environment."""
    for name in (*Settings.model_fields, *environment):
        patch.delenv(name.upper(), raising=False)
    for name, value in environment.items():
        patch.setenv(name, value)
    return Settings()


def test_there_is_an_overlay_for_each_environment() -> None:
    assert {overlay.name for overlay in OVERLAYS} == set(ENVIRONMENTS)
    assert set(tomllib.loads(text("contexts.toml"))) == set(ENVIRONMENTS)


@pytest.mark.parametrize("overlay", OVERLAYS, ids=lambda path: path.name)
def test_the_service_takes_the_settings_of_each_environment(overlay: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    environment = settings_of(overlay)

    settings = load(environment, monkeypatch)

    assert {name.lower() for name in environment} <= set(Settings.model_fields)
    assert settings.environment == ENVIRONMENTS[overlay.name]
    assert (settings.http_port, settings.metrics_port) == (FACTS.ports.http, FACTS.ports.metrics)


@pytest.mark.parametrize("overlay", OVERLAYS, ids=lambda path: path.name)
def test_a_pod_has_the_time_that_the_service_needs_to_stop(overlay: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = load(settings_of(overlay), monkeypatch)
    deployment = text("base", "deployment.yaml")
    (grace,) = re.findall(r"terminationGracePeriodSeconds: (\d+)", deployment)
    (sleep,) = re.findall(r"preStop:\n(?: +#.*\n)? +sleep:\n +seconds: (\d+)", deployment)

    assert int(grace) > int(sleep) + exit_seconds(settings)


def test_manifests_name_the_ports_that_the_service_listens_on() -> None:
    ports = re.findall(r"name: (\w+)\n +containerPort: (\d+)", text("base", "deployment.yaml"))
    headless = text("base", "service.yaml").partition("clusterIP: None")[2]

    assert dict(ports) == {"http": str(FACTS.ports.http), "metrics": str(FACTS.ports.metrics)}
    assert dict(re.findall(r"name: (\w+)\n +port: (\d+)", headless)) == dict(ports)


async def test_probes_ask_what_the_service_answers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    asked = re.findall(r"(\w+)Probe:\n +httpGet:\n +path: (\S+)", text("base", "deployment.yaml"))
    settings = load({"ENVIRONMENT": "test", "STORAGE_URL": backends.EXAMPLES[-1]}, monkeypatch)

    async with client_of(create_app(settings)) as client:
        answers = {name: (await client.get(path)).status_code for name, path in asked}

    assert set(answers) == {"startup", "liveness", "readiness"}
    assert 404 not in answers.values()


def test_manifests_are_named_like_the_service_and_its_team() -> None:
    named = {
        match
        for path in K8S.glob("base/*.yaml")
        for match in re.findall(r"app\.kubernetes\.io/name: (\S+)", path.read_text(encoding="utf-8"))
    }
    groups = set(re.findall(r'name: "(.+)-(?:deployers|on-call)"', text("components", "rbac", "rolebinding.yaml")))

    assert named - {"prometheus"} == {FACTS.service.name}
    assert groups == {FACTS.service.team}
