"""What all tests of a cluster share: the cluster itself, the images, and production as it runs in it.

They are few and dear, so a session has one of each. A test that changes one puts it back.
"""

import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import crds
import deployed
import needs
import pytest
from deployed import Images
from kube import Cluster

VERSIONS = ("1.0.0", "1.1.0")

# A service has some, which nothing applies.
EXPERIMENTS = "github.com/chaos-mesh/chaos-mesh"


@pytest.fixture(scope="session")
def cluster() -> Iterator[Cluster]:
    """Return a Kubernetes, and fail after the last test if it leaves anything on the machine."""
    needs.demand(needs.cluster(), "Kubernetes")
    with Cluster() as running:
        yield running
    assert running.sandbox.left == set()


def definitions() -> Iterator[str]:
    """Every custom resource that a service may use, as its project defines it."""
    for project, archive in crds.archives().items():
        if project == EXPERIMENTS:
            continue
        with zipfile.ZipFile(archive) as files:
            for name in files.namelist():
                folder, _, file = name.partition("@")[2].partition("/")[2].rpartition("/")
                if folder == crds.FOLDERS[project] and file.endswith(".yaml"):
                    text = files.read(name).decode()
                    if "\nkind: CustomResourceDefinition" in text:
                        yield text


@pytest.fixture(scope="session")
def extended(cluster: Cluster) -> Cluster:
    """Return the cluster with the custom resources of all that a platform may have; what acts on them is not there."""
    cluster.kubectl("apply", "--server-side", "--filename=-", stdin="\n---\n".join(definitions()))
    cluster.wait("condition=Established", "crd", "--all")
    return cluster


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
def prod(extended: Cluster, rolling: Path, images: Images, storage_url: str) -> deployed.Service:
    """Return the service in production, in its older version, with all pods ready."""
    running = deployed.Service(extended, rolling, images[0])
    running.connect(storage_url)
    running.release(images[0])
    running.apply()
    running.ready(3)
    running.cluster.wait("condition=Complete", f"job/{running.name}-migration", namespace=running.namespace)
    return running
