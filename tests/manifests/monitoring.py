"""Checks of how Prometheus and Grafana come to know of a service in a cluster."""

import json
from collections.abc import Iterator, Mapping
from itertools import zip_longest
from typing import Any

import yaml
from identity import NAMESPACES
from rendered import Overlay, labels, matches, title


def job(overlay: Overlay) -> str:
    """What its series are called by: staging's errors must not count against prod's budget."""
    return overlay.slug if overlay.environment == "prod" else f"{overlay.slug}-{overlay.environment}"


def one_service_is_scraped_at_a_port_that_it_has(overlay: Overlay) -> Iterator[str]:
    """Of two that are selected, each pod would be scraped twice, and every rate be twice what it is."""
    monitors = overlay.of("ServiceMonitor")
    if len(monitors) != (0 if overlay.environment == "dev" else 1):
        yield f"there are {len(monitors)} of ServiceMonitor"
    for one in monitors:
        selected = [service for service in overlay.of("Service") if matches(one["spec"]["selector"], labels(service))]
        if [service["metadata"]["name"] for service in selected] != [f"{overlay.slug}-headless"]:
            yield f"{title(one)}: scrapes {[service['metadata']['name'] for service in selected]}"
        known = {port["name"] for service in selected for port in service["spec"]["ports"]}
        for endpoint in one["spec"]["endpoints"]:
            if endpoint.get("port") != "metrics" or endpoint["port"] not in known:
                yield f"{title(one)}: scrapes port {endpoint.get('port')}, of {sorted(known)}"


def series_are_called_as_rules_and_dashboards_do(overlay: Overlay) -> Iterator[str]:
    """By a fixed job, and not by the name of the Service, which is what the operator takes otherwise."""
    for one in overlay.of("ServiceMonitor"):
        given = [
            rule.get("replacement")
            for endpoint in one["spec"]["endpoints"]
            for rule in endpoint.get("relabelings", [])
            if rule.get("targetLabel") == "job"
        ]
        if given != [job(overlay)]:
            yield f"{title(one)}: the job is {given}, not {job(overlay)}"


# Where the rules of each object stand, by the end of its name.
SOURCES = {
    "recording": "observability/prometheus/recording.yml",
    "alerts": "observability/prometheus/alerts.yml",
    "kubernetes": "k8s/components/monitoring/alerts.yml",
}


def groups(overlay: Overlay, source: str) -> list[Mapping[str, Any]]:
    """The groups of a file as an environment has to have them.

    Only the job, the namespace, what an alert is worth and where Grafana is may differ from what promtool tested.
    """
    text = json.dumps(yaml.safe_load((overlay.project / source).read_text(encoding="utf-8"))["groups"])
    elsewhere = {
        f'job=\\"{overlay.slug}\\"': f'job=\\"{job(overlay)}\\"',
        f'"job": "{overlay.slug}"': f'"job": "{job(overlay)}"',
        'namespace=\\"production\\"': f'namespace=\\"{NAMESPACES[overlay.environment]}\\"',
        '"severity": "page"': f'"severity": "{"page" if overlay.environment == "prod" else "ticket"}"',
        "http://localhost:3000/": f"https://grafana.{overlay.answers['domain']}/",
    }
    for here, there in elsewhere.items():
        text = text.replace(here, there)
    result: list[Mapping[str, Any]] = json.loads(text)
    return result


def rules_are_those_that_were_tested(overlay: Overlay) -> Iterator[str]:
    """What promtool tested, and the local stack judges by, is what the cluster has."""
    found = {one["metadata"]["name"]: one["spec"]["groups"] for one in overlay.of("PrometheusRule")}
    wanted = {f"{overlay.slug}-{name}": source for name, source in SOURCES.items()}
    if found.keys() != (wanted.keys() if overlay.environment != "dev" else set()):
        yield f"the rules are in {sorted(found)}, not in {sorted(wanted)}"
        return
    for name, has in found.items():
        yield from _differences(name, groups(overlay, wanted[name]), has)


def _differences(name: str, wanted: Any, found: Any) -> Iterator[str]:
    """Where two structures are not the same, down to the value."""
    if isinstance(wanted, dict) and isinstance(found, dict):
        for key in wanted.keys() | found.keys():
            yield from _differences(f"{name}.{key}", wanted.get(key), found.get(key))
    elif isinstance(wanted, list) and isinstance(found, list):
        for number, (right, one) in enumerate(zip_longest(wanted, found)):
            yield from _differences(f"{name}.{number}", right, one)
    elif _folded(wanted) != _folded(found):
        yield f"{name}: is {found!r}, not {wanted!r}"


def _folded(value: Any) -> Any:
    """Kustomize adds an empty line to folded text where a line begins with a space."""
    return " ".join(value.split()) if isinstance(value, str) else value


def dashboards_are_those_of_the_local_stack(overlay: Overlay) -> Iterator[str]:
    """One Grafana shows all environments, so they are there once, in prod. Names keep services apart."""
    files = {path.name: path for path in (overlay.project / "observability" / "grafana" / "dashboards").glob("*.json")}
    wanted = files if overlay.environment == "prod" else {}
    found = {
        name.removeprefix(f"{overlay.slug}-"): text
        for one in overlay.of("ConfigMap")
        if labels(one).get("grafana_dashboard") == "1"
        for name, text in one["data"].items()
    }
    if wanted.keys() != found.keys():
        yield f"the dashboards are {sorted(found)}, not {sorted(wanted)}"
    for name in wanted.keys() & found.keys():
        if json.loads(found[name]) != json.loads(wanted[name].read_text(encoding="utf-8")):
            yield f"dashboard {name}: is not that of the local stack"


CHECKS = (
    one_service_is_scraped_at_a_port_that_it_has,
    series_are_called_as_rules_and_dashboards_do,
    rules_are_those_that_were_tested,
    dashboards_are_those_of_the_local_stack,
)
