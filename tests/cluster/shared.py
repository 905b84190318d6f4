"""What all tests of a cluster share: the cluster itself, the images, and production as it runs in it.

They are few and dear, so a session has one of each. A test that changes one puts it back.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import deployed
import needs
import pytest
import sandbox
from deployed import Images
from kube import Cluster

VERSIONS = ("1.0.0", "1.1.0")


@pytest.fixture(scope="session")
def cluster() -> Iterator[Cluster]:
    """Return a Kubernetes, and fail after the last test if it leaves anything on the machine."""
    if missing := needs.cluster():
        pytest.fail(f"Kubernetes: {missing}", pytrace=False)
    before = sandbox.traces()
    with Cluster() as running:
        yield running
    assert sandbox.traces() - before == set()


@pytest.fixture(scope="session")
def rolling(cookies_session: Any, environment: dict[str, str]) -> Path:
    """Return a service that replaces its pods one by one."""
    return deployed.generate(cookies_session, environment, release_strategy="rolling")


@pytest.fixture(scope="session")
def images(cluster: Cluster, rolling: Path) -> Images:
    """Return two versions of the image of production, which the node has."""
    older, newer = (deployed.build(cluster, rolling, version) for version in VERSIONS)
    return older, newer


@pytest.fixture(scope="session")
def storage_url(cluster: Cluster) -> str:
    """Return the address of a PostgreSQL that pods reach."""
    return deployed.start_database(cluster)


@pytest.fixture(scope="session")
def prod(cluster: Cluster, rolling: Path, images: Images, storage_url: str) -> deployed.Service:
    """Return the service in production, in its older version, with all pods ready."""
    running = deployed.Service(cluster, rolling, images[0])
    running.connect(storage_url)
    running.release(images[0])
    running.apply()
    running.ready(3)
    return running
