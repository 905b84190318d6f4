"""Every generated tree is whole: files parse, nothing is unrendered, only the answers decide the bytes."""

import re
import tomllib
from pathlib import Path
from typing import Any

import pytest
from conftest import FOLDER, LINK, ROOT, Bake, Run
from hostile import ACCEPTED
from trees import contents, files, problems, text_of

# Python that refuses what generation must not do, in Cookiecutter and in the hooks that it starts: an audit
# hook sees each attempt (PEP 578).
GUARD = """
import sys

def refuse(event, arguments):
    if event.startswith(("socket.connect", "socket.getaddrinfo", "socket.sendto")):
        raise RuntimeError(f"the network was used: {event} {arguments}")
    if event == "subprocess.Popen":
        command = [str(word) for word in arguments[1]]
        if command[0] == "git" and command[3] in {"rev-parse", "config"}:
            return
        if command[0] != sys.executable:
            raise RuntimeError(f"another program was run: {command}")

sys.addaudithook(refuse)
"""


def test_every_file_parses(default_project: Path) -> None:
    assert files(default_project)
    assert problems(default_project) == []


def test_the_same_answers_give_the_same_bytes(default_project: Path, run: Run, tmp_path: Path) -> None:
    for seed in ("1", "2"):
        output = tmp_path / seed
        result = run("cookiecutter", ROOT, "--no-input", "-o", output, env={"PYTHONHASHSEED": seed, "TZ": f"UTC{seed}"})

        assert result.returncode == 0, result.stderr
        assert contents(output / default_project.name) == contents(default_project)


def test_generation_uses_no_network_and_no_program_but_git(run: Run, tmp_path: Path) -> None:
    (tmp_path / "sitecustomize.py").write_text(GUARD, encoding="utf-8")
    (tmp_path / "probe.py").write_text("import socket; socket.getaddrinfo('localhost', 80)", encoding="utf-8")
    guarded = {"PYTHONPATH": str(tmp_path)}
    # The guard must bite, or the test proves nothing.
    assert "the network was used" in run("probe", env=guarded).stderr

    result = run("cookiecutter", ROOT, "--no-input", "-o", tmp_path / "out", env=guarded)

    assert result.returncode == 0, result.stderr


def test_python_holds_no_jinja() -> None:
    # Files of an option have a conditional name, which Cookiecutter's `_copy_without_render` does not match.
    template = sorted(path for path in (ROOT / FOLDER).rglob("*.py*") if path.is_file() and path.suffix != ".pyc")
    jinja = [path for path in template if re.search(r"[{][{%#]|[#%}][}]", path.read_text(encoding="utf-8"))]

    assert any(path.name.startswith("{%") for path in template)
    assert [path for path in jinja if path.name.startswith("{%")] == []
    assert [path for path in jinja if "cookiecutter" in path.read_text(encoding="utf-8")] == []


# Locust brings the greenlets that a database would bring; MIGRATING.md is what the template calls its page on updates.
@pytest.mark.parametrize(("load_tests", "also"), [(True, ""), (False, "|greenlet")])
def test_a_service_without_a_database_does_not_mention_one(load_tests: bool, also: str, bake: Bake) -> None:
    word = re.compile(rf"sql|postgres|alembic|asyncpg|database|migrat(?!ing\.md)|pg_{also}", re.IGNORECASE)
    project = bake(database="none", load_tests=load_tests)

    assert [path for path in contents(project) if word.search(path)] == []
    mentions = [
        f"{path.relative_to(project)}:{number}: {line}"
        for path in files(project)
        for number, line in enumerate((text_of(path) or "").splitlines(), 1)
        if word.search(line) and path.name != LINK
    ]
    assert mentions == []


