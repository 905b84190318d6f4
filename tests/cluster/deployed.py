"""A generated service as its users deploy it, with what they have to bring: an image, a database, its address."""

import os
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import bases
import needs
import pytest
import yaml
from conftest import ROOT
from containers import docker
from control_plane import ADDRESS, PODS
from kube import Cluster
from pki import CONTEXT
from sandbox import Program
from traffic import Load

REPOSITORY = "localhost/test-cluster"
PASSWORD = "of-the-tests"  # noqa: S105 - reached by pods of the test only


class Image(NamedTuple):
    """A version of the service on the node."""

    name: str
    version: str
    digest: str


Images = tuple[Image, Image]


def generate(cookies: Any, environment: Mapping[str, str], **answers: str) -> Path:
    """Generate a service that no one reaches from outside and that kubectl deploys; commit it, as its users do."""
    answers = {"image_repository": REPOSITORY, "deployment": "kubectl", "exposure": "cluster-internal"} | answers
    result = cookies.bake(extra_context=answers, template=str(ROOT))
    assert result.exception is None, repr(result.exception)
    project = Path(result.project_path)
    for command in (["init", "--quiet"], ["add", "--all"], ["commit", "--quiet", "--message=Begin"]):
        subprocess.run(["git", *command], cwd=project, env=dict(environment), check=True)
    return project


def build(cluster: Cluster, project: Path, version: str) -> Image:
    """Build the image of production by the service's own command, and give it to the node."""
    bases.require()
    # Two tests at a time may build it on one machine.
    here = f"{REPOSITORY}-{os.getpid()}"
    command = ["make", "image-production", f"IMAGE={here}", f"VERSION={version}"]
    variables = os.environ | {"BUILDKIT_PROGRESS": "plain"}
    done = subprocess.run(command, cwd=project, env=variables, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-5000:]
    try:
        name = f"{REPOSITORY}:{version}"
        return Image(name, version, cluster.node.load(f"{here}:production", name))
    finally:
        docker("image", "rm", "--force", f"{here}:production")


def start_database(cluster: Cluster) -> str:
    """Start PostgreSQL beside the cluster, as a managed one would be; return its address for `STORAGE_URL`."""
    initdb = shutil.which("initdb") or next(iter(sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))), None)
    if initdb is None:
        pytest.fail(needs.postgresql(), pytrace=False)
    programs, sandbox = Path(initdb).resolve().parent, cluster.sandbox
    folder = sandbox.folder / "postgresql"
    sandbox.do("install", "--directory", "--owner=postgres", "--mode=700", folder)
    as_owner = ("runuser", "-u", "postgres", "--")
    (folder / "password").write_text(PASSWORD, encoding="utf-8")
    (folder / "password").chmod(0o644)
    data = folder / "data"
    secrets = (f"--pwfile={folder / 'password'}", "--auth-local=trust", "--auth-host=scram-sha-256")
    sandbox.do(*as_owner, programs / "initdb", "--no-sync", *secrets, "-D", data)
    with (data / "pg_hba.conf").open("a", encoding="utf-8") as rules:
        rules.write(f"host all all {PODS} scram-sha-256\n")
    where = ("-h", ADDRESS, "-k", folder, "-c", "fsync=off")
    server: Program = sandbox.start("postgresql", *as_owner, programs / "postgres", "-D", data, *where)
    server.until(lambda: sandbox.run(programs / "pg_isready", "-h", ADDRESS).returncode == 0, 30)
    return f"postgresql://postgres:{PASSWORD}@{ADDRESS}/postgres"


