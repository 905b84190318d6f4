"""The Jenkinsfile is a pipeline with the gates of the table, in their order, each where it may have what it needs.

That is its structure. Whether a controller takes it, its plugins alone can tell: `make jenkinsfile-lint` asks one.
"""

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import gates
import jenkinsfile
import kubernetes_validate
import pytest
import yaml
from conftest import ROOT, Bake
from jenkinsfile import Call, Event, Pipeline, Stage

pytestmark = pytest.mark.ci

FILE = Path("ci-cd/jenkins/Jenkinsfile")
PODS = Path("ci-cd/jenkins/pods")

ANSWERS = [
    {"ci_system": "jenkins"},
    {"ci_system": "jenkins", "deployment": "kubectl", "database": "none", "load_tests": "no"},
    {"ci_system": "both", "exposure": "cluster-internal", "production_image": "standard"},
]

# What talks to a container engine.
ENGINE = {"lint-config", "sonar", "image", "scan", "sbom", "login", "push", "digest", "sign", "attest", "verify"}

RELEASE = "k8s/overlays/staging/release/kustomization.yaml"


@dataclass(frozen=True)
class Subject:
    """A Jenkinsfile, and the service that it is of."""

    pipeline: Pipeline
    project: Path

    def steps(self) -> Iterator[tuple[Stage, str]]:
        """Each stage with each target that it runs, in its steps or after them."""
        for stage in self.pipeline.walk():
            for step in stage.calls("sh"):
                if target := gates.target_of(str(step.value)):
                    yield stage, target


def every_step_is_a_target(subject: Subject) -> Iterator[str]:
    known = gates.targets(subject.project)
    listed = {gate.target for gate in gates.table(subject.project)} | gates.helpers(subject.project)
    shells = ("bat", "powershell", "pwsh", "script")
    yield from (f"line {one.line}: {one.name}" for name in shells for one in subject.pipeline.call.find(name))
    for step in subject.pipeline.call.find("sh"):
        target = gates.target_of(step.value) if isinstance(step.value, str) else None
        if target is None:
            yield f"line {step.line}: sh {step.value!r} is not one make target"
        elif target not in known:
            yield f"line {step.line}: the Makefile has no {target}"
        elif target not in listed:
            yield f"line {step.line}: {target} is not in the table"


def stages_run_what_the_table_says(subject: Subject) -> Iterator[str]:
    ran: dict[str, set[str]] = {}
    for stage, target in subject.steps():
        ran.setdefault(target, set()).add(stage.name)
    for gate in gates.table(subject.project):
        if (found := ran.get(gate.target, set())) != gate.stages:
            yield f"{gate.target}: in {sorted(found)}, and by the table in {sorted(gate.stages)}"


def stages_have_the_order_of_the_table(subject: Subject) -> Iterator[str]:
    """Within each sequence, and between what blocks and what comes after it."""
    order = {gate.target: place for place, gate in enumerate(gates.table(subject.project))}
    before: dict[tuple[str, ...], int] = {}
    for stage, target in subject.steps():
        sequence = tuple(parent.name for parent in stage.parents)
        if order.get(target, order["push"]) < order["push"]:
            if order[target] < before.get(sequence, -1):
                yield f"{stage.name}: comes after what follows it in the table"
            before[sequence] = order[target]
    first = [stage.name for stage in subject.pipeline.stages]
    wanted = ["Gates", "SonarQube", "Build", "Tag", "Verification", "Delivery", "Production"]
    if [name for name in first if name in wanted] != wanted:
        yield f"the outermost stages are {first}"


def only_what_warns_is_caught(subject: Subject) -> Iterator[str]:
    caught = {
        gates.target_of(str(step.value))
        for guard in subject.pipeline.call.find("catchError")
        for step in guard.find("sh")
    }
    for gate in gates.table(subject.project):
        if (gate.target in caught) != (gate.effect == "warns"):
            yield f"{gate.target}: the table says that it {gate.effect}"


