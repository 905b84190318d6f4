"""The rules of a service: for all answers, on what it really measures, with all that whoever is called needs."""

import os
import re
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import components
import pytest
import yaml
from conftest import ROOT, Bake
from services import make, python_of
from test_prompts import RIGHT, WRONG
from waiting import wait_for

from demo.client import Client
from demo.ports import LOOPBACK, available

pytestmark = pytest.mark.ci


def rules_of(project: Path) -> Path:
    return project / "observability" / "prometheus"


# Answers at the edges of what is asked for, and some between that are hard to write as decimals; with and without what
# decides about rules.
ANSWERS = [
    {"slo_availability": "95", "slo_latency_ms": "5", "database": "none", "exposure": "cluster-internal"},
    {"slo_availability": "99.99", "slo_latency_ms": "10000", "release_strategy": "canary"},
    {"slo_availability": "99.975", "slo_latency_ms": "1000", "database": "none", "project_slug": "e1", "team": "1e3"},
    {"slo_availability": "99.5", "slo_latency_ms": "12", "observability_stack": "no", "exposure": "ingress"},
    {"slo_availability": "97.0", "slo_latency_ms": "2500", "database": "none", "observability_stack": "no"},
    {"slo_availability": "99.9", "slo_latency_ms": "300"},
]


