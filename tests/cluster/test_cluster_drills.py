"""The drills of a cluster, by the service's own runner, in staging: with their protection they hold, without they fail.

By hand (`make drills`), as each takes as long as it does for users. What they saw is committed.
"""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import bases
import canary
import deployed
import drill_results
import pytest
from containers import docker
from control_plane import ADDRESS
from deployed import REPOSITORY, Images, Service
from kube import Cluster
from pki import CONTEXT
from rendered import build
from services import python_of

pytestmark = pytest.mark.drills

REPLICAS = 2
FAULTY = f"{REPOSITORY}:drill"

DRILLS = [
    ("rolling", "pod-crash"),
    ("rolling", "high-traffic-scaling"),
    ("rolling", "bad-deploy"),
    ("canary", "bad-deploy"),
]


class Drilled(Service):
    """The service in staging, with its own runner of drills."""

    def drill(self, name: str, *flags: str) -> tuple[int, str]:
        """Run one as a person does who stands in the cluster; exit code and what it said."""
        python = python_of(self.project)
        address = self.cluster.object("service", self.name, self.namespace)["spec"]["clusterIP"]
        command = ["-m", "tests.chaos", "run", name, "--env=staging", f"--url=http://{address}", *flags]
        command += [f"--prometheus=http://{ADDRESS}:{canary.PORT}", f"--faulty-image={FAULTY}"]
        known = {"KUBECONFIG": str(self.cluster.kubeconfig), "CONTEXT": CONTEXT, "PATH": self.path}
        done = self.cluster.sandbox.run(python, *command, cwd=self.project, environment=known, timeout=1800)
        return done.returncode, f"{done.stdout}{done.stderr}"


@pytest.fixture(scope="module")
def faulty(cluster: Cluster, rolling: Path) -> None:
    """Give the node the image that can be told to misbehave."""
    bases.require()
    whole = f"{FAULTY}-whole"
    docker("build", "--quiet", f"--file={rolling}/docker/production/Dockerfile", f"--tag={whole}", str(rolling))
    folder = rolling / "tests" / "chaos" / "image"
    docker("build", "--quiet", f"--build-arg=IMAGE={whole}", f"--tag={FAULTY}", str(folder))
    try:
        cluster.node.load(FAULTY)
    finally:
        docker("image", "rm", "--force", whole, FAULTY)


@pytest.fixture(scope="module")
def moving(extended: Cluster) -> Cluster:
    """Return the cluster with what moves canaries."""
    canary.start_controller(extended)
    return extended


@pytest.fixture
def watched(moving: Cluster, rolling: Path) -> Iterator[Cluster]:
    """Return it with a Prometheus that evaluates the rules of staging, and has seen no earlier drill."""
    objects, _ = build(rolling, "staging")
    rules = [one["spec"] for one in objects if one["kind"] == "PrometheusRule"]
    assert rules
    prometheus = canary.start_prometheus(moving, {"staging": f"{rolling.name}-staging"}, rules)
    yield moving
    prometheus.stop()


@pytest.fixture
def project(cookies_session: Any, environment: Mapping[str, str], strategy: str) -> Path:
    """A service with this way of replacing versions."""
    return deployed.generate(cookies_session, environment, release_strategy=strategy)


@pytest.fixture
def staging(watched: Cluster, project: Path, images: Images, storage_url: str) -> Iterator[Drilled]:
    """Return the service in staging, new for each drill."""
    running = Drilled(watched, project, images[0], "staging")
    running.connect(storage_url)
    running.release(images[0])
    running.apply()
    running.ready(REPLICAS)
    yield running
    watched.kubectl("delete", "namespace", running.namespace, timeout=300)


@pytest.mark.parametrize("protected", [True, False], ids=["protected", "without-protection"])
@pytest.mark.parametrize(("strategy", "name"), DRILLS)
def test_a_drill_holds_with_its_protection_and_fails_without(
    staging: Drilled, faulty: None, strategy: str, name: str, protected: bool
) -> None:
    flags = () if protected else ("--without-protection",)

    code, said = staging.drill(name, *flags)

    drill_results.keep(staging.project, suffix=drill_results.CANARY if strategy == "canary" else "")
    assert code == (0 if protected else 1), said