def events_reach_what_they_are_to_reach(subject: Subject) -> Iterator[str]:
    """At each event, the targets that run, and the secrets that are in reach."""
    listed = [gate.target for gate in gates.table(subject.project)]
    before_push = set(listed[: listed.index("push")]) - {"sonar"}
    to_registry = {"login", "push", "sign", "attest", "digest", "verify"}
    argocd = "publish" in listed
    way = {"release", "smoke", "rollback", "publish" if argocd else "deploy"}
    to_prod = {"release", "publish"} if argocd else way
    merged = before_push | to_registry | way | ({"load"} & set(listed))
    for name, (event, targets) in {
        "a pull request": (Event("PR-1", changed=("app/main.py",)), before_push),
        "a branch": (Event("feature"), before_push),
        "a merge": (Event("main", changed=("app/main.py",)), merged),
        "a merge beside a release": (Event("main", changed=(RELEASE, "README.md")), merged),
        "a release": (Event("main", changed=(RELEASE,)), set()),
        "a release of prod": (
            Event("main", changed=("k8s/overlays/prod/release/kustomization.yaml",)),
            {"smoke", "rollback"} if argocd else set(),
        ),
        "a build by hand": (Event("main"), merged),
        "a Monday": (Event("main", timer=True), before_push | {"template-update", "template-propose"}),
        "a tag": (Event(tag=True), {"check-tag", "login", "digest", "verify"} | to_prod),
        "a pull request where there is SonarQube": (Event("PR-1", sonar=True), before_push | {"sonar"}),
    }.items():
        reached = [stage for stage in subject.pipeline.walk() if stage.runs(event)]
        found = {target for stage, target in subject.steps() if stage in reached}
        if found != targets:
            yield f"{name}: {sorted(found - targets)} too much, {sorted(targets - found)} too little"
        secrets = {one for stage in reached for one in credentials(stage)} - ({"sonar-token"} if event.sonar else set())
        if secrets and not (targets & to_registry or "smoke" in targets or event.timer):
            yield f"{name}: it would reach {sorted(secrets)}"


def credentials(stage: Stage) -> Iterator[str]:
    """The ids of the credentials that a stage gets."""
    yield from (str(one.value) for one in stage.calls("credentials"))
    for wrapper in stage.calls("withCredentials"):
        yield from (str(binding.value["credentialsId"]) for binding in wrapper.value)


def credentials_are_told_of(subject: Subject) -> Iterator[str]:
    readme = (subject.project / "ci-cd/jenkins/README.md").read_text(encoding="utf-8")
    told = set(re.findall(r"`([a-z0-9-]+)`", readme.partition("| Id | Kind |")[2].partition("\n\n")[0]))
    configured = set(
        re.findall(r"^ +id: (\S+)$", (subject.project / "ci-cd/jenkins/jcasc.yaml").read_text(), re.MULTILINE)
    )
    used = {name for stage in subject.pipeline.walk() for name in credentials(stage)}
    if used != told:
        yield f"credentials used and told of differ by {sorted(used ^ told)}"
    if missing := used - configured:
        yield f"jcasc.yaml lacks {sorted(missing)}"
    if "docker-registry-creds" not in used:
        yield "nothing logs in to the registry"


def prod_waits_for_a_person(subject: Subject) -> Iterator[str]:
    for stage, target in subject.steps():
        environments = {word for step in stage.calls("sh") for word in re.findall(r"ENV=(\w+)", str(step.value))}
        asks = any(one.section("input") for one in (stage, *stage.parents))
        if target in {"release", "publish", "deploy"} and (environments == {"prod"}) != asks:
            yield f"{stage.name}: {'prod does not wait' if environments == {'prod'} else 'it waits'} for a person"
    for stage in subject.pipeline.walk():
        condition = stage.section("when")
        if stage.section("input") and not (condition and condition.section("beforeInput")):
            yield f"{stage.name}: it would ask before it knows whether it runs"


def what_fails_is_rolled_back(subject: Subject) -> Iterator[str]:
    for stage in subject.pipeline.walk():
        steps, post = stage.section("steps"), stage.section("post")
        ran = [str(step.value) for step in steps.find("sh")] if steps else []
        failure = post.section("failure") if post else None
        back = [str(step.value) for step in failure.find("sh")] if failure else []
        for environment in re.findall(r"make smoke ENV=(\w+)", " ".join(ran)):
            if not any(step.startswith(f"make rollback ENV={environment}") for step in back):
                yield f"{stage.name}: what fails in {environment} stays there"
        if back and any(step.startswith(("make release", "make publish")) for step in ran):
            yield f"{stage.name}: a release that was not published would take the one before it back"


def results_are_published(subject: Subject) -> Iterator[str]:
    for stage in subject.pipeline.walk():
        targets = {gates.target_of(str(step.value)) for inner in stage.children for step in inner.calls("sh")}
        reports = {name for gate in gates.table(subject.project) if gate.target in targets for name in gate.reports}
        post = stage.section("post")
        always = post.section("always") if post else None
        done = {one.name for one in always.block if isinstance(one, Call)} if always else set()
        for pattern, step in (("junit", "junit"), ("coverage.xml", "recordCoverage"), (".sarif", "recordIssues")):
            if any(pattern in name for name in reports) and step not in done:
                yield f"{stage.name}: no {step}"
        if reports - {"digest", "provenance.json"} and "archiveArtifacts" not in done:
            yield f"{stage.name}: reports are not kept"


