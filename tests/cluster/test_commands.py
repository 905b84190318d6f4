"""The commands by which people and pipelines deliver, typed against a real cluster."""

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from deployed import Images, Service
from kube import Cluster

pytestmark = pytest.mark.cluster


@pytest.fixture(params=["dev", "prod"])
def service(
    cluster: Cluster, rolling: Path, prod: Service, images: Images, request: pytest.FixtureRequest
) -> Iterator[Service]:
    """Return the service in its older version, deployed by its own command; production gets back what it had."""
    found = Service(cluster, rolling, images[0], request.param)
    found.release(images[0])
    assert_done(deploy(found))
    yield found
    found.release(images[0])
    prod.ready(3)


def deploy(service: Service) -> subprocess.CompletedProcess[str]:
    return service.tool("deploy", "deploy", service.environment, CONFIRM="prod")


def assert_done(done: subprocess.CompletedProcess[str]) -> None:
    assert done.returncode == 0, f"{done.stdout[-3000:]}{done.stderr[-3000:]}"


def test_a_release_is_deployed_and_rolled_back_by_its_commands(service: Service, images: Images) -> None:
    service.release(images[1])
    assert images[1].digest in service.tool("deploy", "diff", service.environment).stdout

    assert_done(deploy(service))
    assert_done(service.tool("deploy", "smoke", service.environment))
    newer = json.loads(service.get("/")[1])["version"]
    assert "No difference." in service.tool("deploy", "diff", service.environment).stdout
    # Another release of the same version does not serve yet.
    service.release(images[0]._replace(version=newer))
    early = service.tool("deploy", "smoke", service.environment, TIMEOUT="3")
    assert "is answered by image" in early.stderr
    service.release(images[1])

    assert_done(service.tool("deploy", "rollback", service.environment, CONFIRM="prod"))
    service.release(images[0])
    assert_done(service.tool("deploy", "smoke", service.environment))

    assert newer == images[1].version
    assert json.loads(service.get("/")[1])["version"] == images[0].version


@pytest.mark.parametrize(
    ("asked", "variables", "reason"),
    [
        ("elsewhere", {}, "it is one of dev, prod, staging"),
        ("dev", {"CONTEXT": "other"}, "knows no context other"),
        ("staging", {}, "which has no digest"),
        ("prod", {}, "pass CONFIRM=prod"),
    ],
)
def test_what_cannot_be_done_is_refused_before_anything_changes(
    prod: Service, asked: str, variables: dict[str, str], reason: str
) -> None:
    done = prod.tool("deploy", "deploy", asked, **variables)

    assert done.returncode == 1
    assert done.stderr.startswith("Nothing was changed.")
    assert reason in done.stdout + done.stderr


def test_the_commands_of_the_readme_work_as_written(prod: Service) -> None:
    assert "successfully rolled out" in prod.cluster.kubectl(
        "rollout", "status", f"deployment/{prod.name}", "-n", "production"
    )
    tunnel = prod.cluster.sandbox.start(
        "port-forward",
        *(prod.cluster.programs / "kubectl", f"--kubeconfig={prod.cluster.kubeconfig}"),
        *("port-forward", "-n", "production", f"svc/{prod.name}", "8000:80"),
    )
    try:
        tunnel.until(lambda: prod.cluster.get("http://127.0.0.1:8000/api/v1/items")[0] == 200, 20)
    finally:
        tunnel.stop()
