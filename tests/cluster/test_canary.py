"""A canary in staging, with the real controller and a real Prometheus: promoted, taken back, or left to a person."""

import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import canary
import components
import deployed
import pytest
from deployed import Image, Images, Service
from kube import Cluster

pytestmark = pytest.mark.cluster

# The analysis as it is, but sooner and more often: the tests' only change to what is delivered.
SHORTER = {"initialDelay: 2m": "initialDelay: 20s", "interval: 30s": "interval: 5s"}
# What a bad version does before it lists items, and which objective tells. Not where its image is built: no image of it
# would come of that.
LISTS = '    """A page of items, oldest first."""\n'
FAULTS = {
    "error-ratio": "raise RuntimeError('a version with a mistake')",
    "slow-ratio": "await __import__('asyncio').sleep(0.5)",
}
THERE = "    if __import__('os').environ['ENVIRONMENT'] == 'staging':\n        {fault}\n"


class Canary(Service):
    """A service whose new versions are tried on a share of its pods."""

    def status(self) -> dict[str, Any]:
        """What the controller says of the roll-out."""
        return dict(self.cluster.object("rollout", self.name, self.namespace).get("status", {}))

    def reach(self, phase: str, seconds: float = 240) -> dict[str, Any]:
        """Wait until the roll-out of what was applied last is in this phase."""

        def look() -> dict[str, Any] | None:
            rollout = self.cluster.object("rollout", self.name, self.namespace)
            status = dict(rollout.get("status", {}))
            current = status.get("observedGeneration") == str(rollout["metadata"]["generation"])
            deployment = self.cluster.object("deployment", self.name, self.namespace)
            seen = status.get("workloadObservedGeneration") == str(deployment["metadata"]["generation"])
            return status if current and seen and status.get("phase") == phase else None

        return dict(self.cluster.within(seconds, look, self.namespace))

    def analyses(self) -> list[str]:
        """How the analyses since the last tidying ended, or where they are."""
        runs = self.cluster.objects("analysisruns", self.namespace)
        return [str(run.get("status", {}).get("phase")) for run in runs]

    def versions(self) -> set[str]:
        """Of the pods that are ready."""
        ready = (pod for pod in self.pods() if deployed.condition(pod, "Ready"))
        return {str(pod["metadata"]["labels"]["app.kubernetes.io/version"]) for pod in ready}

    def argo(self, *words: str) -> str:
        """Run the plugin of kubectl, as the README of the component says."""
        program = components.build("argo-rollouts") / "kubectl-argo-rollouts"
        where = (f"--kubeconfig={self.cluster.kubeconfig}", f"--namespace={self.namespace}")
        return self.cluster.sandbox.do(program, *words, *where)


@pytest.fixture(scope="module")
def project(cookies_session: Any, environment: Mapping[str, str]) -> Path:
    project = deployed.generate(cookies_session, environment, release_strategy="canary")
    template = project / "k8s" / "components" / "canary" / "analysistemplate.yaml"
    text = template.read_text(encoding="utf-8")
    for slow, quick in SHORTER.items():
        assert slow in text
        text = text.replace(slow, quick)
    template.write_text(text, encoding="utf-8")
    return project


@pytest.fixture(scope="module")
def staging(extended: Cluster, project: Path, images: Images, storage_url: str) -> Canary:
    """Return the service in staging, in its older version, with all pods ready."""
    canary.start_controller(extended)
    running = Canary(extended, project, images[0], "staging")
    canary.start_prometheus(extended, {running.namespace: f"{running.name}-staging"})
    running.connect(storage_url)
    running.release(images[0])
    running.apply()
    running.reach("Healthy")
    running.ready(2)
    return running


@pytest.fixture
def stable(staging: Canary) -> Iterator[Canary]:
    """Return it with one version on all pods, and bring that back whatever the test did."""
    release = (staging.overlay / "release" / "kustomization.yaml").read_text(encoding="utf-8")
    yield staging
    (staging.overlay / "release" / "kustomization.yaml").write_text(release, encoding="utf-8")
    staging.apply()
    staging.argo("promote", staging.name, "--full")
    staging.reach("Healthy")
    staging.ready(2)
    staging.kubectl("delete", "analysisruns", "--all")


