"""A stand-in for what enforces NetworkPolicies: no network plugin that does could be had as a Go module.

It asks the API server for policies, pods and namespaces again and again, and writes what they allow as one table of
nftables. IPv4 only, and a new pod is open until it has been seen. A real plugin enforces the same objects by the same
rules; what it does at the edges (pods in the node's network, more than one node) is not proven by this.

Run as a program: `enforcer.py KUBECONFIG`.
"""

import http.client
import json
import ssl
import subprocess
import sys
import time
from collections.abc import Collection, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import urlsplit

import yaml

PERIOD = 0.3
KINDS = ("/api/v1/namespaces", "/api/v1/pods", "/apis/networking.k8s.io/v1/networkpolicies")

Object = Mapping[str, Any]
Labels = Mapping[str, str]


class Pod(NamedTuple):
    """Who may be meant by a policy."""

    address: str
    namespace: str
    labels: Labels
    ports: Mapping[str, int]


class Cluster(NamedTuple):
    """What policies choose from."""

    namespaces: Mapping[str, Labels]
    pods: list[Pod]


def matches(selector: Object, labels: Labels) -> bool:
    """Whether a selector means these labels."""

    def holds(key: str, operator: str, values: Collection[str] = ()) -> bool:
        match operator:
            case "In":
                return labels.get(key) in values
            case "NotIn":
                return labels.get(key) not in values
            case "Exists":
                return key in labels
            case _:
                return key not in labels

    wanted = selector.get("matchLabels") or {}
    return wanted.items() <= labels.items() and all(
        holds(**expression) for expression in selector.get("matchExpressions") or ()
    )


def rules(policies: Iterable[Object], cluster: Cluster) -> dict[tuple[str, str], list[str]]:
    """What each pod that a policy isolates may send (`out`) and take (`in`), as matches of nftables."""
    found: dict[tuple[str, str], list[str]] = {}
    for policy in policies:
        spec, namespace = policy["spec"], policy["metadata"]["namespace"]
        chosen = [
            pod
            for pod in cluster.pods
            if pod.namespace == namespace and matches(spec.get("podSelector") or {}, pod.labels)
        ]
        for kind, way, far in (("Ingress", "in", "from"), ("Egress", "out", "to")):
            if kind in spec["policyTypes"]:
                for pod in chosen:
                    allowed = found.setdefault((way, pod.address), [])
                    for rule in spec.get(kind.lower()) or ():
                        peers = list(_peers(rule.get(far), namespace, cluster, "saddr" if way == "in" else "daddr"))
                        targets = [pod] if way == "in" else cluster.pods
                        ports = list(_ports(rule.get("ports"), targets))
                        allowed += [f"{peer} {port}".strip() for peer in peers for port in ports]
    return found


def _peers(peers: Iterable[Object] | None, namespace: str, cluster: Cluster, side: str) -> Iterator[str]:
    """Whom a rule names; all, if it names nobody."""
    if not peers:
        yield ""
    for peer in peers or ():
        if block := peer.get("ipBlock"):
            but = f" ip {side} != {{ {', '.join(block['except'])} }}" if block.get("except") else ""
            yield f"ip {side} {block['cidr']}{but}"
            continue
        addresses = [
            pod.address
            for pod in cluster.pods
            if (
                matches(peer["namespaceSelector"], cluster.namespaces[pod.namespace])
                if "namespaceSelector" in peer
                else pod.namespace == namespace
            )
            and matches(peer.get("podSelector") or {}, pod.labels)
        ]
        if addresses:
            yield f"ip {side} {{ {', '.join(sorted(set(addresses)))} }}"


def _ports(ports: Iterable[Object] | None, targets: Iterable[Pod]) -> Iterator[str]:
    """To which ports; to all, if it names none."""
    if not ports:
        yield ""
    for port in ports or ():
        protocol, number = port.get("protocol", "TCP").lower(), port.get("port")
        if isinstance(number, str):
            for one in sorted({pod.ports[number] for pod in targets if number in pod.ports}):
                yield f"{protocol} dport {one}"
        elif number is None:
            yield f"meta l4proto {protocol}"
        else:
            yield f"{protocol} dport {number}-{port['endPort']}" if "endPort" in port else f"{protocol} dport {number}"


def table(found: Mapping[tuple[str, str], list[str]]) -> str:
    """The rules as a table that takes the place of the one before."""
    lines = ["table inet policies", "delete table inet policies", "table inet policies {"]
    for (way, address), allowed in sorted(found.items()):
        returns = "".join(f"{match} return\n" for match in dict.fromkeys(allowed))
        lines.append(f"chain {_chain(way, address)} {{\n{returns}drop\n}}")
    # What the node itself sends (the kubelet's probes) passes neither hook.
    for hook, ways in {"forward": ("out", "in"), "input": ("out",)}.items():
        lines += [f"chain {hook} {{", f"type filter hook {hook} priority -10", "ct state established,related accept"]
        for way in ways:
            jumps = [f"{address} : jump {_chain(w, address)}" for w, address in sorted(found) if w == way]
            if jumps:
                lines.append(f"ip {'saddr' if way == 'out' else 'daddr'} vmap {{ {', '.join(jumps)} }}")
        lines.append("}")
    return "\n".join([*lines, "}", ""])


def _chain(way: str, address: str) -> str:
    return f"{way}_{address.replace('.', '_')}"


def cluster_of(namespaces: Iterable[Object], pods: Iterable[Object], node: str) -> Cluster:
    """Namespaces and pods as policies choose from them; the name server, which runs on the node, is a pod to them."""
    labels = {one["metadata"]["name"]: one["metadata"].get("labels") or {} for one in namespaces}
    running = [
        Pod(
            pod["status"]["podIP"],
            pod["metadata"]["namespace"],
            pod["metadata"].get("labels") or {},
            {
                port["name"]: port["containerPort"]
                for container in pod["spec"]["containers"]
                for port in container.get("ports") or ()
                if "name" in port
            },
        )
        for pod in pods
        if pod["status"].get("podIP") and pod["status"]["phase"] in {"Pending", "Running"}
    ]
    return Cluster(labels, [*running, Pod(node, "kube-system", {"k8s-app": "kube-dns"}, {})])


def main(kubeconfig: Path) -> None:
    """Enforce until killed."""
    config = yaml.safe_load(kubeconfig.read_text(encoding="utf-8"))
    server, user = config["clusters"][0]["cluster"], config["users"][0]["user"]
    context = ssl.create_default_context(cafile=server["certificate-authority"])
    context.load_cert_chain(user["client-certificate"], user["client-key"])
    address = urlsplit(server["server"])
    connection = http.client.HTTPSConnection(str(address.hostname), address.port, context=context, timeout=10)
    before = ""
    while True:
        found = []
        for path in KINDS:
            connection.request("GET", path)
            found.append(json.loads(connection.getresponse().read())["items"])
        namespaces, pods, policies = found
        now = table(rules(policies, cluster_of(namespaces, pods, str(address.hostname))))
        if now != before:
            subprocess.run(["nft", "--file", "-"], input=now, text=True, check=True)
            before = now
        time.sleep(PERIOD)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
