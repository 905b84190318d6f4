"""What GitHub Actions is given is whole in each variant, may do little, and runs nothing but make targets."""

import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from itertools import product
from pathlib import Path
from typing import Any

import components
import pytest
import yaml
from conftest import ROOT, Bake

# What decides about workflows.
VARIANTS = [
    {"deployment": deployment, "exposure": exposure, "image_repository": image, "ci_system": system, "load_tests": load}
    for deployment, exposure, (image, system, load) in product(
        ("argocd", "kubectl"),
        ("gateway-api", "cluster-internal"),
        (("ghcr.io/example-org/api", "github-actions", "yes"), ("registry.example.com/api", "both", "no")),
    )
]


@pytest.fixture(scope="session", params=VARIANTS, ids=lambda answers: "-".join(answers.values()))
def service(request: pytest.FixtureRequest, cookies_session: Any) -> Path:
    """A service with these answers. Shared: read it only."""
    result = cookies_session.bake(extra_context=request.param, template=str(ROOT))
    assert result.exception is None, repr(result.exception)
    project = Path(result.project_path)
    # Both linters find what they judge in a repository only.
    subprocess.run(["git", "init", "--quiet"], cwd=project, check=True)
    return project


def workflows(service: Path) -> Mapping[str, Any]:
    """Each workflow, by the name of its file. YAML 1.1 reads the key `on` as a truth value."""
    return {
        path.name: yaml.safe_load(path.read_text(encoding="utf-8"))
        for path in sorted((service / ".github" / "workflows").iterdir())
    }


def jobs(service: Path) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Each job, with its name and that of its workflow."""
    for file, workflow in workflows(service).items():
        for name, job in workflow["jobs"].items():
            yield f"{file}: {name}", job


def steps(service: Path) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Each step, with the job that it is of."""
    for name, job in jobs(service):
        for step in job.get("steps", []):
            yield name, step


def said(command: list[str | Path], service: Path) -> str:
    """What a linter has to say, nothing when it ends well."""
    done = subprocess.run(command, cwd=service, capture_output=True, text=True, check=False)
    return f"{done.stdout}{done.stderr}" if done.returncode else ""


def test_zizmor_finds_nothing_even_when_it_is_pedantic(service: Path) -> None:
    zizmor = Path(sys.executable).with_name("zizmor")

    assert not said([zizmor, "--offline", "--quiet", "--persona", "pedantic", "."], service)


def test_yamllint_finds_nothing(service: Path) -> None:
    assert not said([sys.executable, "-m", "yamllint", "--strict", "-c", ROOT / ".yamllint", ".github"], service)


@pytest.mark.ci
def test_actionlint_finds_nothing(service: Path) -> None:
    assert not said([components.build("actionlint") / "actionlint"], service)


def test_every_step_that_runs_something_is_one_make_target(service: Path) -> None:
    makefile = (service / "Makefile").read_text(encoding="utf-8")
    targets = set(re.findall(r"^([a-z-]+):", makefile, re.MULTILINE))
    commands = [(name, step["run"]) for name, step in steps(service) if "run" in step]

    assert commands
    for name, command in commands:
        target = re.fullmatch(r"make ([a-z-]+)", command)
        assert target, f"{name}: {command}"
        assert target[1] in targets, f"{name}: {command}"


def test_every_action_is_pinned_by_its_commit_and_says_its_release(service: Path) -> None:
    for path in (service / ".github" / "workflows").iterdir():
        for used in re.findall(r"uses: (.+)", path.read_text(encoding="utf-8")):
            ours = used.startswith("./.github/workflows/")
            assert ours or re.fullmatch(r"[\w./-]+@[0-9a-f]{40} # v\d+\.\d+\.\d+", used), f"{path.name}: {used}"


def test_one_action_has_one_commit_in_all_variants_and_in_the_template(service: Path) -> None:
    pins: dict[str, set[str]] = {}
    own = ROOT / ".github" / "workflows"
    for path in [*own.iterdir(), *(service / ".github" / "workflows").iterdir()]:
        for action, pin in re.findall(r"uses: ([\w./-]+)@(.+)", path.read_text(encoding="utf-8")):
            pins.setdefault(action, set()).add(pin)

    assert {action: found for action, found in pins.items() if len(found) > 1} == {}


def test_nothing_is_permitted_but_to_a_job_which_says_why(service: Path) -> None:
    assert all(workflow["permissions"] == {} for workflow in workflows(service).values())
    for path in (service / ".github" / "workflows").iterdir():
        granted = re.findall(r"^ +[a-z-]+: (?:read|write)\b.*$", path.read_text(encoding="utf-8"), re.MULTILINE)
        granted = [line for line in granted if "permission-" not in line]
        assert granted
        assert [line for line in granted if " # to " not in line and " # what " not in line] == []