def nothing_runs_for_ever(subject: Subject) -> Iterator[str]:
    options = subject.pipeline.call.section("options")
    for name in ("timeout", "disableConcurrentBuilds", "buildDiscarder"):
        if not (options and options.section(name)):
            yield f"the pipeline has no {name}"
    for stage in subject.pipeline.walk():
        own = stage.section("options")
        if stage.section("agent") and not (own and own.section("timeout")):
            yield f"{stage.name}: it has an agent and no timeout"


def agents_are_what_they_say(subject: Subject) -> Iterator[str]:
    for stage in subject.pipeline.walk():
        agent = stage.section("agent")
        pod = agent.section("kubernetes") if agent else None
        if agent and not pod:
            yield f"{stage.name}: its agent is no pod"
        if pod:
            for name in ("inheritFrom", "yamlMergeStrategy", "namespace", "defaultContainer"):
                if not pod.section(name):
                    yield f"{stage.name}: {name} is left to the controller"
            file = pod.section("yamlFile")
            if not (file and (subject.project / str(file.value)).is_file()):
                yield f"{stage.name}: there is no pod for it"
        condition = stage.section("when")
        if agent and condition and not condition.section("beforeAgent"):
            yield f"{stage.name}: a pod is started to find out that it is not needed"
    for stage, target in subject.steps():
        agent = stage.inherited("agent")
        if ("engine.yaml" in repr(agent)) != (target in ENGINE or stage.name in {"Dockerfiles", "Manifests"}):
            yield f"{stage.name}: {target} runs in the other pod"


CHECKS: tuple[Callable[[Subject], Iterator[str]], ...] = (
    every_step_is_a_target,
    stages_run_what_the_table_says,
    stages_have_the_order_of_the_table,
    only_what_warns_is_caught,
    events_reach_what_they_are_to_reach,
    credentials_are_told_of,
    prod_waits_for_a_person,
    what_fails_is_rolled_back,
    results_are_published,
    nothing_runs_for_ever,
    agents_are_what_they_say,
)


@pytest.fixture(scope="module")
def service(cookies_session: Any) -> Path:
    """One for all tests that only read it."""
    result = cookies_session.bake(template=str(ROOT), extra_context={"ci_system": "jenkins", "deployment": "kubectl"})
    assert result.exception is None, repr(result.exception)
    return Path(result.project_path)


@pytest.mark.parametrize("answers", ANSWERS, ids=str)
def test_the_jenkinsfile_agrees_with_the_table_and_itself(answers: dict[str, str], bake: Bake) -> None:
    project = bake(**answers)
    subject = Subject(jenkinsfile.parse((project / FILE).read_text(encoding="utf-8")), project)

    assert {check.__name__: list(check(subject)) for check in CHECKS} == {check.__name__: [] for check in CHECKS}


