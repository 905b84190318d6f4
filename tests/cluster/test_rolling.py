"""Production as its overlay has it, on PostgreSQL: it runs, it rolls without a failed request, and it recovers."""

import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import service
from kube import Cluster
from load import Load
from sandbox import processes_of
from service import Service

pytestmark = pytest.mark.cluster

RESTARTS = 5
PATH = "/api/v1/items"


@pytest.fixture(scope="module")
def project(cookies_session: Any, environment: dict[str, str]) -> Path:
    return service.generate(
        cookies_session, environment, deployment="kubectl", release_strategy="rolling", exposure="cluster-internal"
    )


@pytest.fixture(scope="module")
def image(cluster: Cluster, project: Path) -> str:
    """Return the image of version 1.0.0; 1.1.0 is on the node too."""
    name, newer = (service.build(project, version) for version in ("1.0.0", "1.1.0"))
    cluster.node.load(name, newer)
    return name


@pytest.fixture(scope="module")
def prod(cluster: Cluster, project: Path, image: str) -> Iterator[Service]:
    """Return the service as it runs in production."""
    running = Service(cluster, project)
    running.connect(service.start_database(cluster))
    running.release(image)
    running.apply()
    running.ready(3)
    yield running
    cluster.kubectl("delete", "namespace", running.namespace, timeout=180)


def load(prod: Service, image: str, rate: int = 50) -> Load:
    return Load(prod.cluster, image, prod.host, prod.client, PATH, rate)


def answer(prod: Service) -> str:
    """The version that the Service answers."""
    address = prod.cluster.object("service", prod.name, prod.namespace)["spec"]["clusterIP"]
    status, body = prod.cluster.get(f"http://{address}/")
    return body if status == 200 else ""


def test_it_is_migrated_and_answers_through_its_service(prod: Service) -> None:
    prod.cluster.wait("condition=Complete", f"job/{prod.name}-migration", namespace=prod.namespace)
    address = prod.cluster.object("service", prod.name, prod.namespace)["spec"]["clusterIP"]

    assert prod.cluster.get(f"http://{address}{PATH}")[0] == 200
    assert '"version":"1.0.0"' in answer(prod)


def test_rolling_restarts_under_load_lose_no_request(prod: Service, image: str) -> None:
    before = {pod["metadata"]["name"] for pod in prod.pods()}
    with load(prod, image) as requests:
        for _ in range(RESTARTS):
            prod.kubectl("rollout", "restart", f"deployment/{prod.name}")
            prod.cluster.rolled_out(f"deployment/{prod.name}", prod.namespace)
        counted = requests.stop()
    print(counted)  # noqa: T201 - the number is the proof

    assert before.isdisjoint(pod["metadata"]["name"] for pod in prod.pods())
    assert counted.sent > 1000
    assert (counted.failed, counted.failures[1:]) == (0, [])
