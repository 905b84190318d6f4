"""Production as its overlay has it, on PostgreSQL: it runs, it rolls without a failed request, and it recovers."""

import json
import os
import signal
import time
from pathlib import Path
from typing import Any

import pytest
from deployed import Images, Service
from sandbox import processes_of

pytestmark = pytest.mark.cluster

RESTARTS = 5
PYTHON = "/usr/bin/python3.13"
# Takes more memory than there may be, in processes that each have less than the service.
LEAK = """
import os, time
for _ in range(12):
    if not os.fork():
        kept = b"x" * (25 << 20)
        time.sleep(60)
time.sleep(60)
"""


def container(pod: dict[str, Any]) -> dict[str, Any]:
    """The state of the service's container."""
    return dict(pod["status"]["containerStatuses"][0])


def first_process(pod: dict[str, Any]) -> int:
    """The service's process, as the machine numbers it."""
    return processes_of(container(pod)["containerID"].rpartition("/")[2])[0]


def restarted(prod: Service, pod: dict[str, Any], seconds: float) -> dict[str, Any]:
    """Wait until the pod's container runs again after its end; what is known of that end."""
    before = container(pod)["restartCount"]

    def look() -> dict[str, Any] | None:
        now = prod.cluster.object("pod", pod["metadata"]["name"], prod.namespace)
        state = container(now)
        return dict(state["lastState"]["terminated"]) if state["restartCount"] > before and state["ready"] else None

    found = prod.cluster.within(seconds, look, prod.namespace)
    prod.ready(3)
    return dict(found)


@pytest.mark.ci
def test_it_is_migrated_and_answers_through_its_service(prod: Service) -> None:
    prod.cluster.wait("condition=Complete", f"job/{prod.name}-migration", namespace=prod.namespace)

    assert prod.get("/api/v1/items")[0] == 200
    assert json.loads(prod.get("/")[1])["version"] == "1.0.0"


def test_each_pod_shows_its_metrics(prod: Service) -> None:
    for pod in prod.ready(3):
        status, text = prod.cluster.get(f"http://{pod['status']['podIP']}:9000/metrics")

        assert status == 200
        assert "app_info{" in text
        assert "http_requests_total{" in text


def test_the_kubelet_has_what_the_memory_query_divides(prod: Service) -> None:
    labels = f'container="app",.*namespace="{prod.namespace}"'
    names = ("container_memory_usage_bytes", "container_spec_memory_limit_bytes")

    def ratios() -> list[float]:
        used, limits = (prod.cluster.series(name, labels) for name in names)
        return [used[pod] / limits[pod] for pod in used if limits.get(pod)]

    def sensible() -> bool:
        found = ratios()
        return len(found) == 3 and all(0.1 < ratio < 1 for ratio in found)

    assert prod.cluster.within(30, sensible, prod.namespace)


@pytest.mark.ci
def test_rolling_restarts_under_load_lose_no_request(prod: Service) -> None:
    before = {pod["metadata"]["name"] for pod in prod.pods()}
    with prod.load() as requests:
        for _ in range(RESTARTS):
            prod.restart()
        counted = requests.stop()
    print(counted)  # noqa: T201 - the number is the proof

    assert before.isdisjoint(pod["metadata"]["name"] for pod in prod.pods())
    assert counted.sent > 1000
    assert (counted.failed, counted.failures[1:]) == (0, [])


@pytest.mark.ci
def test_without_hook_readiness_and_grace_a_restart_does_lose_requests(prod: Service) -> None:
    app = {"name": "app", "lifecycle": None, "startupProbe": None, "readinessProbe": None}
    spec = {"terminationGracePeriodSeconds": 0, "containers": [app]}
    careless = {"spec": {"minReadySeconds": 0, "template": {"spec": spec}}}
    try:
        with prod.load() as requests:
            prod.kubectl("patch", f"deployment/{prod.name}", "--patch", json.dumps(careless))
            prod.rolled_out()
            prod.restart()
            counted = requests.stop()
    finally:
        prod.apply()
        prod.rolled_out()
    print(counted)  # noqa: T201 - the number is the proof

    assert counted.failed > 0


def test_a_changed_setting_rolls_the_pods_and_undo_brings_the_old_one_back(prod: Service) -> None:
    def settings() -> set[str]:
        return {pod["spec"]["containers"][0]["envFrom"][0]["configMapRef"]["name"] for pod in prod.ready(3)}

    before, names = settings(), {pod["metadata"]["name"] for pod in prod.pods()}
    file = prod.overlay / "settings.env"
    text = file.read_text(encoding="utf-8")
    try:
        prod.set(LOG_LEVEL="WARNING")
        prod.apply()
        prod.rolled_out()
        changed, renewed = settings(), {pod["metadata"]["name"] for pod in prod.pods()}
    finally:
        file.write_text(text, encoding="utf-8")
    prod.kubectl("rollout", "undo", f"deployment/{prod.name}")
    prod.rolled_out()

    assert changed != before
    assert names.isdisjoint(renewed)
    assert settings() == before


