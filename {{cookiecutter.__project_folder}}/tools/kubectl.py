"""What `kubectl` answers, for the other tools; and one cluster, seen through one of its contexts."""

import json
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

# An API server that is there answers within that; a wrong address must not look like a hang.
PATIENCE = "10s"


class ClusterError(Exception):
    """The cluster cannot be asked, or refuses; the message says why and what to do, for people."""


def kubectl(*arguments: str, text: str | None = None, accept: tuple[int, ...] = (0,)) -> str:
    """What `kubectl` prints, when given `text` to read.

    Raises:
        ClusterError: it is not installed, or ended with an exit code that is not in `accept`.
    """
    try:
        done = subprocess.run(["kubectl", *arguments], input=text or "", capture_output=True, text=True, check=False)
    except FileNotFoundError as error:
        raise ClusterError("kubectl is not installed: https://kubernetes.io/docs/tasks/tools/") from error
    if done.returncode not in accept:
        raise ClusterError(done.stderr.strip() or done.stdout.strip() or f"`kubectl {' '.join(arguments)}` failed")
    return done.stdout.strip()


class Resource(NamedTuple):
    """A kind that an API server serves, and the name that permissions on it have."""

    api_version: str
    kind: str
    name: str


@dataclass(frozen=True)
class Cluster:
    """A cluster as the user of this context sees it, within one namespace."""

    context: str
    namespace: str = "default"

    def run(self, *arguments: str, text: str | None = None, accept: tuple[int, ...] = (0,)) -> str:
        """What `kubectl` prints of this cluster."""
        return kubectl(*self.flags, *arguments, text=text, accept=accept)

    def show(self, *arguments: str) -> bool:
        """Let `kubectl` talk to the person; whether it succeeded."""
        return not subprocess.run(["kubectl", *self.flags, *arguments], check=False).returncode

    @property
    def flags(self) -> tuple[str, ...]:
        """What makes `kubectl` mean this cluster and namespace."""
        return ("--context", self.context, "--namespace", self.namespace)

    def get(self, *arguments: str) -> dict[str, Any] | None:
        """An object as the cluster has it now, if it has it."""
        said = self.run("get", *arguments, "--ignore-not-found", "--output", "json")
        found: dict[str, Any] | None = json.loads(said) if said else None
        return found

    @cached_property
    def server(self) -> Mapping[str, str]:
        """The version of its API server: `gitVersion`, `major`, `minor`.

        Raises:
            ClusterError: it does not answer.
        """
        said = kubectl("--context", self.context, "version", "--output", "json", "--request-timeout", PATIENCE)
        version: Mapping[str, str] = json.loads(said)["serverVersion"]
        return version

    @cached_property
    def resources(self) -> dict[tuple[str, str], Resource]:
        """What it serves, by group and version, and kind."""
        # It fails when one of several groups cannot be asked, and prints the others nevertheless.
        said = kubectl("--context", self.context, "api-resources", "--no-headers", accept=(0, 1))
        found = {}
        for line in said.splitlines():
            # The short names, second of five columns, may be absent.
            name, *_, api_version, _namespaced, kind = line.split()
            group = api_version.rpartition("/")[0]
            found[api_version, kind] = Resource(api_version, kind, f"{name}.{group}" if group else name)
        return found

    def may_change(self, resource: Resource) -> bool:
        """Whether the user of this context may apply objects of this kind."""
        return self.run("auth", "can-i", "patch", resource.name, accept=(0, 1)).splitlines()[-1:] == ["yes"]


def contexts() -> list[str]:
    """The contexts that kubectl's configuration holds."""
    return kubectl("config", "get-contexts", "--output", "name").splitlines()


def current_context() -> str:
    """The context that kubectl takes unless told otherwise; nothing when none is chosen."""
    return kubectl("config", "current-context", accept=(0, 1))
