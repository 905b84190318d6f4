"""`make smoke`: wait until the image of the release alone answers, is ready, and lists its items."""

import json
import os
import random
import re
import subprocess
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from tools.kubectl import Cluster, ClusterError
from tools.overlay import SERVICE, Overlay

# While one version replaces another, a look, by a connection of its own, finds either. Where the new one has half of
# the pods, as a canary has before its last analysis, it is one chance in a million that so many in a row find it.
LOOKS = 20

# Short, as a canary that nobody else asks has these requests alone for its analysis to judge by.
PAUSE_SECONDS = 0.25


def address_of(overlay: Overlay) -> str:
    """Where to ask the service; nothing when only a tunnel leads to it."""
    return os.environ.get("URL") or overlay.address


def smoke(expected: Mapping[str, str], url: str, cluster: Cluster | None, patience: float) -> None:
    """Wait until only what is expected serves, at `url` or else through a tunnel into the cluster.

    Args:
        expected: what `GET /` has to say of itself: its `version`, and its `image` where a release is known by it.
        url: where the service is found; empty where only a tunnel leads to it.
        cluster: where the tunnel leads.
        patience: how many seconds to wait.

    Raises:
        ClusterError: it does not; the message says what was seen last.
    """
    deadline = time.monotonic() + patience
    good = 0
    while good < LOOKS:
        problem = look(expected, url, cluster, max(1.0, deadline - time.monotonic()))
        good = 0 if problem else good + 1
        if problem and time.monotonic() > deadline:
            raise ClusterError(f"{SERVICE} {' '.join(expected.values())} does not serve. Seen last: {problem}")
        time.sleep(PAUSE_SECONDS)


def look(expected: Mapping[str, str], url: str, cluster: Cluster | None, patience: float) -> str:
    """What is wrong with the service as a client of its own finds it; nothing when all is well.

    Args:
        expected: what `GET /` has to say of itself.
        url: where the service is found; empty where only a tunnel leads to it.
        cluster: where the tunnel leads.
        patience: how many seconds the tunnel may take, and each answer, which never takes more than ten.
    """
    longest = min(patience, 10)
    if url or not cluster:
        return fault(url, expected, longest)
    try:
        with tunnel(cluster, patience) as address:
            return fault(address, expected, longest)
    except ClusterError as error:
        return str(error)


def fault(address: str, expected: Mapping[str, str], timeout: float) -> str:
    """What is wrong with the service at this address; nothing when all is well."""
    for path in ("/", "/health/ready", "/api/v1/items"):
        try:
            with urllib.request.urlopen(f"{address.rstrip('/')}{path}", timeout=timeout) as answer:  # noqa: S310
                body = answer.read(1_000_000)
            told = json.loads(body) if path == "/" else expected
            for name, value in expected.items():
                if told.get(name) != value:
                    return f"GET {path} is answered by {name} {told.get(name)}"
        except urllib.error.HTTPError as error:
            return f"GET {path}: {error.code} {error.read(300).decode(errors='replace')}"
        except (OSError, ValueError, AttributeError) as error:
            return f"GET {path}: {error}"
    return ""


@contextmanager
def tunnel(cluster: Cluster, patience: float) -> Iterator[str]:
    """An address of this machine that leads to a pod of the service, one of those that are ready, by chance.

    kubectl itself would lead to the oldest one each time, and so never to a new version beside an old one.

    Raises:
        ClusterError: there is none within `patience` seconds.
    """
    if not (ready := ready_pods(cluster)):
        raise ClusterError(f"no pod of {SERVICE} is ready")
    pod = f"pod/{random.choice(ready)}"  # noqa: S311 - nobody gains by guessing it
    command = ["kubectl", *cluster.flags, "port-forward", "--address", "127.0.0.1", pod, ":http"]
    # It says something for each connection, and would wait for whoever does not read a pipe.
    with (
        tempfile.TemporaryFile() as said,
        subprocess.Popen(command, stdout=said, stderr=subprocess.STDOUT) as process,
    ):
        try:
            yield f"http://127.0.0.1:{_port(process, said.fileno(), patience)}"
        finally:
            process.kill()


def ready_pods(cluster: Cluster) -> list[str]:
    """The pods of the service that serve, and are not about to end."""
    selector = f"app.kubernetes.io/name={SERVICE},app.kubernetes.io/component=api"
    pods = (cluster.get("pods", "--selector", selector) or {}).get("items", [])
    return [pod["metadata"]["name"] for pod in pods if _is_ready(pod) and "deletionTimestamp" not in pod["metadata"]]


def _is_ready(pod: Mapping[str, Any]) -> bool:
    conditions = pod.get("status", {}).get("conditions", [])
    return any((one["type"], one["status"]) == ("Ready", "True") for one in conditions)


def _port(process: "subprocess.Popen[bytes]", said: int, patience: float) -> str:
    """The port that kubectl says it listens on, in the file with this descriptor, once it does."""
    deadline = time.monotonic() + patience + 10
    while True:
        has_ended = process.poll() is not None
        text = os.pread(said, 4096, 0).decode(errors="replace")
        if port := re.search(r"127\.0\.0\.1:(\d+)", text):
            return port[1]
        if has_ended or time.monotonic() > deadline:
            raise ClusterError(text.strip() or "no tunnel")
        time.sleep(0.05)