def test_no_job_can_hang_for_ever(service: Path) -> None:
    assert [name for name, job in jobs(service) if "uses" not in job and not job.get("timeout-minutes")] == []


def test_only_runs_of_a_pull_request_are_cancelled(service: Path) -> None:
    for name, workflow in workflows(service).items():
        cancelled = workflow["concurrency"]["cancel-in-progress"]
        assert cancelled in (False, "${{ github.event_name == 'pull_request' }}"), name


# What begins a run, where all that is optional is switched on.
OPTIONAL = {"vars.SONAR_HOST_URL": "https://sonar.example.com", "vars.CODE_SCANNING": "enabled"}
EVENTS = {
    name: {"github.event_name": event, "github.ref": ref, "github.ref_type": kind, **OPTIONAL}
    for name, event, ref, kind in (
        ("pull request", "pull_request", "refs/pull/1/merge", "branch"),
        ("merge", "push", "refs/heads/main", "branch"),
        ("tag", "push", "refs/tags/v1.2.3", "tag"),
    )
}
JUDGED = {"lint", "test", "security", "image"}


def holds(condition: str, event: Mapping[str, str]) -> bool:
    """Whether what a job asks of an event is so. Terms that are joined by `&&` are all that ours are made of."""
    for term in condition.removeprefix("${{").removesuffix("}}").strip().split(" && "):
        if term == "!cancelled()":
            continue
        asked = re.fullmatch(r"([\w.]+)(?: (==|!=) '([^']*)')?", term)
        assert asked, term
        name, compared, value = asked.groups()
        if not ((event[name] == value) is (compared == "==") if compared else event[name]):
            return False
    return True


def starts(found: Mapping[str, Any], name: str, event: Mapping[str, str]) -> bool:
    """Whether a job begins: one whose need was skipped is skipped too, unless its condition asks for the status."""
    condition = found[name].get("if", "")
    needed = "cancelled()" in condition or all(starts(found, need, event) for need in found[name].get("needs", []))
    return needed and (not condition or holds(condition, event))


@pytest.mark.parametrize(
    ("event", "expected"),
    [
        ("pull request", JUDGED),
        ("merge", {*JUDGED, "sonar", "findings", "publish", "dev", "staging"}),
        # What is tagged was judged when it was merged: nothing is left to show.
        ("tag", {"version", "prod"}),
    ],
)
def test_an_event_starts_what_belongs_to_it(service: Path, event: str, expected: set[str]) -> None:
    found = workflows(service)["ci-cd.yml"]["jobs"]

    assert {name for name in found if starts(found, name, EVENTS[event])} == expected


def test_no_job_of_a_pull_request_may_write_or_see_a_secret(service: Path) -> None:
    judged = [workflows(service)["ci-cd.yml"]["jobs"][name] for name in JUDGED]

    assert all(job["permissions"] == {"contents": "read"} for job in judged)
    assert all("secrets." not in str(job) for job in judged)


def test_a_release_is_verified_before_it_is_written_and_taken_back_when_it_does_not_serve(service: Path) -> None:
    run = [step["run"] for step in workflows(service)["deploy.yml"]["jobs"]["deploy"]["steps"] if "run" in step]
    order = [command for command in run if command != "make access"]
    bring = "make publish" if "make publish" in run else "make deploy"

    load = ["make load"] if (service / "tests" / "load").exists() else []
    assert order == ["make digest", "make verify", "make release", bring, "make smoke", *load, "make rollback"]


def test_what_is_tagged_is_the_last_commit_that_has_an_image(
    service: Path, tmp_path: Path, git: Callable[..., str]
) -> None:
    page = (service / "docs" / "architecture" / "GITHUB-ACTIONS.md").read_text(encoding="utf-8")
    found = re.search(r'git tag v1\.2\.3 "\$\((git log .+)\)"', page)
    if "make publish" not in page:
        assert not found, "where no pipeline commits, what is checked out is tagged"
        return
    assert found
    git(tmp_path, "init", "--quiet", "--initial-branch=main")
    release = tmp_path / "k8s" / "overlays" / "staging" / "release" / "kustomization.yaml"
    release.parent.mkdir(parents=True)
    for path in (release, tmp_path / "code", release):
        path.write_text(f"{path.exists()}", encoding="utf-8")
        git(tmp_path, "add", "--all")
        git(tmp_path, "commit", "--quiet", "--message", path.name)
    git(tmp_path, "update-ref", "refs/remotes/origin/main", "HEAD")

    tagged = subprocess.run(["sh", "-c", found[1]], cwd=tmp_path, check=True, capture_output=True, text=True)

    assert git(tmp_path, "show", "--no-patch", "--format=%s", tagged.stdout.strip()).strip() == "code"


