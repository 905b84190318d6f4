"""`make rules`: a cluster's Prometheus judges by the rules of this machine, and it is told where it does not."""

import shutil
from pathlib import Path

import pytest

from tools import rules
from tools.compose import ROOT
from tools.overlay import OVERLAYS


@pytest.fixture
def overlays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The overlays in a copy of all that the rules are made of, and of what they were made to."""
    for folder in ("k8s", "observability/prometheus"):
        shutil.copytree(ROOT / folder, tmp_path / folder, ignore=shutil.ignore_patterns("__pycache__"))
    monkeypatch.setattr(rules, "ROOT", tmp_path)
    copied = tmp_path / "k8s" / "overlays"
    monkeypatch.setattr(rules, "OVERLAYS", copied)
    sources = {name: tmp_path / path.relative_to(ROOT) for name, path in rules.SOURCES.items()}
    monkeypatch.setattr(rules, "SOURCES", sources)
    return copied


def judged(environment: str) -> str:
    """What an environment is judged by."""
    return (ROOT / "k8s" / "overlays" / environment / "prometheusrule.yaml").read_text(encoding="utf-8")


def test_the_cluster_has_the_rules_of_this_machine() -> None:
    assert rules.main(["--check"]) == 0, "run `make rules`"
    assert {path.parent.name for path, _ in rules.wanted()} == {"staging", "prod"}


def test_prod_differs_from_this_machine_in_the_address_of_grafana_alone() -> None:
    lines = {line.strip() for line in judged("prod").splitlines()}

    for source in rules.SOURCES.values():
        for line in source.read_text(encoding="utf-8").partition("groups:")[2].splitlines():
            assert line.strip() in lines or "http://localhost:3000" in line
    assert "localhost" not in judged("prod")


def test_staging_spends_none_of_the_budget_of_prod_and_wakes_nobody() -> None:
    service = rules.facts(OVERLAYS / "prod")["job"]

    for text in ('job="{}"', 'job: "{}"'):
        assert text.format(service) not in judged("staging")
        assert text.format(f"{service}-staging") in judged("staging")
    assert "severity: page" in judged("prod")
    assert "severity: page" not in judged("staging")
    assert 'namespace="staging"' in judged("staging")
    assert 'namespace="production"' not in judged("staging")


@pytest.mark.parametrize("name", rules.SOURCES)
def test_an_edited_rule_is_told_with_the_command_that_mends_it(
    name: str, overlays: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = rules.SOURCES[name]
    source.write_text(source.read_text(encoding="utf-8") + "# Edited.\n", encoding="utf-8")

    assert rules.main(["--check"]) == 1

    told = capsys.readouterr().err.splitlines()
    assert [line.split()[0] for line in told] == [
        f"k8s/overlays/{environment}/prometheusrule.yaml" for environment in ("prod", "staging")
    ]
    assert all(line.endswith("run `make rules`") for line in told)
    assert rules.main([]) == 0
    assert rules.main(["--check"]) == 0
    assert "  # Edited.\n" in (overlays / "prod" / "prometheusrule.yaml").read_text(encoding="utf-8")


def test_an_edited_fact_is_told_for_its_environment_alone(overlays: Path, capsys: pytest.CaptureFixture[str]) -> None:
    facts = overlays / "staging" / "environment.yaml"
    facts.write_text(facts.read_text(encoding="utf-8").replace("pages_as: ticket", 'pages_as: "page"'))

    assert rules.main(["--check"]) == 1
    assert capsys.readouterr().err.startswith("k8s/overlays/staging/prometheusrule.yaml is not what ")
    assert rules.main([]) == 0
    assert "severity: page" in (overlays / "staging" / "prometheusrule.yaml").read_text(encoding="utf-8")


def test_a_file_that_is_not_there_is_written(overlays: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = overlays / "prod" / "prometheusrule.yaml"
    before = path.read_text(encoding="utf-8")
    path.unlink()

    assert rules.main(["--check"]) == 1
    assert rules.main([]) == 0
    assert path.read_text(encoding="utf-8") == before
    assert "k8s/overlays/prod/prometheusrule.yaml is written anew" in capsys.readouterr().out


def test_an_unknown_flag_changes_nothing(overlays: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (overlays / "prod" / "prometheusrule.yaml").unlink()

    assert rules.main(["--cheque"]) == 2
    assert not (overlays / "prod" / "prometheusrule.yaml").exists()
    assert "usage:" in capsys.readouterr().err
