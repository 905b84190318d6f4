"""What a deploy does with a migration, with what somebody changed by hand, and for a pipeline that may not do all."""

import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import deployed
import pytest
import yaml
from deployed import Images, Service

pytestmark = pytest.mark.cluster


@pytest.fixture
def service(prod: Service, images: Images, storage_url: str) -> Iterator[Service]:
    """Return production with its Secret from elsewhere, as the operator brings it; put back what it had."""
    file = prod.overlay / "kustomization.yaml"
    before = file.read_text(encoding="utf-8")
    lines = before.splitlines(keepends=True)
    file.write_text("".join(line for line in lines if "plain-secret" not in line), encoding="utf-8")
    connect(prod, storage_url)
    prod.cluster.wait("condition=Complete", f"job/{prod.name}-migration", namespace=prod.namespace)
    assert_done(deploy(prod))
    yield prod
    file.write_text(before, encoding="utf-8")
    connect(prod, storage_url)
    prod.release(images[0])
    assert_done(deploy(prod))
    prod.ready(3)


def connect(service: Service, address: str) -> None:
    secret = {
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {"name": f"{service.name}-database"},
        "stringData": {"STORAGE_URL": address},
    }
    service.cluster.apply(secret, namespace=service.namespace)


def deploy(service: Service, **variables: str) -> subprocess.CompletedProcess[str]:
    return service.tool("deploy", "deploy", service.environment, CONFIRM="prod", **variables)


def assert_done(done: subprocess.CompletedProcess[str]) -> None:
    assert done.returncode == 0, f"{done.stdout[-3000:]}{done.stderr[-3000:]}"


def template(service: Service) -> dict[str, Any]:
    """What the Deployment says of pods: none is replaced as long as that stays."""
    deployment = service.cluster.object("deployment", service.name, service.namespace)
    return dict(deployment["spec"]["template"])


def variables(service: Service) -> list[str]:
    return [one["name"] for one in template(service)["spec"]["containers"][0]["env"]]


def test_each_deploy_migrates_anew_and_a_failure_leaves_the_old_version_serving(
    service: Service, images: Images, storage_url: str
) -> None:
    job = f"{service.name}-migration"
    first = service.cluster.object("job", job, service.namespace)
    before = template(service)
    connect(service, storage_url.replace(deployed.PASSWORD, "wrong"))
    service.release(images[1])

    done = deploy(service)

    assert done.returncode == 1
    assert "password authentication failed" in done.stdout
    assert f"The Job {job} failed: its last lines are above. What served before serves on." in done.stderr
    assert template(service) == before

    connect(service, storage_url)
    assert_done(deploy(service))

    second = service.cluster.object("job", job, service.namespace)
    assert second["metadata"]["uid"] != first["metadata"]["uid"]
    assert second["status"]["succeeded"] == 1
    assert images[1].digest in template(service)["spec"]["containers"][0]["image"]


def test_what_somebody_added_by_hand_is_gone_with_the_next_deploy(service: Service) -> None:
    before = variables(service)
    service.kubectl("set", "env", f"deployment/{service.name}", "BY_HAND=1")
    assert variables(service) == [*before, "BY_HAND"]

    assert_done(deploy(service))

    assert variables(service) == before


def test_the_pipeline_deploys_and_undoes_what_it_may_and_is_told_what_it_may_not(
    service: Service, images: Images, tmp_path: Path
) -> None:
    config = yaml.safe_load(service.cluster.kubeconfig.read_text(encoding="utf-8"))
    config["users"][0]["user"] |= {"as": "pipeline", "as-groups": ["platform-deployers", "system:authenticated"]}
    (tmp_path / "config").write_text(yaml.safe_dump(config), encoding="utf-8")
    pipeline = {"KUBECONFIG": str(tmp_path / "config")}
    service.release(images[1])

    done = deploy(service, **pipeline)

    assert_done(done)
    assert "Left out, as this user may not change them" in done.stdout
    assert f"Namespace {service.namespace}" in done.stdout
    assert_done(service.tool("deploy", "smoke", service.environment, **pipeline))
    assert "Not compared" in service.tool("deploy", "diff", service.environment, **pipeline).stdout
    assert_done(service.tool("deploy", "rollback", service.environment, CONFIRM="prod", **pipeline))
    assert images[0].digest in template(service)["spec"]["containers"][0]["image"]