@pytest.mark.parametrize(
    ("tag", "accepted"),
    [
        ("v0.1.0", True),
        ("v0.2.0", False),
        ("", False),
        ("v0'; echo RUN >&2; '", False),
        ('v0"; echo RUN >&2; "', False),
    ],
)
@pytest.mark.parametrize("given", ["environment", "argument"])
def test_the_name_of_a_tag_is_compared_and_never_run(
    given: str, tag: str, accepted: bool, default_project: Path
) -> None:
    arguments, environment = ([], {"TAG": tag}) if given == "environment" else ([f"TAG={tag}"], {})
    command = ["make", "--silent", "check-tag", *arguments]
    done = subprocess.run(
        command, cwd=default_project, env=os.environ | environment, check=False, capture_output=True, text=True
    )

    told = "" if accepted else f"The tag is {tag}, and app/service.toml has 0.1.0.\n"
    assert (done.returncode == 0, done.stdout) == (accepted, "")
    assert [line for line in done.stderr.splitlines(keepends=True) if not line.startswith("make: ")] == [told] * bool(
        told
    )


def seconds(duration: str) -> int:
    """How long that is, as Argo writes it."""
    return int(duration[:-1]) * {"s": 1, "m": 60}[duration[-1]]


def test_smoke_waits_until_a_canary_that_argo_cd_brings_was_judged(bake: Bake) -> None:
    project = bake(deployment="argocd", release_strategy="canary", ci_system="both")
    canary = project / "k8s" / "components" / "canary"
    rollout = yaml.safe_load((canary / "rollout.yaml").read_text(encoding="utf-8"))["spec"]
    analyses = sum("analysis" in step for step in rollout["strategy"]["canary"]["steps"])
    metrics = yaml.safe_load((canary / "analysistemplate.yaml").read_text(encoding="utf-8"))["spec"]["metrics"]
    judged = max(seconds(one["initialDelay"]) + (one["count"] - 1) * seconds(one["interval"]) for one in metrics)
    # Argo CD looks every three minutes.
    longest = 180 + rollout["progressDeadlineSeconds"] + analyses * judged

    waits = [step["env"]["TIMEOUT"] for _, step in steps(project) if step.get("run") == "make smoke"]
    jenkins = (project / "ci-cd" / "jenkins" / "Jenkinsfile").read_text(encoding="utf-8")
    # dev has no canary.
    waits += map(int, re.findall(r"make smoke ENV=(?:staging|prod) TIMEOUT=(\d+)", jenkins))

    assert len(waits) == 4
    assert min(waits) > longest


def test_dependabot_watches_each_dockerfile_whose_base_it_can_tell(service: Path) -> None:
    updates = yaml.safe_load((service / ".github" / "dependabot.yml").read_text(encoding="utf-8"))["updates"]
    watched = {update["directory"] for update in updates if update["package-ecosystem"] == "docker"}

    # It resolves no ARG: https://github.com/dependabot/dependabot-core/issues/2057.
    bases = {path: re.findall(r"^FROM (\S+)", path.read_text(), re.MULTILINE) for path in service.rglob("Dockerfile")}
    literal = {path for path, froms in bases.items() if any("$" not in base and ":" in base for base in froms)}
    assert watched == {f"/{path.parent.relative_to(service).as_posix()}" for path in literal}
    assert bool(watched) is (service / "ci-cd" / "jenkins").exists()


def test_load_is_for_staging_only(service: Path) -> None:
    found = [step for _, step in steps(service) if step.get("run") == "make load"]

    assert [step["if"] for step in found] == ["inputs.environment == 'staging'"] * (service / "tests" / "load").exists()


def test_an_image_is_built_once_and_only_the_one_that_passed_every_gate_is_pushed(service: Path) -> None:
    found = workflows(service)["ci-cd.yml"]["jobs"]
    builds = [name for name, job in found.items() for step in job.get("steps", []) if step.get("run") == "make image"]
    pushes = [name for name, job in found.items() for step in job.get("steps", []) if step.get("run") == "make push"]

    assert (builds, pushes) == (["image"], ["publish"])
    assert set(found["publish"]["needs"]) == {"lint", "test", "security", "image"}
    assert (found["dev"]["needs"], found["staging"]["needs"]) == (["publish"], ["dev"])


def test_tests_run_on_every_python_that_the_service_supports(service: Path) -> None:
    supported = re.search(r'requires-python = ">=3\.(\d+)"', (service / "pyproject.toml").read_text(encoding="utf-8"))
    tested = workflows(service)["ci-cd.yml"]["jobs"]["test"]["strategy"]["matrix"]["python"]

    assert supported
    assert tested[0] == f"3.{supported[1]}"
    assert tested == [f"3.{minor}" for minor in range(int(supported[1]), 15)]
