"""The template's own pipeline runs its make targets, may do little but read, and leaves out no test."""

import re
import subprocess
import sys
import tomllib
from pathlib import Path

import components
import pytest
import yaml
from conftest import ROOT
from test_workflows import jobs, said, steps, workflows

MAKEFILE = (ROOT / "Makefile").read_text(encoding="utf-8")
TARGETS = set(re.findall(r"^\.PHONY: ([a-z-]+)$", MAKEFILE, re.MULTILINE))

# Windows has no make: what its target does, by the Python that is there.
ON_WINDOWS = [
    "python -m pip install --require-hashes --requirement requirements.txt",
    "python -m pytest @tests/portable.txt",
]


def ran() -> list[tuple[str, str]]:
    """Each command, with its job."""
    return [(name.partition(": ")[2], step["run"]) for name, step in steps(ROOT) if "run" in step]


def test_the_linters_find_nothing_even_when_they_are_pedantic() -> None:
    zizmor = Path(sys.executable).with_name("zizmor")

    assert not said([zizmor, "--offline", "--quiet", "--persona", "pedantic", ".github"], ROOT)


@pytest.mark.ci
def test_actionlint_finds_nothing() -> None:
    assert not said([components.build("actionlint") / "actionlint"], ROOT)


def test_every_step_that_runs_something_is_one_make_target() -> None:
    for job, command in ran():
        if job != "windows":
            assert command.removeprefix("make ") in TARGETS, f"{job}: {command}"
    assert [command for job, command in ran() if job == "windows"] == ON_WINDOWS


def test_windows_runs_what_the_target_runs() -> None:
    assert "\t$(PYTEST) @tests/portable.txt\n" in MAKEFILE
    assert all((ROOT / name).exists() for name in (ROOT / "tests" / "portable.txt").read_text().split())


def test_every_target_that_tests_is_run_by_some_job() -> None:
    tests = {target for target in TARGETS if target.startswith("test")}

    # The cluster's are in `make test-all`.
    assert tests - {command.removeprefix("make ") for _, command in ran()} == {"test-cluster"}


def test_every_marker_is_chosen_by_some_target_and_left_out_by_make_test() -> None:
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["pytest"]["ini_options"]
    markers = [line.partition(":")[0] for line in settings["markers"]]
    quick = re.search(r"-n auto -m '(.+)'", MAKEFILE)

    assert quick
    assert sorted(quick[1].removeprefix("not ").split(" and not ")) == sorted(markers)


def test_a_job_in_shards_has_all_of_them() -> None:
    found = {name: job["strategy"]["matrix"]["shard"] for name, job in jobs(ROOT) if "SHARD" in job.get("env", {})}

    assert len(found) == 3
    for shards in found.values():
        assert shards == [f"{number}/{len(shards)}" for number in range(1, len(shards) + 1)]


# What more than reading the repository each may; of the rest, nothing.
FINDINGS = {"security-events": "write"}
MORE = {
    "release.yml: publish": {"contents": "write", "id-token": "write", "attestations": "write"},
    "security.yml: code": FINDINGS,
    "security.yml: scorecard": FINDINGS,
}
SIGNS = {name for name, granted in MORE.items() if "id-token" in granted}


def test_what_may_do_more_than_read_is_few_and_known_and_no_job_can_hang_for_ever() -> None:
    assert all(workflow["permissions"] == {} for workflow in workflows(ROOT).values())
    for name, job in jobs(ROOT):
        assert job["permissions"] == {"contents": "read"} | MORE.get(name, {}), name
        assert job["timeout-minutes"], name


def test_what_may_sign_and_write_installs_nothing_and_begins_with_a_tag_of_ours() -> None:
    used = [step.get("uses", "").partition("@")[0] or step["run"] for name, step in steps(ROOT) if name in SIGNS]

    assert used == ["actions/checkout", "actions/download-artifact", "actions/attest", "make publish"]
    assert workflows(ROOT)["release.yml"][True] == {"push": {"tags": ["v*"]}}


def test_updates_are_tested_from_every_release_in_the_whole_history() -> None:
    whole = {
        name: any(step.get("with", {}).get("fetch-depth") == 0 for step in job["steps"])
        for name, job in jobs(ROOT)
        if {"make test-ci", "make test-all", "make release"} & {step.get("run") for step in job["steps"]}
    }

    assert whole == {"ci.yml: longer": True, "ci.yml: all": True, "release.yml: build": True}


@pytest.mark.parametrize("name", ["ci.yml", "security.yml"])
def test_it_runs_for_pull_requests_main_and_every_week(name: str) -> None:
    workflow = workflows(ROOT)[name]
    # YAML 1.1 reads the key `on` as a truth value.
    assert set(workflow[True]) == {"pull_request", "push", "schedule", "workflow_dispatch"}
    assert workflow["concurrency"]["cancel-in-progress"] == "${{ github.event_name == 'pull_request' }}"


def test_it_runs_on_three_systems() -> None:
    assert {str(job["runs-on"]).partition("-")[0] for _, job in jobs(ROOT)} == {"ubuntu", "macos", "windows"}


def test_tests_run_on_every_python_that_the_template_supports() -> None:
    supported = re.search(r'requires-python = ">=3\.(\d+)"', (ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    tested = dict(jobs(ROOT))["ci.yml: test"]["strategy"]["matrix"]["python"]

    assert supported
    assert tested == [f"3.{minor}" for minor in range(int(supported[1]), 15)]


def test_every_action_is_pinned_by_its_commit_and_says_its_release() -> None:
    for path in (ROOT / ".github" / "workflows").iterdir():
        for used in re.findall(r"uses: (.+)", path.read_text(encoding="utf-8")):
            assert re.fullmatch(r"[\w./-]+@[0-9a-f]{40} # v\d+\.\d+\.\d+", used), f"{path.name}: {used}"


def test_every_update_waits_for_a_week() -> None:
    text = (ROOT / ".github" / "dependabot.yml").read_text(encoding="utf-8")
    updates = yaml.safe_load(text)["updates"]

    assert {update["package-ecosystem"] for update in updates} == {"github-actions", "gomod", "maven", "npm", "pip"}
    assert all(update["cooldown"] == {"default-days": 7} for update in updates)


@pytest.mark.parametrize(
    ("arguments", "asked"),
    [
        (["prepare"], []),
        ([], ["docker image", "docker builder", "make test", "make test-ci", "make test-live", "make demo"]),
    ],
)
def test_a_developers_engine_is_prepared_and_keeps_its_images(
    arguments: list[str], asked: list[str], tmp_path: Path
) -> None:
    log = tmp_path / "log"
    # Nothing is installed where nothing is missing, and what would be is not.
    for name in ("apt-get", "docker", "dockerd", "initdb", "ldd", "make", "python3"):
        program = tmp_path / name
        program.write_text(f'#!/bin/sh\necho {name} "$@" >>{log}\n', encoding="utf-8")
        program.chmod(0o755)

    subprocess.run([ROOT / ".ci" / "run", *arguments], env={"PATH": f"{tmp_path}:/usr/bin:/bin"}, check=True)

    done = re.findall(r"^(docker \w+(?= prune)|make .+)", log.read_text(encoding="utf-8"), re.MULTILINE)
    assert done == asked
