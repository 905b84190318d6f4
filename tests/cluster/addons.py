"""What a cluster offers its pods beside the API: names for Services, and how much a pod uses."""

from pathlib import Path
from typing import Any

from control_plane import ADDRESS
from node import DNS, DOMAIN
from pki import Authority
from sandbox import Program, Sandbox

METRICS_PORT = 4443

COREFILE = """
.:53 {{
    errors
    ready {address}:8181
    kubernetes {domain} in-addr.arpa {{
        kubeconfig {config}
        ttl 5
    }}
    cache 5
}}
"""


def start_dns(sandbox: Sandbox, programs: Path, config: Path) -> tuple[Program, list[dict[str, Any]]]:
    """Start the name server; return it and what makes it known in the cluster."""
    corefile = sandbox.folder / "Corefile"
    corefile.write_text(COREFILE.format(address=ADDRESS, domain=DOMAIN, config=config), encoding="utf-8")
    # Programs beside the pods find Services by the same names.
    (sandbox.folder / "resolv.conf").write_text(f"nameserver {ADDRESS}\n", encoding="utf-8")
    program = sandbox.start("coredns", programs / "coredns", "-conf", corefile)
    ports = [{"name": f"dns-{protocol.lower()}", "port": 53, "protocol": protocol} for protocol in ("UDP", "TCP")]
    return program, service("kube-dns", "kube-system", ports, clusterIP=DNS)


def start_metrics(sandbox: Sandbox, programs: Path, authority: Authority, config: Path) -> list[dict[str, Any]]:
    """Start what sums up the usage of pods; return what makes it a part of the API."""
    sandbox.start(
        "metrics-server",
        programs / "metrics-server",
        *(f"--{use}={config}" for use in ("kubeconfig", "authentication-kubeconfig", "authorization-kubeconfig")),
        f"--kubelet-certificate-authority={authority.certificate}",
        "--kubelet-preferred-address-types=InternalIP",
        f"--bind-address={ADDRESS}",
        f"--secure-port={METRICS_PORT}",
        f"--cert-dir={sandbox.folder / 'metrics-server'}",
        # As often as it may, so that a test of scaling is short; it wants to time out in less.
        "--metric-resolution=10s",
        "--kubelet-request-timeout=5s",
    )
    api = {
        "apiVersion": "apiregistration.k8s.io/v1",
        "kind": "APIService",
        "metadata": {"name": "v1beta1.metrics.k8s.io"},
        "spec": {
            "group": "metrics.k8s.io",
            "version": "v1beta1",
            "groupPriorityMinimum": 100,
            "versionPriority": 100,
            "insecureSkipTLSVerify": True,
            "service": {"name": "metrics-server", "namespace": "kube-system", "port": METRICS_PORT},
        },
    }
    return [
        *service("metrics-server", "kube-system", [{"name": "https", "port": METRICS_PORT, "protocol": "TCP"}]),
        api,
    ]


def service(name: str, namespace: str, ports: list[dict[str, Any]], **spec: Any) -> list[dict[str, Any]]:
    """A Service for a program that is no pod: its addresses are given, not found."""
    metadata = {"name": name, "namespace": namespace}
    labels = {"kubernetes.io/service-name": name}
    endpoints = [{"addresses": [ADDRESS], "conditions": {"ready": True}}]
    return [
        {"apiVersion": "v1", "kind": "Service", "metadata": metadata, "spec": {"ports": ports, **spec}},
        {
            "apiVersion": "discovery.k8s.io/v1",
            "kind": "EndpointSlice",
            "metadata": metadata | {"labels": labels},
            "addressType": "IPv4",
            "ports": ports,
            "endpoints": endpoints,
        },
    ]
