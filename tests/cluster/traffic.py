"""Requests from a pod of the cluster: as many a second as asked for, until told to stop, each failure counted."""

import json
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self
from urllib.parse import urlsplit

from kube import Cluster

CLIENTS = "clients"
MOST_SECONDS = 900

# Runs in the image of the service, which has Python and no shell. Half of the workers ask on connections that they
# keep, half on a new one each time.
SCRIPT = """
import collections, http.client, json, os, sys, threading, time

host, path, rate, limit = sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
workers = min(16, rate)
end = time.monotonic() + limit
lock, seen, failures = threading.Lock(), collections.Counter(), []


def ask(keep):
    connection, due = None, time.monotonic()
    while time.monotonic() < end and not os.path.exists("/tmp/stop"):
        due += workers / rate
        time.sleep(max(0, due - time.monotonic()))
        try:
            connection = connection or http.client.HTTPConnection(host, timeout=10)
            connection.request("GET", path)
            answer = connection.getresponse()
            answer.read()
            outcome = answer.status
        except (OSError, http.client.HTTPException) as error:
            outcome = repr(error)
            connection.close()
            connection = None
        if connection and not keep:
            connection.close()
            connection = None
        with lock:
            seen[str(outcome)] += 1
            if outcome != 200:
                failures.append([round(time.time(), 1), keep, str(outcome)])


threads = [threading.Thread(target=ask, args=(number % 2 == 0,)) for number in range(workers)]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
print(json.dumps({"seen": seen, "failures": failures[:20]}))
"""

# What Pod Security asks of a pod.
RESTRICTED = {
    "allowPrivilegeEscalation": False,
    "capabilities": {"drop": ["ALL"]},
    "runAsNonRoot": True,
    "runAsUser": 65532,
    "seccompProfile": {"type": "RuntimeDefault"},
}


def pod(name: str, namespace: str, labels: dict[str, str], **container: Any) -> dict[str, Any]:
    """A pod that runs once, with few rights; its `/tmp` can be written."""
    container |= {"name": name, "imagePullPolicy": "IfNotPresent", "securityContext": RESTRICTED}
    container["volumeMounts"] = [{"name": "tmp", "mountPath": "/tmp"}]
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "namespace": namespace, "labels": labels},
        "spec": {
            "restartPolicy": "Never",
            "terminationGracePeriodSeconds": 0,
            "automountServiceAccountToken": False,
            "volumes": [{"name": "tmp", "emptyDir": {}}],
            "containers": [container],
        },
    }


@dataclass(frozen=True)
class Counted:
    """What became of the requests.

    Attributes:
        sent: how many there were.
        failures: when, on a kept connection or not, and how the first of those failed that did.
        failed: how many that were.
    """

    sent: int
    failed: int
    failures: list[Any]


class Load:
    """Requests to a Service, from the start of a `with` block to its end.

    Args:
        cluster: where.
        image: one with Python, on the node.
        url: what is asked for.
        label: makes a pod a client that the Service lets in.
        rate: requests a second.
    """

    def __init__(self, cluster: Cluster, image: str, url: str, label: str, rate: int) -> None:
        self._cluster = cluster
        where = urlsplit(url)
        words = ["/usr/bin/python3.13", "-c", SCRIPT, where.netloc, where.path, str(rate), str(MOST_SECONDS)]
        self._pod = pod("load", CLIENTS, {label: "true"}, image=image, command=words)

    def __enter__(self) -> Self:
        self._cluster.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": CLIENTS}})
        self._cluster.apply(self._pod)
        self._cluster.wait("condition=Ready", "pod/load", namespace=CLIENTS)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._cluster.kubectl("delete", "pod", "load", "--now", namespace=CLIENTS)

    def stop(self) -> Counted:
        """Let it end, and say what it counted."""
        command = ("/usr/bin/python3.13", "-c", "open('/tmp/stop', 'w')")
        self._cluster.kubectl("exec", "load", "--", *command, namespace=CLIENTS)
        self._cluster.wait("jsonpath={.status.phase}=Succeeded", "pod/load", namespace=CLIENTS)
        said = json.loads(self._cluster.kubectl("logs", "load", namespace=CLIENTS))
        sent = sum(said["seen"].values())
        return Counted(sent, sent - said["seen"].get("200", 0), [*said["seen"].items(), *said["failures"]])
