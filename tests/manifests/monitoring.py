"""Checks of how Prometheus and Grafana come to know of a service in a cluster."""

import re
from collections.abc import Iterator, Mapping
from typing import Any

import yaml
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


def rules(overlay: Overlay) -> list[Mapping[str, Any]]:
    """The groups of the service's own rules, as an environment has to have them.

    Only the job, what an alert is worth, and where Grafana is, may differ from those that the local stack has.
    """
    folder = overlay.project / "observability" / "prometheus"
    grafana = f"https://grafana.{overlay.answers['domain']}/"
    groups: list[Mapping[str, Any]] = []
    for name in ("recording.yml", "alerts.yml"):
        text = (folder / name).read_text(encoding="utf-8").replace("http://localhost:3000/", grafana)
        if overlay.environment != "prod":
            text = re.sub(rf'job="{overlay.slug}"', f'job="{job(overlay)}"', text)
            text = re.sub(r"severity: page\b", "severity: ticket", text)
        groups += yaml.safe_load(text)["groups"]
    return groups


def rules_are_those_of_the_local_stack(overlay: Overlay) -> Iterator[str]:
    """What promtool tested is what the cluster has."""
    wanted = {group["name"]: group for group in rules(overlay)} if overlay.environment != "dev" else {}
    found = {
        group["name"]: group
        for one in overlay.of("PrometheusRule")
        if one["metadata"]["name"] == overlay.slug
        for group in one["spec"]["groups"]
    }
    if wanted.keys() != found.keys():
        yield f"the groups of rules are {sorted(found)}, not {sorted(wanted)}"
    for name in wanted.keys() & found.keys():
        if wanted[name].keys() - {"rules"} != found[name].keys() - {"rules"} or any(
            wanted[name][key] != found[name][key] for key in wanted[name].keys() - {"rules"}
        ):
            yield f"group {name}: is not that of the local stack"
        if len(wanted[name]["rules"]) != len(found[name]["rules"]):
            yield f"group {name}: has {len(found[name]['rules'])} rules, not {len(wanted[name]['rules'])}"
        for right, rule in zip(wanted[name]["rules"], found[name]["rules"], strict=False):
            for key in sorted(right.keys() | rule.keys()):
                if right.get(key) != rule.get(key):
                    which = right.get("alert", right.get("record"))
                    yield f"group {name}, {which}: {key} is {rule.get(key)!r}, not {right.get(key)!r}"


CHECKS = (
    one_service_is_scraped_at_a_port_that_it_has,
    series_are_called_as_rules_and_dashboards_do,
    rules_are_those_of_the_local_stack,
)
