"""`make lint-config`: which program judges which file, and what is said when one cannot."""

import re
from pathlib import Path
from typing import Any

import pytest

from tools import lint_config
from tools.compose import ROOT, DockerError
from tools.lint_config import Check

SERVICES = {"prometheus": {"image": "prom/prometheus:v3"}}


@pytest.fixture
def check(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Check:
    """One that finds two files to judge."""
    monkeypatch.setattr(lint_config, "ROOT", tmp_path)
    monkeypatch.delenv("PROMTOOL", raising=False)
    tests = tmp_path / "observability" / "prometheus" / "tests"
    tests.mkdir(parents=True)
    (tests.parent / "y").touch()
    for name in ("b.yml", "a.yml", "c.txt"):
        (tests / name).touch()
    return Check("prometheus", "PROMTOOL", "/bin/promtool", "test rules --x=folder/y folder/tests/*.yml")


@pytest.fixture
def program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A checker of this machine, which says what it is given and refuses files called bad."""
    path = tmp_path / "checker"
    path.write_text('#!/bin/sh\necho "$@"\ncase "$*" in *bad*) echo "it is bad" >&2; exit 1;; esac\n')
    path.chmod(0o755)
    monkeypatch.setenv("PROMTOOL", str(path))
    return path


def test_the_image_of_the_compose_file_judges_without_a_network(check: Check, tmp_path: Path) -> None:
    command = check.command(SERVICES)

    assert command[:6] == ["docker", "run", "--rm", "--network", "none", "--mount"]
    assert command[6] == f"type=bind,source={tmp_path}/observability/prometheus,target=/checked,readonly"
    assert command[7:10] == ["--entrypoint", "/bin/promtool", "prom/prometheus:v3"]
    assert command[10:] == ["test", "rules", "--x=/checked/y", "/checked/tests/a.yml", "/checked/tests/b.yml"]


def test_a_program_of_this_machine_judges_where_the_variable_says_so(
    check: Check, program: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "observability" / "prometheus"

    command = [str(program), "test", "rules", f"--x={folder}/y", f"{folder}/tests/a.yml", f"{folder}/tests/b.yml"]
    assert check.command({}) == command


def test_a_folder_elsewhere_is_judged_by_the_same_program(check: Check, tmp_path: Path) -> None:
    elsewhere = Check("prometheus", "PROMTOOL", "/bin/promtool", "check rules folder/alerts.yml", "k8s/monitoring")

    command = elsewhere.command(SERVICES)

    assert f"type=bind,source={tmp_path}/k8s/monitoring,target=/checked,readonly" in command
    assert command[-3:] == ["check", "rules", "/checked/alerts.yml"]
    assert elsewhere.name == "promtool check rules k8s/monitoring/alerts.yml"


def test_a_variable_that_names_no_program_is_told(check: Check, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PROMTOOL", "/nowhere/promtool")

    with pytest.raises(DockerError, match="PROMTOOL is /nowhere/promtool, which is no program"):
        check.command(SERVICES)


def test_an_image_that_the_compose_file_does_not_name_is_told_with_what_may_stand_for_it(check: Check) -> None:
    with pytest.raises(DockerError, match="has no prometheus; PROMTOOL may name a program instead"):
        check.command({})


def run(arguments: list[str], monkeypatch: pytest.MonkeyPatch, *checks: Check, **services: Any) -> int:
    monkeypatch.setattr(lint_config, "CHECKS", checks)
    monkeypatch.setattr(lint_config, "services", lambda **_: services)
    return lint_config.main(arguments)


def test_what_is_wrong_is_said_in_the_checkers_words_after_the_rest_was_judged(
    check: Check, program: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    bad = Check("prometheus", "PROMTOOL", "/bin/promtool", "check bad folder/tests/a.yml")
    absent = Check("prometheus", "PROMTOOL", "/bin/promtool", "check config folder/prometheus.yml")

    assert run([], monkeypatch, bad, check, absent) == 1

    said = capsys.readouterr()
    judged = "observability/prometheus/tests/a.yml"
    assert said.out.startswith("promtool test rules")
    assert said.err == f"\npromtool check bad {judged}\ncheck bad {tmp_path}/{judged}\nit is bad\n\n"


def test_only_the_services_that_are_named_are_judged(
    check: Check, program: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    bad = Check("loki", "PROMTOOL", "/bin/promtool", "check bad folder/loki.yaml")
    bad.folder.mkdir()
    (bad.folder / "loki.yaml").touch()

    assert run(["prometheus"], monkeypatch, bad, check) == 0
    assert run(["grafana"], monkeypatch, bad, check) == 2
    assert "no such service: grafana; there are loki, prometheus" in capsys.readouterr().err


def test_a_checker_that_cannot_be_had_fails(
    check: Check, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def without_docker(**_: bool) -> dict[str, Any]:
        raise DockerError("Docker is not installed")

    monkeypatch.setattr(lint_config, "services", without_docker)

    assert lint_config.main([]) == 1
    assert "Docker is not installed" in capsys.readouterr().err


@pytest.mark.parametrize("check", lint_config.CHECKS, ids=lambda check: check.name)
def test_each_checker_has_a_file_or_its_service_was_not_chosen(check: Check) -> None:
    compose = (ROOT / "docker-compose.yml").read_text(encoding="utf-8")
    started = re.search(rf"\n  {check.service}:\n(?!    profiles:)", compose)

    assert check.chosen or not started
