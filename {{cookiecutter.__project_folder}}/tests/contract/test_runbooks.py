"""Each alert leads to a page that helps: it is there, whole, and asks for what the service really emits."""

import re
from pathlib import Path

import pytest

from tests.documents import anchors
from tests.support import ROOT

RULES = {
    "recording.yml": ROOT / "observability" / "prometheus" / "recording.yml",
    "alerts.yml": ROOT / "observability" / "prometheus" / "alerts.yml",
    "alerts-stack.yml": ROOT / "observability" / "prometheus" / "alerts-stack.yml",
    "kubernetes": ROOT / "k8s" / "components" / "monitoring" / "alerts.yml",
}
RUNBOOKS = ROOT / "docs" / "runbooks"
TROUBLESHOOTING = ROOT / "docs" / "troubleshooting" / "TROUBLESHOOTING.md"

PAGES = {path.stem: path for path in RUNBOOKS.glob("*.md")}
# Pages of no single alert: the index, one for all alerts of the stack, and one for a day that no alert tells of.
OTHERS = {"README", "observability-stack", "backup-and-restore"}

PARTS = ["Meaning", "Impact", "Diagnosis", "Mitigation", "Verification", "Escalation"]

# What is emitted by others than the service's own code, and by whom.
EMITTED_BY_OTHERS = {
    "prometheus_client": {
        "process_cpu_seconds_total",
        "process_resident_memory_bytes",
        "process_start_time_seconds",
        "python_gc_objects_collected_total",
    },
    "Prometheus": {
        "ALERTS",
        "prometheus_config_last_reload_successful",
        "prometheus_notifications_alertmanagers_discovered",
        "prometheus_notifications_dropped_total",
        "prometheus_rule_evaluation_failures_total",
        "scrape_samples_scraped",
        "up",
    },
    "Alertmanager": {"alertmanager_config_last_reload_successful", "alertmanager_notifications_failed_total"},
    "OpenTelemetry Collector": {
        "otelcol_exporter_queue_capacity",
        "otelcol_exporter_queue_size",
        "otelcol_receiver_refused_spans_total",
    },
    "kubelet": {
        # Only of a container that has a CPU limit.
        "container_cpu_cfs_periods_total",
        "container_cpu_cfs_throttled_periods_total",
        "container_memory_working_set_bytes",
    },
    "kube-state-metrics": {
        "kube_deployment_spec_replicas",
        "kube_deployment_status_replicas_ready",
        "kube_horizontalpodautoscaler_status_desired_replicas",
        "kube_job_failed",
        "kube_pod_container_resource_limits",
        "kube_pod_container_status_restarts_total",
    },
    "Argo Rollouts": {"rollout_info", "rollout_info_replicas_available", "rollout_info_replicas_desired"},
    "cert-manager": {
        "certmanager_certificate_expiration_timestamp_seconds",
        "certmanager_certificate_ready_status",
    },
}


def rules(file: str) -> str:
    """A file of rules; that of the stack is not in every tree."""
    path = RULES[file]
    return path.read_text(encoding="utf-8") if path.exists() else ""


def kebab(name: str) -> str:
    """The name of an alert as that of a file."""
    return re.sub(r"(?<!^)(?=[A-Z])", "-", name).lower()


def alerts(file: str) -> set[str]:
    """The alerts that a file defines."""
    return set(re.findall(r"- alert: (\w+)", rules(file)))


def queries(page: Path, language: str) -> list[str]:
    """Each query of this language, in a block or in a sentence."""
    text = page.read_text(encoding="utf-8")
    blocks = re.findall(rf"^ *```{language}\n(.*?)^ *```$", text, re.MULTILINE | re.DOTALL)
    found = [line.strip() for block in blocks for line in block.splitlines() if line.strip()]
    if language == "promql":
        sentences = re.sub(r"```.*?```", "", text, flags=re.DOTALL)
        found += re.findall(r"`((?!.*\{service=)[^`\n]*(?:\{job=|\[\d+[smhd]\])[^`\n]*)`", sentences)
    return found


def metrics(query: str) -> set[str]:
    """The metrics that a PromQL query names."""
    query = re.sub(r'"[^"]*"', "", query)
    query = re.sub(r"\{[^}]*\}|\[[^\]]*\]", "", query)
    query = re.sub(r"\b(by|without|on|ignoring|group_left|group_right)\s*\([^)]*\)", "", query)
    words = re.findall(r"[A-Za-z_:][\w:]*(?!\w*\s*\()", query)
    return set(words) - {"and", "or", "unless", "bool", "offset"}


def emitted() -> set[str]:
    """Every metric that a rule or a person may ask for."""
    document = (ROOT / "docs" / "architecture" / "TELEMETRY.md").read_text(encoding="utf-8")
    own = set(re.findall(r"^\| `([a-z_]+)` \|", document, re.MULTILINE))
    histogram = {f"http_request_duration_seconds_{part}" for part in ("bucket", "count", "sum")}
    recorded = set(re.findall(r"- record: (\S+)", rules("recording.yml")))
    return own | histogram | recorded | {name for names in EMITTED_BY_OTHERS.values() for name in names}


def test_every_alert_has_its_page_and_every_page_its_alert() -> None:
    assert {kebab(name) for name in alerts("alerts.yml") | alerts("kubernetes")} == set(PAGES) - OTHERS


@pytest.mark.parametrize("file", ["alerts.yml", "alerts-stack.yml", "kubernetes"])
def test_every_alert_links_to_the_part_of_a_page_that_is_about_it(file: str) -> None:
    linked = r"- alert: (\w+)\n.*?runbook_url: \S+/docs/runbooks/(\S+)\.md(?:#(\S+))?\n"
    found = re.findall(linked, rules(file), re.DOTALL)

    assert {name for name, _, _ in found} == alerts(file)
    for name, page, anchor in found:
        assert anchor in anchors(PAGES[page]) if anchor else kebab(name) == page, name
        assert not anchor or anchor == name.lower()


def test_every_part_of_the_page_on_the_stack_is_about_an_alert() -> None:
    page = PAGES.get("observability-stack")
    parts = set(re.findall(r"^## (Stack\w+)$", page.read_text(encoding="utf-8"), re.MULTILINE)) if page else set()

    assert parts == alerts("alerts-stack.yml")


def test_the_index_leads_to_every_page() -> None:
    index = PAGES["README"].read_text(encoding="utf-8")

    assert set(re.findall(r"\]\(([a-z-]+)\.md\)", index)) == set(PAGES) - {"README"}
    for name in alerts("alerts.yml") | alerts("kubernetes"):
        assert f"| [{name}]({kebab(name)}.md) |" in index


@pytest.mark.parametrize("name", sorted(set(PAGES) - OTHERS))
def test_a_page_has_all_its_parts(name: str) -> None:
    text = PAGES[name].read_text(encoding="utf-8")

    assert kebab(text.partition("\n")[0].removeprefix("# ")) == name
    assert re.findall(r"^## (.+)$", text, re.MULTILINE) == PARTS


@pytest.mark.parametrize("page", [*PAGES.values(), TROUBLESHOOTING], ids=lambda path: path.stem)
def test_every_metric_that_a_page_asks_for_is_emitted(page: Path) -> None:
    named = {metric for query in queries(page, "promql") for metric in metrics(query)}

    assert named - emitted() == set()


def test_every_page_with_a_diagnosis_has_a_query() -> None:
    assert [name for name in set(PAGES) - OTHERS if not queries(PAGES[name], "promql")] == []
