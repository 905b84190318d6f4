"""What runs pods: containerd, the kubelet and the rules for Services, on a bridge in the sandbox."""

import io
import json
import subprocess
import tarfile
from pathlib import Path
from typing import Any

import needs
import yaml
from containers import docker
from control_plane import ADDRESS, PODS, SERVICES
from pki import Authority
from sandbox import Program, Sandbox

NAME = "node"
BRIDGE = "pods"
SOCKET = "/run/containerd/containerd.sock"
DNS = "10.96.0.10"
DOMAIN = "cluster.local"
# Holds a pod's namespaces. It waits, and has the shell and the tools that a test wants in a pod of its own.
TOOLS = "localhost/tools:1"

CONTAINERD = """
version = 2
[plugins."io.containerd.grpc.v1.cri"]
sandbox_image = "{image}"
disable_apparmor = true
# Without the right to lower a score (CAP_SYS_RESOURCE) no pod would start.
restrict_oom_score_adj = true
[plugins."io.containerd.grpc.v1.cri".cni]
bin_dir = "{plugins}"
conf_dir = "{network}"
"""


def _network(folder: Path) -> dict[str, Any]:
    """How a pod gets its interface and its address."""
    ranges = [[{"subnet": PODS, "rangeStart": PODS.replace("0/24", "10"), "gateway": ADDRESS}]]
    addresses: dict[str, Any] = {"type": "host-local", "dataDir": str(folder / "addresses"), "ranges": ranges}
    addresses["routes"] = [{"dst": "0.0.0.0/0"}]
    bridge = {"type": "bridge", "bridge": BRIDGE, "hairpinMode": True, "ipam": addresses}
    return {"cniVersion": "0.4.0", "name": "pods", "plugins": [bridge]}


def _kubelet(authority: Authority, resolver: Path, group: str) -> dict[str, Any]:
    certificate, key = authority.issue("kubelet", f"/CN={NAME}", f"IP:{ADDRESS}", f"DNS:{NAME}")
    return {
        "apiVersion": "kubelet.config.k8s.io/v1beta1",
        "kind": "KubeletConfiguration",
        "address": ADDRESS,
        "containerRuntimeEndpoint": f"unix://{SOCKET}",
        "cgroupDriver": "cgroupfs",
        "cgroupRoot": f"/{group}",
        # Both versions of control groups, and machines that swap.
        "failCgroupV1": False,
        "failSwapOn": False,
        "makeIPTablesUtilChains": False,
        "clusterDNS": [DNS],
        "clusterDomain": DOMAIN,
        "resolvConf": str(resolver),
        "tlsCertFile": str(certificate),
        "tlsPrivateKeyFile": str(key),
        "authentication": {
            "anonymous": {"enabled": False},
            "webhook": {"enabled": True},
            "x509": {"clientCAFile": str(authority.certificate)},
        },
        "authorization": {"mode": "Webhook"},
        # A developer's disk may be fuller than a node's should be.
        "evictionHard": {"memory.available": "100Mi", "nodefs.available": "1%", "imagefs.available": "1%"},
        "imageGCHighThresholdPercent": 100,
        "nodeStatusUpdateFrequency": "5s",
        "maxPods": 60,
    }


def _proxy(config: Path) -> dict[str, Any]:
    return {
        "apiVersion": "kubeproxy.config.k8s.io/v1alpha1",
        "kind": "KubeProxyConfiguration",
        "mode": "nftables",
        "bindAddress": ADDRESS,
        "clusterCIDR": PODS,
        "detectLocalMode": "ClusterCIDR",
        "clientConnection": {"kubeconfig": str(config)},
        # They would change the machine's.
        "conntrack": {"maxPerCore": 0, "min": 0, "tcpEstablishedTimeout": "0s", "tcpCloseWaitTimeout": "0s"},
    }