@pytest.fixture(scope="module")
def faulty(cluster: Cluster, rolling: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Image]:
    """Return versions with a fault, by the objective that they miss."""
    made = {}
    for number, (objective, fault) in enumerate(FAULTS.items()):
        copy = tmp_path_factory.mktemp(objective) / rolling.name
        shutil.copytree(rolling, copy)
        routes = copy / "app" / "api" / "routes.py"
        text = routes.read_text(encoding="utf-8")
        assert LISTS in text
        routes.write_text(text.replace(LISTS, LISTS + THERE.format(fault=fault)), encoding="utf-8")
        made[objective] = deployed.build(cluster, copy, f"2.{number}.0")
    return made


@pytest.mark.ci
def test_a_good_version_is_promoted(stable: Canary, images: Images) -> None:
    with stable.load(rate=40) as requests:
        stable.release(images[1])
        stable.apply()
        stable.cluster.within(60, lambda: stable.analyses() == ["Running"], stable.namespace)
        mixed = stable.versions()
        stable.reach("Healthy")
        counted = requests.stop()

    assert mixed == {"1.0.0", "1.1.0"}
    assert stable.versions() == {"1.1.0"}
    assert stable.analyses() == ["Successful", "Successful"]
    assert (counted.failed, counted.failures[1:]) == (0, [])


@pytest.mark.ci
@pytest.mark.parametrize("objective", FAULTS)
def test_a_version_that_misses_an_objective_is_taken_back(
    stable: Canary, faulty: Mapping[str, Image], objective: str
) -> None:
    with stable.load(rate=40) as requests:
        stable.release(faulty[objective])
        stable.apply()
        status = stable.reach("Degraded")
        counted = requests.stop()
    stable.ready(2)

    assert status["abort"] is True
    assert objective in status["message"]
    assert stable.analyses() == ["Failed"]
    assert stable.versions() == {"1.0.0"}
    # The old version answered the others.
    assert counted.failed < counted.sent / 2


def test_without_requests_nothing_is_promoted_and_nothing_taken_back(stable: Canary, images: Images) -> None:
    stable.release(images[1])
    stable.apply()
    status = stable.reach("Paused")

    assert stable.analyses() == ["Inconclusive"]
    assert not status.get("abort")
    assert [pause["reason"] for pause in status["pauseConditions"]] == ["InconclusiveAnalysisRun"]
    assert stable.versions() == {"1.0.0", "1.1.0"}


def test_a_deploy_sends_what_a_canary_is_judged_by_where_nobody_else_does(stable: Canary, images: Images) -> None:
    stable.release(images[1])
    address = stable.cluster.object("service", stable.name, stable.namespace)["spec"]["clusterIP"]

    done = stable.tool("deploy", "deploy", stable.environment, URL=f"http://{address}")

    assert done.returncode == 0, f"{done.stdout}{done.stderr}"
    assert stable.analyses() == ["Successful", "Successful"]
    assert stable.versions() == {"1.1.0"}


def test_a_deploy_follows_the_canary_until_somebody_has_to_decide(stable: Canary, images: Images) -> None:
    stable.release(images[1])

    done = stable.tool("deploy", "deploy", stable.environment, URL="http://127.0.0.1:1")

    assert done.returncode == 1
    assert "The canary waits for you: its requests were too few to judge it." in done.stderr


def test_a_rollback_takes_back_a_canary_that_is_under_way(stable: Canary, images: Images) -> None:
    stable.release(images[1])
    stable.apply()
    stable.cluster.within(60, lambda: stable.versions() == {"1.0.0", "1.1.0"}, stable.namespace)

    done = stable.tool("deploy", "rollback", stable.environment)

    assert done.returncode == 0, f"{done.stdout}{done.stderr}"
    stable.reach("Healthy")
    stable.ready(2)
    assert stable.versions() == {"1.0.0"}


def test_a_rollback_of_a_version_that_serves_brings_back_the_one_before_without_steps(
    stable: Canary, images: Images
) -> None:
    stable.release(images[1])
    stable.apply()
    stable.argo("promote", stable.name, "--full")
    stable.reach("Healthy")
    assert stable.versions() == {"1.1.0"}

    done = stable.tool("deploy", "rollback", stable.environment)

    assert done.returncode == 0, f"{done.stdout}{done.stderr}"
    stable.ready(2)
    assert stable.versions() == {"1.0.0"}