def test_a_service_without_load_tests_does_not_mention_locust(bake: Bake) -> None:
    word = re.compile(r"locust|gevent|tests/load|load_tests|load\.html|make load", re.IGNORECASE)
    project = bake(load_tests=False, ci_system="both", deployment="kubectl")

    assert [path for path in contents(project) if word.search(path)] == []
    assert [
        f"{path.relative_to(project)}: {found[0]}"
        for path in files(project)
        if path.name != LINK and (found := word.search(text_of(path) or ""))
    ] == []


@pytest.mark.parametrize("answers", ACCEPTED.values(), ids=ACCEPTED)
def test_hostile_answers_arrive_unchanged_and_break_no_file(answers: dict[str, str], bake: Bake) -> None:
    # A name in another script is spelled in Latin letters for the slug; that may start with a digit or be
    # empty.
    project = bake(**{"project_slug": "hostile", **answers})

    assert problems(project) == []
    facts = tomllib.loads((project / "app" / "service.toml").read_text(encoding="utf-8"))
    service, slo = facts["service"], facts["slo"]
    stated = {
        "project_name": service["title"],
        "project_slug": service["name"],
        "description": service["description"],
        "team": service["team"],
        "repository_url": service["repository"],
        "slo_availability": str(slo["availability_percent"]),
        "slo_latency_ms": str(slo["latency_threshold_ms"]),
    }
    assert {name: stated.get(name, answer) for name, answer in answers.items()} == answers


def test_the_facts_of_a_service_are_its_answers(default_project: Path, defaults: dict[str, Any]) -> None:
    facts = tomllib.loads((default_project / "app" / "service.toml").read_text(encoding="utf-8"))

    assert facts == {
        "service": {
            "name": "sre-demo-api",
            "title": "SRE Demo API",
            "description": defaults["description"],
            "version": "0.1.0",
            "team": "platform",
            "repository": "https://github.com/example-org/sre-demo-api",
            "image_repository": "ghcr.io/example-org/sre-demo-api",
        },
        "slo": {"availability_percent": 99.9, "latency_threshold_ms": 300, "latency_percent": 99},
        "ports": {"http": 8000, "metrics": 9000},
    }


@pytest.mark.parametrize("overlay", ["dev", "prod", "staging"])
def test_a_fresh_tree_holds_what_a_release_writes_but_for_what_runs(overlay: str, bake: Bake, run: Run) -> None:
    project = bake(project_slug="shop", image_repository="registry.example.com:5000/acme/shop")
    path = project / "k8s" / "overlays" / overlay / "release" / "kustomization.yaml"
    fresh = path.read_text(encoding="utf-8").splitlines()

    done = run("tools.release", overlay, f"sha256:{'0' * 64}", "1.2.3", cwd=project)

    assert done.returncode == 0, done.stderr
    *released, digest = path.read_text(encoding="utf-8").splitlines()
    assert digest == f'      image-digest: "{"0" * 12}"'
    assert [both for both in zip(fresh, released, strict=True) if both[0] != both[1]] == [
        ("    newTag: unreleased", f"    digest: sha256:{'0' * 64}"),
        ("      app.kubernetes.io/version: unreleased", '      app.kubernetes.io/version: "1.2.3"'),
    ]


@pytest.mark.parametrize(
    ("license_name", "first_line", "notice"),
    [
        ("Proprietary", "Copyright (c) acme. All rights reserved.", False),
        ("MIT", "MIT License", False),
        ("Apache-2.0", "Apache License", True),
    ],
)
def test_legal_files_follow_the_answers(license_name: str, first_line: str, notice: bool, bake: Bake) -> None:
    project = bake(license=license_name, organization="acme", team="shop", project_name="Shop")

    legal = (project / "LICENSE").read_text(encoding="utf-8")
    assert legal.splitlines()[0].strip() == first_line
    assert ("Copyright (c) acme" in legal) is (license_name != "Apache-2.0")
    assert (project / "NOTICE").exists() is notice
    if notice:
        assert (project / "NOTICE").read_text(encoding="utf-8").startswith("Shop\nCopyright acme\n")
    assert "* @acme/shop\n" in (project / "CODEOWNERS").read_text(encoding="utf-8")