class Node:
    """The only node of a cluster.

    Args:
        sandbox: where it runs.
        programs: the folder with those of Kubernetes.
        authority: whom it trusts.
    """

    def __init__(self, sandbox: Sandbox, programs: Path, authority: Authority) -> None:
        self._sandbox = sandbox
        folder = sandbox.folder / "node"
        folder.mkdir()
        network = folder / "network"
        network.mkdir()
        (network / "pods.conflist").write_text(json.dumps(_network(folder)), encoding="utf-8")
        resolver = folder / "resolv.conf"
        resolver.write_text("", encoding="utf-8")
        self.containerd = self._start_containerd(folder, network)
        _make_tools()
        self.load(TOOLS)
        kubelet = folder / "kubelet.yaml"
        kubelet.write_text(yaml.safe_dump(_kubelet(authority, resolver, sandbox.group)), encoding="utf-8")
        proxy = folder / "proxy.yaml"
        proxy.write_text(yaml.safe_dump(_proxy(authority.kubeconfig("system:kube-proxy"))), encoding="utf-8")
        identity = authority.kubeconfig(f"system:node:{NAME}", "system:nodes")
        who = (f"--hostname-override={NAME}", f"--kubeconfig={identity}", f"--node-ip={ADDRESS}")
        self.kubelet = sandbox.start("kubelet", programs / "kubelet", f"--config={kubelet}", *who)
        name = f"--hostname-override={NAME}"
        self.proxy = sandbox.start("kube-proxy", programs / "kube-proxy", f"--config={proxy}", name)

    def _start_containerd(self, folder: Path, network: Path) -> Program:
        config = folder / "containerd.toml"
        settings = {"image": TOOLS, "plugins": needs.CNI, "network": network}
        config.write_text(CONTAINERD.format(**settings), encoding="utf-8")
        program = self._sandbox.start("containerd", "containerd", "--config", config)
        program.until(lambda: self._sandbox.run("ctr", "version").returncode == 0)
        return program

    def load(self, image: str, name: str = "") -> str:
        """Give the node an image of the engine, under this name; return its digest, which names it there too."""
        archive = self._sandbox.folder / "image.tar"
        docker("image", "save", "--output", str(archive), image)
        images = ("ctr", "--namespace", "k8s.io", "images")
        self._sandbox.do(*images, "import", archive)
        archive.unlink()
        listed = self._sandbox.do(*images, "list", f"name=={image}").splitlines()
        _, _, digest, *_ = listed[-1].split()
        if name:
            for other in (name, f"{name.rpartition(':')[0]}@{digest}"):
                self._sandbox.do(*images, "tag", image, other)
        return digest


def _make_tools() -> None:
    """Make the image of tools, from a program that has them all in one."""
    content = io.BytesIO()
    with tarfile.open(fileobj=content, mode="w") as archive:
        archive.add(needs.BUSYBOX, "bin/busybox")
        for name in ("cat", "httpd", "nc", "nslookup", "sh", "sleep", "tail", "wget"):
            link = tarfile.TarInfo(f"bin/{name}")
            link.type, link.linkname = tarfile.SYMTYPE, "busybox"
            archive.addfile(link)
    changes = ("ENV PATH=/bin", "USER 65532:65532", 'ENTRYPOINT ["/bin/tail", "-f", "/dev/null"]')
    words = [word for change in changes for word in ("--change", change)]
    subprocess.run(["docker", "import", *words, "-", TOOLS], input=content.getvalue(), check=True, capture_output=True)


def bridge(sandbox: Sandbox) -> None:
    """Make the network that the control plane listens on and pods join."""
    for words in (
        ("link", "add", BRIDGE, "type", "bridge"),
        ("address", "add", f"{ADDRESS}/24", "dev", BRIDGE),
        ("link", "set", BRIDGE, "up"),
        ("route", "add", SERVICES, "dev", BRIDGE),
    ):
        sandbox.do("ip", *words)
    # Rules see what stays on the bridge too: a Service's address may mean a neighbour.
    sandbox.do("sysctl", "-qw", "net.ipv4.ip_forward=1", "net.bridge.bridge-nf-call-iptables=1")
