"""Checks of who may connect to whom: everything is closed, and each hole is as wide as what goes through it."""

from collections.abc import Iterator
from urllib.parse import urlsplit

from facts import facts
from rendered import Object, Overlay, containers, labels, matches, settings, templates, title

POSTGRESQL = 5432

Port = tuple[str, int | str]


def _policies(overlay: Overlay, pods: Object, direction: str) -> list[Object]:
    """The policies that apply to such pods in one direction."""
    return [
        one
        for one in overlay.of("NetworkPolicy")
        if direction in one["spec"]["policyTypes"] and matches(one["spec"]["podSelector"], labels(pods))
    ]


def _ports(overlay: Overlay, pods: Object, direction: str) -> dict[str, set[Port]]:
    """The ports that each policy opens for such pods; by number, whatever the pods call them."""
    named = {
        port["name"]: port["containerPort"]
        for container in pods["spec"]["containers"]
        for port in container.get("ports", [])
    }
    found: dict[str, set[Port]] = {}
    for policy in _policies(overlay, pods, direction):
        for rule in policy["spec"].get(direction.lower(), []):
            opened = {
                (port.get("protocol", "TCP"), named.get(port["port"], port["port"])) for port in rule.get("ports", [])
            }
            found.setdefault(policy["metadata"]["name"], set()).update(opened or {("every", "port")})
    return found


def everything_is_closed_both_ways(overlay: Overlay) -> Iterator[str]:
    """By one policy that lets nothing through, whatever the others do."""
    for one, pods in templates(overlay):
        for direction in ("Ingress", "Egress"):
            if not any(not policy["spec"].get(direction.lower()) for policy in _policies(overlay, pods, direction)):
                yield f"{title(one)}: no policy denies {direction.lower()}"


def holes_are_for_the_ports_of_the_service(overlay: Overlay) -> Iterator[str]:
    """In: the API and, for Prometheus alone, the metrics. A Job serves nothing."""
    ports = facts(overlay)["ports"]
    for one, pods in templates(overlay):
        opened = _ports(overlay, pods, "Ingress")
        wanted = {("TCP", ports["http"]), ("TCP", ports["metrics"])} if one["kind"] == "Deployment" else set()
        if set().union(*opened.values()) != wanted:
            yield f"{title(one)}: may be reached at {sorted(map(str, set().union(*opened.values())))}"
        for name, where in opened.items():
            if ("TCP", ports["metrics"]) in where and name != f"{overlay.slug}-allow-prometheus":
                yield f"{title(one)}: policy {name} shows the metrics"


def holes_lead_where_the_settings_do(overlay: Overlay) -> Iterator[str]:
    """Out: names, and the ports of what the settings name, no more and no less."""
    for one, pods in templates(overlay):
        opened = set().union(*_ports(overlay, pods, "Egress").values())
        wanted: set[Port] = {("UDP", 53), ("TCP", 53)}
        (container,) = pods["spec"]["containers"]
        if endpoint := settings(overlay, container).get("OTEL_EXPORTER_OTLP_ENDPOINT"):
            wanted.add(("TCP", urlsplit(endpoint).port or 0))
        elif ("TCP", 4318) in opened:
            # The hole stands in the base; where nothing is sent, it may stay.
            wanted.add(("TCP", 4318))
        if any("secretKeyRef" in variable.get("valueFrom", {}) for variable in container.get("env", [])):
            wanted.add(("TCP", POSTGRESQL))
        if opened != wanted:
            yield f"{title(one)}: may connect to {sorted(opened, key=str)}, and has to {sorted(wanted, key=str)}"


def only_the_cluster_s_own_dns_answers(overlay: Overlay) -> Iterator[str]:
    """A hole for names to everywhere is a hole for data."""
    dns = {
        "namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "kube-system"}},
        "podSelector": {"matchLabels": {"k8s-app": "kube-dns"}},
    }
    for policy in overlay.of("NetworkPolicy"):
        for rule in policy["spec"].get("egress", []):
            if 53 in {port["port"] for port in rule.get("ports", [])} and rule.get("to") != [dns]:
                yield f"{title(policy)}: leads to {rule.get('to')}"


def every_hole_says_for_whom(overlay: Overlay) -> Iterator[str]:
    """A rule without peers is open to all; only a load balancer of the cloud has to be."""
    for policy in overlay.of("NetworkPolicy"):
        for direction, peers in (("ingress", "from"), ("egress", "to")):
            for rule in policy["spec"].get(direction, []):
                if not rule.get(peers):
                    yield f"{title(policy)}: {direction} for everybody"
                for peer in rule.get(peers, []):
                    everywhere = peer.get("ipBlock", {}).get("cidr") in {"0.0.0.0/0", "::/0"}
                    if everywhere and overlay.answers["exposure"] != "load-balancer":
                        yield f"{title(policy)}: {direction} for the whole world"
                    if peer.get("namespaceSelector") == {} and not peer.get("podSelector"):
                        yield f"{title(policy)}: {direction} for every pod of the cluster"


def services_lead_to_ports_that_exist(overlay: Overlay) -> Iterator[str]:
    """By name, so that the number stands in one place."""
    for one in overlay.of("Service"):
        for port in one["spec"]["ports"]:
            for what, _, container in containers(overlay):
                if what.startswith("Deployment") and port["targetPort"] not in {
                    known["name"] for known in container["ports"]
                }:
                    yield f"{title(one)}: port {port['targetPort']} is none of {what}"


def services_are_what_others_know_them_as(overlay: Overlay) -> Iterator[str]:
    """One address on port 80, one name for all pods; and a load balancer where that was chosen, and nowhere else."""
    services = {one["metadata"]["name"]: one["spec"] for one in overlay.of("Service")}
    balanced = overlay.answers["exposure"] == "load-balancer" and overlay.environment != "dev"
    wanted = {overlay.slug: "ClusterIP", f"{overlay.slug}-headless": "ClusterIP"} | (
        {f"{overlay.slug}-public": "LoadBalancer"} if balanced else {}
    )
    if {name: spec.get("type", "ClusterIP") for name, spec in services.items()} != wanted:
        yield f"the Services are {sorted(services)}, not {sorted(wanted)}"
        return
    if [(port["port"], port["targetPort"]) for port in services[overlay.slug]["ports"]] != [(80, "http")]:
        yield f"Service {overlay.slug}: listens on {services[overlay.slug]['ports']}"
    headless = services[f"{overlay.slug}-headless"]
    if headless.get("clusterIP") != "None":
        yield f"Service {overlay.slug}-headless: has an address"
    if {port["name"]: port["port"] for port in headless["ports"]} != facts(overlay)["ports"]:
        yield f"Service {overlay.slug}-headless: has the ports {headless['ports']}"


CHECKS = (
    everything_is_closed_both_ways,
    holes_are_for_the_ports_of_the_service,
    holes_lead_where_the_settings_do,
    only_the_cluster_s_own_dns_answers,
    every_hole_says_for_whom,
    services_lead_to_ports_that_exist,
    services_are_what_others_know_them_as,
)
