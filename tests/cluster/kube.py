"""A real Kubernetes of one node, from the start of a `with` block to its end, and ways to use it."""

import json
import re
import subprocess
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, Self

import addons
import components
import control_plane
import node
import yaml
from pki import Authority
from sandbox import ClusterError, Sandbox
from waiting import wait_for


class Cluster:
    """The cluster; nothing of it is left afterwards.

    Attributes:
        sandbox: where it runs, and where programs run that belong to it.
        kubeconfig: of one who may do anything.
        programs: the folder with `kubectl`.
    """

    def __init__(self) -> None:
        self.sandbox = Sandbox()
        self.programs = components.build("kubernetes")
        self.kubeconfig = Path()
        self.node: node.Node

    def __enter__(self) -> Self:
        self.sandbox.__enter__()
        try:
            self._start()
        except BaseException:
            self.sandbox.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.sandbox.__exit__()

    def _start(self) -> None:
        node.bridge(self.sandbox)
        authority = Authority(self.sandbox.folder / "authority", control_plane.SERVER)
        self.kubeconfig = control_plane.start(self.sandbox, self.programs, authority)
        self.node = node.Node(self.sandbox, self.programs, authority)
        dns, names = addons.start_dns(self.sandbox, self.programs, self.kubeconfig)
        usage = addons.start_metrics(self.sandbox, self.programs, authority, self.kubeconfig)
        self.apply(*names, *usage)
        self.node.kubelet.until(self._is_ready)
        dns.until(lambda: self.get(f"http://{control_plane.ADDRESS}:8181/ready")[0] == 200)
        # Pods may come from now on: their namespace's account is made by a controller.
        wait_for(lambda: self.try_kubectl("get", "serviceaccount", "default").returncode == 0, self.logs, 30)

    def _is_ready(self) -> bool:
        path = "{.status.conditions[?(@.type=='Ready')].status}"
        return self.try_kubectl("get", "node", node.NAME, f"--output=jsonpath={path}").stdout == "True"

    def try_kubectl(
        self, *arguments: str, namespace: str = "", stdin: str = "", timeout: float = 120
    ) -> subprocess.CompletedProcess[str]:
        """Run kubectl and let the caller judge how it ended."""
        where = (f"--namespace={namespace}",) if namespace else ()
        return self.sandbox.run(
            self.programs / "kubectl",
            f"--kubeconfig={self.kubeconfig}",
            *where,
            *arguments,
            stdin=stdin,
            timeout=timeout,
        )

    def kubectl(self, *arguments: str, namespace: str = "", stdin: str = "", timeout: float = 120) -> str:
        """Run kubectl, which has to succeed; return what it says."""
        done = self.try_kubectl(*arguments, namespace=namespace, stdin=stdin, timeout=timeout)
        if done.returncode:
            raise ClusterError(f"kubectl {' '.join(arguments)}\n{done.stdout[-2000:]}{done.stderr[-3000:]}")
        return done.stdout

    def apply(self, *objects: Mapping[str, Any], namespace: str = "") -> None:
        """Have the server hold these objects."""
        self.kubectl("apply", "--filename=-", namespace=namespace, stdin=yaml.safe_dump_all(objects))

    def objects(self, kind: str, namespace: str = "", selector: str = "") -> list[dict[str, Any]]:
        """All objects of a kind, with these labels."""
        words = ("get", kind, "--output=json", *([f"--selector={selector}"] if selector else ()))
        return list(json.loads(self.kubectl(*words, namespace=namespace))["items"])

    def object(self, kind: str, name: str, namespace: str = "") -> dict[str, Any]:
        """One object."""
        return dict(json.loads(self.kubectl("get", kind, name, "--output=json", namespace=namespace)))

    def wait(self, condition: str, *what: str, namespace: str = "", seconds: float = 60) -> None:
        """Wait for a condition of objects, as `kubectl wait` does; else say what happened in the namespace."""
        words = ("wait", f"--for={condition}", f"--timeout={seconds:.0f}s", *what)
        done = self.try_kubectl(*words, namespace=namespace, timeout=seconds + 30)
        if done.returncode:
            raise ClusterError(f"{' '.join(words)}: {done.stderr}{self.story(namespace)}")

    def rolled_out(self, what: str, namespace: str = "", seconds: float = 120) -> None:
        """Wait for the end of a roll-out."""
        words = ("rollout", "status", what, f"--timeout={seconds:.0f}s")
        done = self.try_kubectl(*words, namespace=namespace, timeout=seconds + 30)
        if done.returncode:
            raise ClusterError(f"{' '.join(words)}: {done.stdout}{done.stderr}{self.story(namespace)}")

    def within(self, seconds: float, look: Callable[[], Any], namespace: str = "", pause: float = 0.3) -> Any:
        """What `look` finds, as soon as it finds something; else what happened in the namespace."""
        return wait_for(look, lambda: self.story(namespace), seconds, pause)

    def get(self, url: str, *flags: str, seconds: float = 5) -> tuple[int, str]:
        """Ask from the node; status and body, or 0 and why there is no answer."""
        ours = ("--silent", "--show-error", "--max-time", str(seconds), "--write-out", "\n%{http_code}")
        done = self.sandbox.run("curl", *ours, *flags, url)
        body, _, status = done.stdout.rpartition("\n")
        return (int(status), body) if done.returncode == 0 else (0, done.stderr)

    def series(self, name: str, labels: str) -> dict[str, float]:
        """What the kubelet measures of containers, by pod: the series of a name whose labels match a pattern."""
        text = self.kubectl("get", "--raw", f"/api/v1/nodes/{node.NAME}/proxy/metrics/cadvisor")
        found = re.finditer(rf'^{name}{{(?P<labels>.*pod="(?P<pod>[^"]+)".*)}} (?P<value>\S+)', text, re.MULTILINE)
        return {one["pod"]: float(one["value"]) for one in found if re.search(labels, one["labels"])}

    def story(self, namespace: str = "") -> str:
        """What one would look at when something is wrong in a namespace."""
        everywhere = () if namespace else ("--all-namespaces",)
        pods = self.try_kubectl("get", "pods", "--output=wide", *everywhere, namespace=namespace)
        events = self.try_kubectl("events", *everywhere, namespace=namespace)
        return f"\n{pods.stdout}{pods.stderr}\n{events.stdout[-4000:]}{events.stderr}"

    def logs(self) -> str:
        """The ends of what all programs wrote."""
        files: Iterable[Path] = sorted((self.sandbox.folder / "logs").iterdir())
        return "\n".join(
            f"{file.name}:\n{file.read_text(encoding='utf-8', errors='replace')[-1500:]}" for file in files
        )
