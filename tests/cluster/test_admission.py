"""A real API server takes every overlay of every service, twice and without drift, and refuses what is broken."""

import functools
import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from subprocess import CompletedProcess
from typing import Any

import node
import pytest
import yaml
from conftest import ROOT
from kube import Cluster
from rendered import ENVIRONMENTS, PROFILES

pytestmark = pytest.mark.cluster

# A name of its own, so that it is not in the way of what runs.
SLUG = "admitted"
ORDINARY = "gateway-api-rolling-kubectl"

Object = dict[str, Any]


@pytest.fixture(scope="module")
def asleep(extended: Cluster) -> Iterator[Cluster]:
    """Return the cluster without room for new pods: what comes is only to be admitted."""
    cluster = extended
    cluster.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "argocd"}})
    cluster.kubectl("cordon", node.NAME)
    yield cluster
    for namespace in ("development", "staging", "production"):
        for slug in (SLUG, PROFILES["longest-names"]["project_slug"]):
            label = f"--selector=app.kubernetes.io/name={slug}"
            cluster.try_kubectl("delete", "all,hpa,pdb", label, "--wait=false", namespace=namespace)
    cluster.kubectl("uncordon", node.NAME)


@pytest.fixture(scope="module")
def generate(cookies_session: Any) -> Callable[[str], Path]:
    """Return a function that generates the service of a profile."""

    @functools.cache
    def bake(profile: str) -> Path:
        answers = {"project_slug": SLUG} | dict(PROFILES[profile])
        result = cookies_session.bake(extra_context=answers, template=str(ROOT))
        assert result.exception is None, repr(result.exception)
        return Path(result.project_path)

    return bake


@pytest.mark.parametrize("profile", PROFILES)
def test_every_overlay_is_admitted_twice_and_does_not_drift(
    asleep: Cluster, generate: Callable[[str], Path], profile: str
) -> None:
    project = generate(profile)
    for environment in ENVIRONMENTS:
        overlay = ("--kustomize", str(project / "k8s" / "overlays" / environment))
        # As `make deploy` does: a Job cannot be changed.
        asleep.try_kubectl("delete", *overlay, "--ignore-not-found", "--selector=app.kubernetes.io/component=migration")
        for _ in range(2):
            done = asleep.try_kubectl("apply", "--server-side", *overlay)
            assert done.returncode == 0, f"{environment}: {done.stderr}"
            # Pod Security warns of what it would refuse.
            assert "Warning" not in done.stderr, f"{environment}: {done.stderr}"
        drift = asleep.try_kubectl("diff", "--server-side", *overlay)
        assert (drift.returncode, drift.stdout) == (0, ""), f"{environment}: {drift.stderr}"


def test_what_argo_cd_is_told_is_admitted(asleep: Cluster, generate: Callable[[str], Path]) -> None:
    application = generate("gateway-api-canary-argocd") / "ci-cd" / "argocd" / "application.yaml"

    done = asleep.try_kubectl("apply", "--server-side", f"--filename={application}")

    assert done.returncode == 0, done.stderr


def _pod_with(path: str, value: Any) -> Callable[[Mapping[str, Object]], Object]:
    """Make the service's pod with another value in its spec (`app.` begins what is the container's)."""

    def make(objects: Mapping[str, Object]) -> Object:
        template = objects["Deployment"]["spec"]["template"]
        spec = template["spec"]
        target = spec["containers"][0] if path.startswith("app.") else spec
        *parents, last = path.removeprefix("app.").split(".")
        for name in parents:
            target = target[name]
        target[last] = value
        metadata = {"name": "broken", "namespace": "production", "labels": template["metadata"]["labels"]}
        return {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec}

    return make


def _with(kind: str, path: str, value: Any) -> Callable[[Mapping[str, Object]], Object]:
    """Take an object with another value, under another name."""

    def make(objects: Mapping[str, Object]) -> Object:
        found = objects[kind]
        found["metadata"]["name"] = "broken"
        *parents, last = path.split(".")
        target = found
        for name in parents:
            target = target[name]
        target[last] = value
        return found

    return make


BROKEN = {
    "root": (_pod_with("securityContext", {"runAsUser": 0}), "violates PodSecurity"),
    "privileged": (_pod_with("app.securityContext", {"privileged": True}), "violates PodSecurity"),
    "capabilities": (_pod_with("app.securityContext.capabilities", {}), "violates PodSecurity"),
    "escalation": (_pod_with("app.securityContext.allowPrivilegeEscalation", True), "violates PodSecurity"),
    "host network": (_pod_with("hostNetwork", True), "violates PodSecurity"),
    "host path": (_pod_with("volumes", [{"name": "tmp", "hostPath": {"path": "/"}}]), "violates PodSecurity"),
    "too much memory": (_pod_with("app.resources", {"limits": {"memory": "2Gi"}}), "maximum memory usage"),
    "selector of other pods": (
        _with("Deployment", "spec.selector", {"matchLabels": {"app": "other"}}),
        "`selector` does not match template `labels`",
    ),
    "unknown field": (_with("Deployment", "spec.template.spec.graceSeconds", 45), "unknown field"),
    "budget of nothing": (_with("PodDisruptionBudget", "spec.minAvailable", 1), "cannot be both set"),
    "bounds the wrong way": (_with("HorizontalPodAutoscaler", "spec.maxReplicas", 1), "must be greater than or equal"),
}


@pytest.fixture(scope="module")
def ordinary(asleep: Cluster, generate: Callable[[str], Path]) -> str:
    """Return the manifests of an ordinary service's production, which the cluster has."""
    text = asleep.kubectl("kustomize", str(generate(ORDINARY) / "k8s" / "overlays" / "prod"))
    # A Job cannot be changed, and one of another profile may be there.
    others = [one for one in yaml.safe_load_all(text) if one["kind"] != "Job"]
    asleep.kubectl("apply", "--server-side", "--force-conflicts", "--filename=-", stdin=yaml.safe_dump_all(others))
    return text


def tried(cluster: Cluster, text: str, make: Callable[[Mapping[str, Object]], Object]) -> CompletedProcess[str]:
    """Have the server judge an object that is made of the manifests."""
    objects = {one["kind"]: one for one in yaml.safe_load_all(text)}
    return cluster.try_kubectl("create", "--dry-run=server", "--filename=-", stdin=json.dumps(make(objects)))


@pytest.mark.parametrize("mistake", BROKEN)
def test_what_is_broken_is_refused(asleep: Cluster, ordinary: str, mistake: str) -> None:
    make, reason = BROKEN[mistake]

    done = tried(asleep, ordinary, make)

    assert done.returncode != 0
    assert reason in done.stderr


def test_what_is_broken_there_is_admitted_as_it_is(asleep: Cluster, ordinary: str) -> None:
    done = tried(asleep, ordinary, _pod_with("terminationGracePeriodSeconds", 45))

    assert done.returncode == 0, done.stderr