@pytest.mark.parametrize("answers", ANSWERS, ids=lambda answers: "-".join(answers.values()))
def test_make_rules_passes_whatever_is_answered(
    answers: dict[str, str], bake: Bake, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PROMTOOL", str(components.build("prometheus") / "promtool"))

    project = bake(**answers)
    check = [sys.executable, "-m", "tools.rules", "--check"]

    # The template has written what `make rules` writes.
    assert subprocess.run(check, cwd=project, check=False).returncode == 0
    make(project, "rules")


@pytest.mark.parametrize("environment", ["staging", "prod"])
def test_a_cluster_takes_the_rules_of_each_environment(environment: str, bake: Bake, tmp_path: Path) -> None:
    text = (bake() / "k8s" / "overlays" / environment / "prometheusrule.yaml").read_text(encoding="utf-8")
    files = []
    for rule in yaml.safe_load_all(text):
        files.append(tmp_path / f"{rule['metadata']['name']}.yml")
        files[-1].write_text(yaml.safe_dump(rule["spec"], sort_keys=False, width=10_000), encoding="utf-8")

    promtool = components.build("prometheus") / "promtool"
    done = subprocess.run(
        [promtool, "check", "rules", "--lint-fatal", *files], capture_output=True, text=True, check=False
    )

    assert done.returncode == 0, done.stdout + done.stderr
    assert len(files) == 3


@pytest.mark.parametrize("answers", ANSWERS, ids=lambda answers: "-".join(answers.values()))
def test_the_threshold_of_the_rules_is_a_bound_that_the_service_emits(answers: dict[str, str], bake: Bake) -> None:
    project = bake(**answers)
    emit = (
        "from app.core.config import Settings\n"
        "from app.core.metrics import Metrics\n"
        "from prometheus_client import generate_latest\n"
        "metrics = Metrics(Settings())\n"
        "metrics.expect([('GET', '/')])\n"
        "print(generate_latest(metrics.registry).decode())\n"
    )
    rules = (rules_of(project) / "recording.yml").read_text(encoding="utf-8")

    emitted = subprocess.check_output([python_of(project), "-c", emit], cwd=project, text=True)

    (bound,) = set(re.findall(r'le="([^"]+)"', rules))
    assert f'http_request_duration_seconds_bucket{{le="{bound}",method="GET",route="/",status="200"}}' in emitted


def test_no_objective_is_slower_than_the_deadline(default_project: Path) -> None:
    config = (default_project / "app" / "core" / "config.py").read_text(encoding="utf-8")
    deadline = re.search(r"request_timeout_seconds: float = Field\(\s+([\d.]+)", config)
    slowest = max(int(value) for name, value in RIGHT if name == "slo_latency_ms")

    assert ("slo_latency_ms", str(slowest + 1)) in WRONG
    assert deadline
    assert slowest / 1000 < float(deadline[1])


# What no service emits, and who does. Each is a beginning of names.
ELSEWHERE = {
    "up": "Prometheus itself, of each target",
    "ALERTS": "Prometheus itself, of each alert",
    "job:": "recording.yml",
    "alertmanager_": "Alertmanager",
    "prometheus_": "Prometheus",
    "otelcol_": "the Collector, and Jaeger, which is one",
    "container_": "cAdvisor",
    "kube_": "kube-state-metrics",
    "rollout_": "Argo Rollouts",
    "certmanager_": "cert-manager",
}
# What Prometheus adds to what it scrapes.
TARGET = {"job", "instance"}

KEYWORDS = {"and", "or", "unless", "by", "on", "without", "ignoring"}


def rules(project: Path) -> list[Mapping[str, Any]]:
    """All rules, each with the labels of its group."""
    files = [rules_of(project) / "recording.yml", *sorted(rules_of(project).glob("alerts*.yml"))]
    files.append(project / "k8s" / "components" / "monitoring" / "alerts.yml")
    groups = [group for file in files for group in yaml.safe_load(file.read_text(encoding="utf-8"))["groups"]]
    return [rule | {"group": group.get("labels", {})} for group in groups for rule in group["rules"]]


def selectors(expression: str) -> Iterator[tuple[str, set[str]]]:
    """The name of each series that an expression reads, with the labels that it selects by."""
    bare = unquoted(re.sub(r"\b(by|on|without|ignoring)\s*\([^)]*\)", " ", expression))
    for name, call, matchers in re.findall(r"(?<![\w:.])([a-zA-Z_:][\w:]*)\s*(\()?(\{[^}]*\})?", bare):
        if not call and name not in KEYWORDS:
            yield name, set(re.findall(r"(\w+)\s*[=!]", matchers))


def unquoted(expression: str) -> str:
    """The expression without what stands in quotes or square brackets."""
    return re.sub(r"\[[^\]]*\]", "", re.sub(r'"[^"]*"', "", expression))


@pytest.fixture(scope="module")
def emitted(cookies_session: Any, tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, set[str]]:
    """The labels of each series of a running service, with a database: its pool is measured also while it is away."""
    project = Path(cookies_session.bake({}, template=str(ROOT)).project_path)
    http_port, metrics_port = available([0, 0])
    # In production the schema is not made at the start, so the service starts without it.
    settings = {
        "STORAGE_URL": f"postgresql://app:app@{LOOPBACK}:1/app",
        "DRAIN_SECONDS": "0",
        "ENVIRONMENT": "production",
    }
    ports = {"HTTP_PORT": str(http_port), "METRICS_PORT": str(metrics_port)}
    service = subprocess.Popen(
        [python_of(project), "-m", "app"],
        cwd=project,
        env={"PATH": os.environ["PATH"], **settings, **ports},
        stdout=subprocess.DEVNULL,
    )
    try:
        wait_for(lambda: Client(http_port).send("GET", "/health/ready"), "the service does not start")
        found: dict[str, set[str]] = {}
        for line in Client(metrics_port).send("GET", "/metrics").body.splitlines():
            if sample := re.match(r"(\w+)(?:\{(.*)\})? ", line):
                found.setdefault(sample[1], set()).update(re.findall(r'(\w+)="', sample[2] or ""))
        return found
    finally:
        service.terminate()
        service.wait()


def test_every_series_and_label_of_a_rule_is_emitted(default_project: Path, emitted: Mapping[str, set[str]]) -> None:
    unknown = []
    read = set()
    for rule in rules(default_project):
        for name, labels in selectors(str(rule["expr"])):
            if name.startswith(tuple(ELSEWHERE)):
                continue
            read.add(name)
            unknown += [f"{name}{{{label}}}" for label in labels - TARGET - emitted.get(name, set())]
            unknown += [name] if name not in emitted else []

    assert unknown == []
    # So the expressions were understood.
    assert {"http_requests_total", "http_request_duration_seconds_bucket", "circuit_breaker_state"} <= read
    assert {"db_pool_connections", "app_event_loop_lag_seconds", "telemetry_dropped_total"} <= read


def test_both_objectives_are_measured_over_all_windows(default_project: Path) -> None:
    known = {rule["record"] for rule in rules(default_project) if "record" in rule}

    for objective in ("availability", "latency"):
        for window in ("5m", "30m", "1h", "2h", "6h", "1d", "3d", "30d"):
            assert f"job:slo_{objective}_errors:ratio_rate{window}" in known
        for series in ("objective:ratio", "error_budget:remaining_ratio", "error_budget:burn_rate1h"):
            assert f"job:slo_{objective}_{series}" in known


def test_every_recorded_series_that_a_rule_reads_is_recorded(default_project: Path) -> None:
    known = {rule["record"] for rule in rules(default_project) if "record" in rule}
    read = {name for rule in rules(default_project) for name, _ in selectors(str(rule["expr"]))}

    assert {name for name in read if name.startswith("job:")} <= known


def test_every_alert_says_what_is_wrong_whose_it_is_and_where_to_go(default_project: Path) -> None:
    incomplete = []
    for rule in rules(default_project):
        if "alert" not in rule:
            continue
        labels, annotations = rule["group"] | rule.get("labels", {}), rule["annotations"]
        wanted = ["summary", "description", "runbook_url", "dashboard_url"]
        incomplete += [f"{rule['alert']}: {name}" for name in wanted if not annotations.get(name, "").strip()]
        incomplete += [f"{rule['alert']}: team"] if labels.get("team") != "platform" else []
        incomplete += [f"{rule['alert']}: severity"] if labels.get("severity") not in {"page", "ticket", "none"} else []

    assert incomplete == []


def test_every_runbook_exists_one_for_each_alert_of_the_service(bake: Bake) -> None:
    for answers in ({}, {"database": "none"}, {"observability_stack": "no"}):
        project = bake(**answers)
        lost = []
        for rule in rules(project):
            if "alert" not in rule:
                continue
            address, _, anchor = rule["annotations"]["runbook_url"].partition("#")
            page = project / address.partition("/blob/main/")[2]
            kebab = re.sub(r"(?<=[a-z])(?=[A-Z])", "-", rule["alert"]).lower()
            headings = re.findall(r"^#+ (.+)$", page.read_text("utf-8"), re.MULTILINE) if page.is_file() else []
            found = anchor in {heading.lower() for heading in headings} if anchor else bool(headings)
            lost += [] if found and (anchor or page.stem == kebab) else [rule["alert"]]

        assert sorted(set(lost)) == [], answers
