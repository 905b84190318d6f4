"""Gates whose tools or servers cannot be had by every tester are asked by words that those tools understand.

What they understand stands in `options.toml`, from their makers, for the versions that services pin.
"""

import re
import shlex
import subprocess
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml
from conftest import ROOT

OPTIONS: dict[str, dict[str, Any]] = tomllib.loads((ROOT / "tests" / "options.toml").read_text(encoding="utf-8"))

# The tool's variable in the Makefile, its image, and the gate that runs it.
TOOLS = {"TRIVY": ("trivy", "scan"), "GRYPE": ("grype", "scan"), "SONAR": ("sonar-scanner-cli", "sonar")}


def commands(project: Path, variable: str, target: str) -> list[list[str]]:
    """The words that a target hands to a tool."""
    command = ["make", "--dry-run", "--assume-old=reports/image.tar", f"{variable}=the-tool", target]
    done = subprocess.run(command, cwd=project, capture_output=True, text=True, check=True)
    lines = done.stdout.replace("\\\n", " ").splitlines()
    return [shlex.split(line[found.end() :]) for line in lines if (found := re.search(r"(^|; +)the-tool ", line))]


def unknown(words: list[str], known: list[str]) -> list[str]:
    """The options that a tool does not know, by themselves or as `-Dname=value`."""
    given = [re.sub(r"^-D", "", word).partition("=")[0] for word in words if re.match(r"--|-D", word)]
    assert given
    return [option for option in given if option not in known]


@pytest.mark.parametrize("variable", TOOLS)
def test_a_tool_is_given_only_options_that_its_maker_documents(variable: str, default_project: Path) -> None:
    image, target = TOOLS[variable]

    asked = commands(default_project, variable, target)

    assert asked
    assert [unknown(words, OPTIONS[image]["options"]) for words in asked] == [[] for _ in asked]


@pytest.mark.parametrize("variable", TOOLS)
def test_the_options_are_those_of_the_pinned_version(variable: str, default_project: Path) -> None:
    image, _ = TOOLS[variable]
    makefile = (default_project / "Makefile").read_text(encoding="utf-8")

    assert re.search(rf"/{image}:{re.escape(OPTIONS[image]['version'])}(@|$)", makefile, re.MULTILINE)


def test_the_scanner_of_sonarqube_sees_code_coverage_and_history(default_project: Path) -> None:
    command = ["make", "--dry-run", "--assume-old=reports", "sonar"]
    done = subprocess.run(command, cwd=default_project, capture_output=True, text=True, check=True)
    workflow = (default_project / ".github" / "workflows" / "ci-cd.yml").read_text(encoding="utf-8")
    (checkout, *_) = yaml.safe_load(workflow)["jobs"]["sonar"]["steps"]

    seen = set(re.findall(rf"{re.escape(str(default_project))}/([\w.]+)", done.stdout))
    assert seen == {"reports", ".cache", "app", "tests", ".git"}
    assert checkout["with"]["fetch-depth"] == 0


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ("image --input a --severity HIGH", []),
        ("image --input a --vuln-type os", ["--vuln-type"]),
        ("image --input=a --exitcode=1", ["--exitcode"]),
    ],
)
def test_an_option_that_is_not_documented_is_found(words: str, told: list[str]) -> None:
    assert unknown(words.split(), OPTIONS["trivy"]["options"]) == told
