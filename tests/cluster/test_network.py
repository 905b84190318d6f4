"""Nothing reaches production's pods, and they reach nothing, but through the holes that have a name.

Enforced by a stand-in (`enforcer.py` says what it is not).
"""

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import enforcer
import pytest
from control_plane import ADDRESS
from deployed import Service
from kube import Cluster
from node import TOOLS
from traffic import pod

pytestmark = pytest.mark.cluster

PROMETHEUS = {"app.kubernetes.io/name": "prometheus"}
PYTHON = "/usr/bin/python3.13"
WAIT = [PYTHON, "-c", "import time; time.sleep(3600)"]
ASK = "import sys, urllib.request; print(urllib.request.urlopen(sys.argv[1], timeout=2).read().decode())"
CONNECT = "import socket, sys; socket.create_connection((sys.argv[1], int(sys.argv[2])), 2)"


@pytest.fixture(scope="module")
def guarded(cluster: Cluster, prod: Service) -> Iterator[Service]:
    """Return production while its policies are enforced, with others around it."""
    client = {prod.client: "true"}
    listeners = {"collector": 4318, "other": 4319}
    waits: dict[str, Any] = {"image": prod.image.name, "command": WAIT}
    others = [
        pod("client", "elsewhere", client, **waits),
        pod("stranger", "elsewhere", {}, **waits),
        pod("neighbour", prod.namespace, {}, **waits),
        pod("prometheus", "monitoring", PROMETHEUS, **waits),
        pod("prometheus", "elsewhere", PROMETHEUS, **waits),
        *(
            pod(name, "observability", {}, image=TOOLS, command=["httpd", "-f", "-p", str(port), "-h", "/etc"])
            for name, port in listeners.items()
        ),
    ]
    for name in sorted({str(one["metadata"]["namespace"]) for one in others} - {prod.namespace}):
        cluster.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}})
    cluster.apply(*others)
    for one in others:
        cluster.wait("condition=Ready", f"pod/{one['metadata']['name']}", namespace=one["metadata"]["namespace"])
    program = cluster.sandbox.start("enforcer", sys.executable, Path(enforcer.__file__), cluster.kubeconfig)
    table = ("nft", "list", "table", "inet", "policies")
    program.until(lambda: cluster.sandbox.run(*table).returncode == 0)
    yield prod
    program.stop()
    cluster.sandbox.do("nft", "delete", "table", "inet", "policies")
    cluster.kubectl("delete", "pod", "neighbour", "--now", namespace=prod.namespace)
    cluster.kubectl("delete", "namespace", "elsewhere", "monitoring", "observability", "--wait=false")


def ask(cluster: Cluster, who: str, url: str) -> subprocess.CompletedProcess[str]:
    """Ask from a pod, given as namespace/name."""
    namespace, name = who.split("/")
    return cluster.try_kubectl("exec", name, "--", PYTHON, "-c", ASK, url, namespace=namespace)


def connect(prod: Service, host: str, port: int) -> subprocess.CompletedProcess[str]:
    """Connect from one of the service's pods."""
    command = (PYTHON, "-c", CONNECT, host, str(port))
    name = prod.pod()["metadata"]["name"]
    return prod.cluster.try_kubectl("exec", name, "--", *command, namespace=prod.namespace)


def address(prod: Service, name: str) -> str:
    """The address of a pod in the namespace of what takes traces."""
    return str(prod.cluster.object("pod", name, "observability")["status"]["podIP"])


def test_a_client_is_let_in(guarded: Service) -> None:
    host = f"{guarded.name}.{guarded.namespace}.svc.cluster.local"

    done = ask(guarded.cluster, "elsewhere/client", f"http://{host}/api/v1/items")

    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    ("who", "port"),
    [
        ("elsewhere/stranger", 8000),
        ("production/neighbour", 8000),
        ("monitoring/prometheus", 8000),
        ("elsewhere/client", 9000),
        ("elsewhere/prometheus", 9000),
    ],
)
def test_nobody_else_is(guarded: Service, who: str, port: int) -> None:
    url = f"http://{guarded.pod()['status']['podIP']}:{port}/"

    done = ask(guarded.cluster, who, url)

    assert done.returncode != 0
    assert "timed out" in done.stderr


def test_a_stranger_is_kept_from_the_service_too(guarded: Service) -> None:
    service = guarded.cluster.object("service", guarded.name, guarded.namespace)

    done = ask(guarded.cluster, "elsewhere/stranger", f"http://{service['spec']['clusterIP']}/")

    assert "timed out" in done.stderr


def test_prometheus_reads_the_metrics(guarded: Service) -> None:
    done = ask(guarded.cluster, "monitoring/prometheus", f"http://{guarded.pod()['status']['podIP']}:9000/metrics")

    assert "http_requests_total" in done.stdout


@pytest.mark.parametrize(("name", "port"), [("collector", 4318), ("database", 5432)])
def test_it_reaches_what_it_needs(guarded: Service, name: str, port: int) -> None:
    host = ADDRESS if name == "database" else address(guarded, name)

    done = connect(guarded, host, port)

    assert done.returncode == 0, done.stderr


def test_it_resolves_names(guarded: Service) -> None:
    done = connect(guarded, f"{guarded.name}-headless.{guarded.namespace}.svc.cluster.local", 9999)

    # It got so far as to connect.
    assert "TimeoutError" in done.stderr


@pytest.mark.parametrize(("name", "port"), [("other", 4319), ("server", 6443), ("kubelet", 10250)])
def test_it_reaches_nothing_else(guarded: Service, name: str, port: int) -> None:
    host = address(guarded, name) if name == "other" else ADDRESS

    done = connect(guarded, host, port)

    assert "TimeoutError" in done.stderr


def test_a_restart_goes_on_to_serve_clients_alone(guarded: Service) -> None:
    with guarded.load(rate=20) as requests:
        guarded.restart()
        counted = requests.stop()
    stranger = ask(guarded.cluster, "elsewhere/stranger", f"http://{guarded.pod()['status']['podIP']}:8000/")

    assert (counted.failed, counted.failures[1:]) == (0, [])
    assert "timed out" in stranger.stderr
