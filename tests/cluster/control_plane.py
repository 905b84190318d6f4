"""What decides in a cluster: etcd, the API server, the controller manager and the scheduler."""

from pathlib import Path

from pki import Authority
from sandbox import Sandbox

ADDRESS = "10.77.0.1"
PODS = "10.77.0.0/24"
SERVICES = "10.96.0.0/16"
SERVER = f"https://{ADDRESS}:6443"
STORE = "http://127.0.0.1:2379"

# Of the autoscaler, which looks every 15 s and waits for 5 minutes unless it is told otherwise.
HPA_PERIOD = 5
HPA_STABILISATION = 15


def start(sandbox: Sandbox, programs: Path, authority: Authority) -> Path:
    """Start it; return the kubeconfig of one who may do anything."""
    admin = authority.kubeconfig("admin", "system:masters")
    store = sandbox.start(
        "etcd",
        programs / "server",
        *("--data-dir", "etcd", "--listen-client-urls", STORE, "--advertise-client-urls", STORE),
        # A cluster for tests may be lost with the machine.
        *("--unsafe-no-fsync", "--log-level", "warn"),
    )
    server = sandbox.start("kube-apiserver", programs / "kube-apiserver", *_server_flags(authority))
    server.until(
        lambda: sandbox.run(programs / "kubectl", f"--kubeconfig={admin}", "get", "--raw", "/readyz").stdout == "ok"
    )
    assert store.process.poll() is None, store.tail()
    sandbox.start(
        "kube-controller-manager",
        programs / "kube-controller-manager",
        *_identity(authority, "kube-controller-manager"),
        *("--service-account-private-key-file", str(authority.tokens), "--root-ca-file", str(authority.certificate)),
        *("--use-service-account-credentials", "--node-monitor-grace-period=60s"),
        f"--horizontal-pod-autoscaler-sync-period={HPA_PERIOD}s",
        f"--horizontal-pod-autoscaler-downscale-stabilization={HPA_STABILISATION}s",
    )
    sandbox.start("kube-scheduler", programs / "kube-scheduler", *_identity(authority, "kube-scheduler"))
    return admin


def _identity(authority: Authority, name: str) -> tuple[str, ...]:
    """How a controller knows the API server and is known to it; there is no other to elect."""
    config = authority.kubeconfig(f"system:{name}")
    files = (f"--{use}={config}" for use in ("kubeconfig", "authentication-kubeconfig", "authorization-kubeconfig"))
    return (*files, "--bind-address=127.0.0.1", "--leader-elect=false")


def _server_flags(authority: Authority) -> tuple[str, ...]:
    names = ("kubernetes", "kubernetes.default", "kubernetes.default.svc")
    addresses = (ADDRESS, SERVICES.replace("0.0/16", "0.1"), "127.0.0.1")
    certificate, key = authority.issue(
        "kube-apiserver",
        "/CN=kube-apiserver",
        *(f"DNS:{name}" for name in names),
        *(f"IP:{address}" for address in addresses),
    )
    kubelet_certificate, kubelet_key = authority.issue("kubelet-client", "/O=system:masters/CN=kube-apiserver")
    front_certificate, front_key = authority.issue("front-proxy", "/CN=front-proxy")
    flags = {
        "etcd-servers": STORE,
        "bind-address": ADDRESS,
        "advertise-address": ADDRESS,
        "service-cluster-ip-range": SERVICES,
        "authorization-mode": "Node,RBAC",
        "enable-admission-plugins": "NodeRestriction",
        "allow-privileged": "true",
        "tls-cert-file": certificate,
        "tls-private-key-file": key,
        "client-ca-file": authority.certificate,
        "kubelet-certificate-authority": authority.certificate,
        "kubelet-client-certificate": kubelet_certificate,
        "kubelet-client-key": kubelet_key,
        "kubelet-preferred-address-types": "InternalIP",
        "service-account-issuer": "https://kubernetes.default.svc",
        "service-account-key-file": authority.tokens,
        "service-account-signing-key-file": authority.tokens,
        # For the metrics of pods, which another server answers in its name.
        "requestheader-client-ca-file": authority.certificate,
        "requestheader-allowed-names": "front-proxy",
        "requestheader-username-headers": "X-Remote-User",
        "requestheader-group-headers": "X-Remote-Group",
        "requestheader-extra-headers-prefix": "X-Remote-Extra-",
        "proxy-client-cert-file": front_certificate,
        "proxy-client-key-file": front_key,
        "enable-aggregator-routing": "true",
    }
    return tuple(f"--{flag}={value}" for flag, value in flags.items())