class Service:
    """A service in one environment of the cluster.

    Attributes:
        project: the generated tree; deploying writes into it what a pipeline and a person would.
        name: the service's.
        namespace: that of the environment.
        image: what its clients run too.
        client: the label that makes a pod a client.
    """

    def __init__(self, cluster: Cluster, project: Path, image: Image, environment: str = "prod") -> None:
        self.cluster = cluster
        self.project = project
        self.image = image
        self.environment = environment
        self.overlay = project / "k8s" / "overlays" / environment
        self.name = project.name
        settings = yaml.safe_load((self.overlay / "kustomization.yaml").read_text(encoding="utf-8"))
        self.namespace = str(settings["namespace"])
        self.client = f"{self.name}-client"

    def connect(self, storage_url: str) -> None:
        """Give the database's address as the README of `plain-secret` says."""
        secret = self.project / "k8s" / "components" / "plain-secret" / "secret.env"
        secret.write_text(f"STORAGE_URL={storage_url}\n", encoding="utf-8")
        file = self.overlay / "kustomization.yaml"
        text = file.read_text(encoding="utf-8")
        file.write_text(text.replace("components/external-secrets", "components/plain-secret"), encoding="utf-8")

    @property
    def path(self) -> str:
        """Where programs are found, kubectl among them."""
        return f"{self.cluster.programs}{os.pathsep}{os.environ['PATH']}"

    def tool(self, name: str, *arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
        """Run one of the service's tools, as its `make` targets do, with this cluster as its only one."""
        known = {"PATH": self.path, "KUBECONFIG": str(self.cluster.kubeconfig), "CONTEXT": CONTEXT}
        command = (sys.executable, "-m", f"tools.{name}", *arguments)
        return self.cluster.sandbox.run(*command, cwd=self.project, environment=known | variables, timeout=300)

    def release(self, image: Image) -> None:
        """Say which image runs, as the pipeline does."""
        done = self.tool("release", self.environment, image.digest, image.version)
        assert done.returncode == 0, done.stderr

    def set(self, **settings: str) -> None:
        """Change settings where the overlay has them."""
        file = self.overlay / "settings.env"
        lines = [
            line for line in file.read_text(encoding="utf-8").splitlines() if line.partition("=")[0] not in settings
        ]
        lines += [f"{name}={value}" for name, value in settings.items()]
        file.write_text("\n".join(lines) + "\n", encoding="utf-8")

    def apply(self) -> None:
        """Deploy it by the command of the README. A migration that is over does not change: a new one replaces it."""
        self.cluster.kubectl("delete", "job", "--all", "--ignore-not-found", namespace=self.namespace)
        self.cluster.kubectl("apply", "--kustomize", str(self.overlay))

    def pods(self) -> list[dict[str, Any]]:
        """Its pods, those of the migration left out."""
        return self.cluster.objects("pods", self.namespace, "app.kubernetes.io/component=api")

    def pod(self) -> dict[str, Any]:
        """One of its pods."""
        return self.pods()[0]

    def get(self, path: str) -> tuple[int, str]:
        """Ask through its Service; status and body, or 0 and why there is no answer."""
        address = self.cluster.object("service", self.name, self.namespace)["spec"]["clusterIP"]
        return self.cluster.get(f"http://{address}{path}")

    def load(self, rate: int = 50, path: str = "/api/v1/items") -> Load:
        """Requests to it from a pod of another namespace, in a `with` block."""
        url = f"http://{self.name}.{self.namespace}.svc.cluster.local{path}"
        return Load(self.cluster, self.image.name, url, self.client, rate)

    def restart(self) -> None:
        """Replace all pods by new ones, as a release does."""
        self.kubectl("rollout", "restart", f"deployment/{self.name}")
        self.rolled_out()

    def rolled_out(self) -> None:
        """Wait for the end of a roll-out."""
        self.cluster.rolled_out(f"deployment/{self.name}", self.namespace)

    def ready(self, count: int, seconds: float = 120) -> list[dict[str, Any]]:
        """Wait until so many pods are ready, and no others are there."""

        def look() -> list[dict[str, Any]]:
            pods = self.pods()
            ready = [pod for pod in pods if condition(pod, "Ready")]
            return ready if len(ready) == len(pods) == count else []

        return list(self.cluster.within(seconds, look, self.namespace))

    def kubectl(self, *arguments: str, timeout: float = 120) -> str:
        """Run kubectl in its namespace."""
        return self.cluster.kubectl(*arguments, namespace=self.namespace, timeout=timeout)


def condition(pod: Mapping[str, Any], kind: str) -> bool:
    """Whether a condition of a pod is true, and it is not on its way out."""
    conditions = pod["status"].get("conditions", [])
    return "deletionTimestamp" not in pod["metadata"] and any(
        one["type"] == kind and one["status"] == "True" for one in conditions
    )