def test_a_newer_version_takes_over_and_undo_brings_the_old_one_back(prod: Service, images: Images) -> None:
    prod.release(images[1])
    prod.apply()
    prod.rolled_out()
    newer = json.loads(prod.get("/")[1])["version"]
    prod.release(images[0])
    prod.kubectl("rollout", "undo", f"deployment/{prod.name}")
    prod.rolled_out()

    assert newer == "1.1.0"
    assert json.loads(prod.get("/")[1])["version"] == "1.0.0"


def test_a_process_that_is_killed_comes_back(prod: Service) -> None:
    pod = prod.ready(3)[0]

    os.kill(first_process(pod), signal.SIGKILL)

    assert restarted(prod, pod, 60)["exitCode"] == 137


def test_a_process_that_hangs_is_started_again_by_its_liveness(prod: Service) -> None:
    pod = prod.ready(3)[0]

    os.kill(first_process(pod), signal.SIGSTOP)
    ended = restarted(prod, pod, 150)

    assert ended["exitCode"] == 137
    assert "Liveness probe failed" in prod.kubectl("events", "--for", f"pod/{pod['metadata']['name']}")


def test_a_container_beyond_its_memory_limit_is_seen_as_such(prod: Service) -> None:
    pod = prod.ready(3)[0]
    # The kernel ends what has the highest score: let that be the service, as when it is what leaks.
    Path(f"/proc/{first_process(pod)}/oom_score_adj").write_text("1000", encoding="utf-8")

    prod.cluster.try_kubectl("exec", pod["metadata"]["name"], "--", PYTHON, "-c", LEAK, namespace=prod.namespace)

    assert restarted(prod, pod, 60)["reason"] == "OOMKilled"


def test_an_eviction_beyond_the_budget_is_refused(prod: Service) -> None:
    def evict(pod: dict[str, Any]) -> Any:
        name = pod["metadata"]["name"]
        eviction = {"apiVersion": "policy/v1", "kind": "Eviction", "metadata": {"name": name}}
        path = f"/api/v1/namespaces/{prod.namespace}/pods/{name}/eviction"
        return prod.cluster.try_kubectl("create", "--raw", path, "--filename=-", stdin=json.dumps(eviction))

    first, second, _ = prod.ready(3)
    allowed, refused = evict(first), evict(second)
    prod.ready(3)

    assert allowed.returncode == 0, allowed.stderr
    assert refused.returncode != 0
    assert "Cannot evict pod as it would violate the pod's disruption budget" in refused.stderr


def test_the_autoscaler_adds_pods_under_load_and_takes_them_back_no_faster_than_it_may(prod: Service) -> None:
    # Shorter than what the overlay says, for the test: how long it waits before it goes down (300 s there), and how
    # much CPU a pod asks for, so that two cores can be a load.
    waits = 15
    down = {"stabilizationWindowSeconds": waits}
    bounds = {"spec": {"maxReplicas": 6, "behavior": {"scaleDown": down}}}
    app = {"name": "app", "resources": {"requests": {"cpu": "25m"}}}
    smaller = {"spec": {"template": {"spec": {"containers": [app]}}}}
    seen: list[tuple[float, int]] = []

    def replicas() -> int:
        now = int(prod.cluster.object("deployment", prod.name, prod.namespace)["spec"]["replicas"])
        if not seen or seen[-1][1] != now:
            seen.append((time.monotonic(), now))
        return now

    try:
        prod.kubectl("patch", f"deployment/{prod.name}", "--patch", json.dumps(smaller))
        prod.kubectl("patch", f"hpa/{prod.name}", "--type=merge", "--patch", json.dumps(bounds))
        prod.rolled_out()
        with prod.load(rate=150) as requests:
            prod.cluster.within(120, lambda: replicas() == 6, prod.namespace)
            # What was added within a minute may go at once: it is no pod of the quarter.
            grown = time.monotonic()
            prod.cluster.within(90, lambda: replicas() > 3 and time.monotonic() > grown + 65, prod.namespace)
            requests.stop()
        ended = time.monotonic()
        prod.cluster.within(240, lambda: replicas() == 3, prod.namespace)
    finally:
        prod.apply()
        prod.rolled_out()
        prod.ready(3)
    print([(round(when - ended), count) for when, count in seen])  # noqa: T201 - the numbers are the proof

    first = next(when for when, count in seen if when > ended and count < 6)
    assert first - ended >= waits
    # A quarter of the pods a minute: none has fewer than three quarters of those of the minute before.
    for when, count in seen:
        minute = [before for start, before in seen if when - 55 < start < when]
        minute += [before for start, before in seen if start <= when - 55][-1:]
        assert count >= int(0.75 * max(minute, default=0)), seen