@pytest.mark.parametrize(
    ("check", "old", "new", "told"),
    [
        (every_step_is_a_target, "sh 'make types'", "sh 'make types && make sast'", "is not one make target"),
        (every_step_is_a_target, "sh 'make types'", 'sh "make ${env.GATE}"', "is not one make target"),
        (every_step_is_a_target, "sh 'make types'", "sh 'make typos'", "the Makefile has no typos"),
        (every_step_is_a_target, "sh 'make types'", "sh 'make clean'", "clean is not in the table"),
        (every_step_is_a_target, "sh 'make types'", "script { echo 'x' }", "script"),
        (stages_run_what_the_table_says, "sh 'make types'", "echo 'types'", "types: in []"),
        (stages_run_what_the_table_says, "stage('Types')", "stage('Mypy')", "types: in ['Mypy']"),
        (stages_have_the_order_of_the_table, "sh 'make lint-code'", "sh 'make sast'", "comes after what follows"),
        (stages_have_the_order_of_the_table, "stage('Build')", "stage('Built')", "the outermost stages"),
        (only_what_warns_is_caught, "sh 'make types'", "catchError { sh 'make types' }", "types: the table says"),
        (only_what_warns_is_caught, "catchError(", "timeout(", "sonar: the table says"),
        (events_reach_what_they_are_to_reach, "branch 'main'", "", "a pull request: it would reach"),
        (events_reach_what_they_are_to_reach, "not { triggeredBy 'TimerTrigger' }", "", "a Monday: ['attest'"),
        (events_reach_what_they_are_to_reach, "not { changeset", "allOf { changeset", "a release: ['audit'"),
        (events_reach_what_they_are_to_reach, "triggeredBy 'TimerTrigger'", "branch 'x'", "a Monday:"),
        (credentials_are_told_of, "'docker-registry-creds'", "'registry'", "differ by"),
        (prod_waits_for_a_person, "input {", "environment {", "prod does not wait"),
        (prod_waits_for_a_person, "beforeInput true", "", "it would ask before"),
        (what_fails_is_rolled_back, "sh 'make rollback ENV=dev'", "echo 'bad'", "what fails in dev stays"),
        (results_are_published, "junit(", "echo(", "Tests: no junit"),
        (results_are_published, "recordCoverage(", "echo(", "Tests: no recordCoverage"),
        (results_are_published, "recordIssues(", "echo(", "Code: no recordIssues"),
        (nothing_runs_for_ever, "disableConcurrentBuilds()", "", "no disableConcurrentBuilds"),
        (nothing_runs_for_ever, "timeout(time: 20, unit: 'MINUTES')", "timestamps()", "and no timeout"),
        (agents_are_what_they_say, "inheritFrom ''", "", "inheritFrom is left"),
        (agents_are_what_they_say, "yamlMergeStrategy override()", "", "yamlMergeStrategy is left"),
        (agents_are_what_they_say, "pods/engine.yaml", "pods/tools.yaml", "runs in the other pod"),
        (agents_are_what_they_say, "pods/tools.yaml", "pods/none.yaml", "there is no pod"),
        (agents_are_what_they_say, "beforeAgent true", "", "to find out that it is not needed"),
    ],
)
def test_a_jenkinsfile_that_is_wrong_is_found(
    check: Callable[[Subject], Iterator[str]], old: str, new: str, told: str, service: Path
) -> None:
    text = (service / FILE).read_text(encoding="utf-8")
    assert old in text
    subject = Subject(jenkinsfile.parse(text.replace(old, new, 1)), service)

    assert [found for found in check(subject) if told in found]


@pytest.mark.parametrize("event", [Event("main"), Event("main", timer=True), Event(tag=True)], ids=str)
def test_where_there_are_two_systems_one_releases(event: Event, bake: Bake) -> None:
    project = bake(ci_system="both")
    subject = Subject(jenkinsfile.parse((project / FILE).read_text(encoding="utf-8")), project)
    judges = replace(event, releases=False)
    ran = {target for stage, target in subject.steps() if stage.runs(judges)}
    listed = [gate.target for gate in gates.table(project)]

    assert ran <= set(listed[: listed.index("push")])
    assert ran != {target for stage, target in subject.steps() if stage.runs(event)}


@pytest.mark.parametrize("text", ["pipeline {", "node { sh 'make types' }", "pipeline { }\nprintln 'x'"])
def test_what_is_no_declarative_pipeline_does_not_parse(text: str) -> None:
    with pytest.raises(ValueError, match=r"Jenkinsfile|one pipeline"):
        jenkinsfile.parse(text)


@pytest.mark.parametrize("answers", ANSWERS, ids=str)
def test_the_linter_has_no_remark(answers: dict[str, str], bake: Bake, tmp_path: Path) -> None:
    text = (bake(**answers) / FILE).read_text(encoding="utf-8")

    assert jenkinsfile.lint(text, tmp_path) == ""
    assert "LineLength" in jenkinsfile.lint(f"// {'x' * 120}\n{text}", tmp_path)


def test_pods_are_pods_with_pinned_images(service: Path) -> None:
    for path in sorted((service / PODS).glob("*.yaml")):
        pod = yaml.safe_load(path.read_text(encoding="utf-8"))

        for version in ("1.30.0", "1.37.0"):
            kubernetes_validate.validate(pod, version, strict=True)
        for container in pod["spec"]["containers"]:
            assert re.search(r":[\w.-]*\d[\w.-]*$", container["image"]), container["image"]
            assert "memory" in container["resources"]["limits"]
        privileged = [one["name"] for one in pod["spec"]["containers"] if one["securityContext"].get("privileged")]
        assert privileged == (["engine"] if path.stem == "engine" else [])


def test_plugins_have_versions_and_stand_in_order(service: Path) -> None:
    text = (service / "ci-cd/jenkins/plugins.txt").read_text(encoding="utf-8")
    lines = [line for line in text.splitlines() if not line.startswith("#")]

    assert len(lines) > 10
    assert lines == sorted(lines)
    assert [line for line in lines if not re.fullmatch(r"[a-z0-9-]+:[0-9][\w.]+", line)] == []
