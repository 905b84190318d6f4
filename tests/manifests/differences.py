"""Checks of what `docs/architecture/KUBERNETES.md` says about how the environments differ."""

import re
from collections.abc import Callable, Iterator, Mapping

from facts import ask
from rendered import Overlay, containers, labels, quantity, settings, templates

PAGE = "docs/architecture/KUBERNETES.md"

# What is said of how `make deploy` behaves, which its own tests hold it to.
ELSEWHERE = {"Image"}


def _pods(overlay: Overlay) -> str:
    for scaler in overlay.of("HorizontalPodAutoscaler"):
        return f"{scaler['spec']['minReplicas']} to {scaler['spec']['maxReplicas']}"
    return str(overlay.one("Deployment")["spec"].get("replicas", 1))


def _resource(section: str, name: str) -> Callable[[Overlay], str]:
    def of(overlay: Overlay) -> str:
        (container,) = overlay.one("Deployment")["spec"]["template"]["spec"]["containers"]
        return str(container["resources"][section][name])

    return of


def _settings(overlay: Overlay) -> Mapping[str, str]:
    _, _, container = next(one for one in containers(overlay) if one[0].startswith("Deployment"))
    return settings(overlay, container)


def _exposed(overlay: Overlay) -> str:
    public = [one for one in overlay.of("Service") if one["spec"].get("type") == "LoadBalancer"]
    return "yes" if public or overlay.of("Gateway", "Ingress") else "no"


def _storage(overlay: Overlay) -> str:
    return "SQLite" if _settings(overlay).get("STORAGE_URL", "").startswith("sqlite:") else "PostgreSQL"


def _drained(overlay: Overlay) -> str:
    for budget in overlay.of("PodDisruptionBudget"):
        return str(budget["spec"]["maxUnavailable"])
    return _pods(overlay)


def _spread(overlay: Overlay) -> str:
    spec = overlay.one("Deployment")["spec"]["template"]["spec"]
    names = {"topology.kubernetes.io/zone": "zones", "kubernetes.io/hostname": "nodes"}
    return " and ".join(names[one["topologyKey"]] for one in spec.get("topologySpreadConstraints", [])) or "nothing"


def _security(overlay: Overlay) -> str:
    prefix = "pod-security.kubernetes.io/enforce"
    found = labels(overlay.one("Namespace"))
    return f"{found[prefix]}, {found[f'{prefix}-version']}"


def _bounds(overlay: Overlay) -> str:
    names = {"ResourceQuota": "quota", "LimitRange": "limits"}
    return " and ".join(name for kind, name in names.items() if overlay.of(kind)) or "none"


def _roles(overlay: Overlay) -> str:
    found = sorted(one["metadata"]["name"].removeprefix(f"{overlay.slug}-") for one in overlay.of("Role"))
    return ", ".join(found) or "none"


def _alerts(overlay: Overlay) -> str:
    found = {
        rule.get("labels", {}).get("severity")
        for one in overlay.of("PrometheusRule")
        for group in one["spec"]["groups"]
        for rule in group["rules"]
    }
    return " and ".join(f"{severity}s" for severity in ("page", "ticket") if severity in found) or "none"


def _dashboards(overlay: Overlay) -> str:
    return "yes" if any("grafana_dashboard" in labels(one) for one in overlay.of("ConfigMap")) else "no"


ROWS: Mapping[str, Callable[[Overlay], str]] = {
    "Pods": _pods,
    "CPU that a pod requests": _resource("requests", "cpu"),
    "Memory of a pod": _resource("limits", "memory"),
    "Log level": lambda overlay: _settings(overlay)["LOG_LEVEL"],
    "Traces sampled": lambda overlay: f"{float(_settings(overlay)['OTEL_TRACES_SAMPLER_ARG']):.0%}".replace("%", " %"),
    "Reached from outside": _exposed,
    "Items live in": _storage,
    "Pods away at once for a drain": _drained,
    "Spread over": _spread,
    "Pod Security": _security,
    "Bounds of the namespace": _bounds,
    "Roles": _roles,
    "Alerts": _alerts,
    "Dashboards": _dashboards,
    "A new version": lambda overlay: "canary" if overlay.of("Rollout") else "rolling",
}


def environments_differ_as_the_page_says(overlay: Overlay) -> Iterator[str]:
    """Each cell of its table, which has a reason in each row."""
    said = _table(overlay)
    wanted = set(ROWS) | ELSEWHERE
    if overlay.answers["database"] == "none":
        wanted.remove("Items live in")
    yield from (f"{PAGE}: nothing reads the row {name}" for name in sorted(said.keys() - wanted))
    yield from (f"{PAGE}: there is no row {name}" for name in sorted(wanted - said.keys()))
    for name in wanted & said.keys() & ROWS.keys():
        found = ROWS[name](overlay)
        if said[name][overlay.environment] != found:
            yield f"{PAGE}: {name} is {found}, not {said[name][overlay.environment]}"
        if len(said[name]["Why"]) < 10:
            yield f"{PAGE}: {name} has no reason"


def _table(overlay: Overlay) -> dict[str, dict[str, str]]:
    """The rows by their first column, each cell by its column."""
    text = (overlay.project / PAGE).read_text(encoding="utf-8")
    section = text.partition("## How the environments differ")[2].partition("\n## ")[0]
    header, _, *rows = (
        [cell.strip() for cell in line.strip("|").split("|")] for line in section.splitlines() if line.startswith("|")
    )
    return {row[0]: dict(zip(header, row, strict=True)) for row in rows}


def the_page_adds_up(overlay: Overlay) -> Iterator[str]:
    """What it says of grace periods and of the quota is what stands in the manifests."""
    text = (overlay.project / PAGE).read_text(encoding="utf-8")
    what, spec, container = next(one for one in containers(overlay) if one[0].startswith("Deployment"))
    drain = float(_settings(overlay)["DRAIN_SECONDS"])
    grace = (
        spec["terminationGracePeriodSeconds"],
        container["lifecycle"]["preStop"]["sleep"]["seconds"],
        drain,
        ask(overlay, container).exit_seconds - drain,
    )
    said = re.findall(r"^(\d+) > (\d+) \+ (\d+) \+ (\d+): ", text, re.MULTILINE)
    if said != [tuple(f"{value:g}" for value in grace)]:
        yield f"{PAGE}: {what} stops within {grace}, not {said}"
    for quota in overlay.of("ResourceQuota"):
        count = overlay.one("HorizontalPodAutoscaler")["spec"]["maxReplicas"] + 1
        for name, unit, pattern in (
            ("cpu", 1, r"= ([\d.]+) of the quota's ([\d.]+) \|"),
            ("memory", 2**30, r"= ([\d.]+)Gi of ([\d.]+)Gi \|"),
        ):
            pods, *jobs = (
                quantity(template["spec"]["containers"][0]["resources"]["requests"][name])
                for _, template in sorted(templates(overlay), key=lambda one: str(one[0]["kind"]))
            )
            needed = (count * pods + sum(jobs)) / unit
            hard = quantity(quota["spec"]["hard"][f"requests.{name}"]) / unit
            told = [(float(one), float(other)) for one, other in re.findall(pattern, text)]
            if told != [(round(needed, 2), hard)]:
                yield f"{PAGE}: {name} of all pods is {needed:.2f} of {hard:g}, not {told}"


CHECKS = (environments_differ_as_the_page_says, the_page_adds_up)
