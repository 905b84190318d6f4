"""What Argo CD is told: every version's API knows it, and it allows what the overlays hold and nothing else."""

import copy
from collections.abc import Iterator
from typing import Any

import pytest
import schemas
import yaml
from rendered import ENVIRONMENTS, Object, Overlay
from test_broken_manifests import put

# Kustomize needs Go.
pytestmark = pytest.mark.ci

Service = tuple[Object, Object, list[Overlay]]


@pytest.fixture(scope="module")
def services(overlays: list[Overlay]) -> list[Service]:
    """Return each service that Argo CD delivers: its project, its applications, its overlays."""
    found = []
    for dev in overlays:
        if dev.environment == "dev" and dev.answers["deployment"] == "argocd":
            text = (dev.project / "ci-cd" / "argocd" / "application.yaml").read_text(encoding="utf-8")
            project, applications = yaml.safe_load_all(text)
            found.append((project, applications, [one for one in overlays if one.profile == dev.profile]))
    return found


def problems(service: Service) -> Iterator[str]:
    """What the project does not allow or need not, and what the applications have wrong."""
    project, applications, overlays = service
    held = {
        (one["apiVersion"].rpartition("/")[0], one["kind"])
        for overlay in overlays
        for one in overlay.objects
        if one["kind"] != "Namespace"
    }
    allowed = {(one["group"], one["kind"]) for one in project["spec"]["namespaceResourceWhitelist"]}
    yield from (f"{kind} of {group} is not allowed" for group, kind in sorted(held - allowed))
    yield from (f"{kind} of {group} is allowed, and no overlay holds one" for group, kind in sorted(allowed - held))
    namespaces = [overlay.one("Namespace")["metadata"]["name"] for overlay in overlays]
    whole = project["spec"]["clusterResourceWhitelist"]
    if [(one["kind"], one.get("name")) for one in whole] != [("Namespace", name) for name in namespaces]:
        yield f"of the cluster, {whole} is allowed"
    if [one["namespace"] for one in project["spec"]["destinations"]] != namespaces:
        yield f"it may deliver to {project['spec']['destinations']}"
    yield from _of_applications(applications, overlays)


def _of_applications(applications: Object, overlays: list[Overlay]) -> Iterator[str]:
    template = applications["spec"]["template"]
    (generator,) = applications["spec"]["generators"]
    for element, overlay in zip(generator["list"]["elements"], overlays, strict=True):
        if element != {
            "environment": overlay.environment,
            "namespace": overlay.one("Namespace")["metadata"]["name"],
        }:
            yield f"an application is for {element}, not for {overlay.environment}"
        path = template["spec"]["source"]["path"].replace("{{ .environment }}", element["environment"])
        if not (overlay.project / path / "kustomization.yaml").is_file():
            yield f"there is no {path}"
    prod = overlays[-1]
    (scaled,) = [one["spec"]["scaleTargetRef"] for one in prod.of("HorizontalPodAutoscaler")]
    ignored = [(one["kind"], one["name"], one["jsonPointers"]) for one in template["spec"]["ignoreDifferences"]]
    if ignored != [(scaled["kind"], scaled["name"], ["/spec/replicas"])]:
        yield f"differences of {ignored} are ignored"


def test_it_is_what_the_definitions_of_argo_cd_know(services: list[Service]) -> None:
    assert services
    for project, applications, _ in services:
        assert list(schemas.problems((project, applications))) == []


def test_it_fits_the_overlays(services: list[Service]) -> None:
    for service in services:
        assert [one.environment for one in service[2]] == list(ENVIRONMENTS)
        assert list(problems(service)) == [], str(service[2][0])


@pytest.mark.parametrize(
    ("which", "path", "value", "told"),
    [
        (0, "spec.namespaceResourceWhitelist.0.kind", "Secret", "Secret of  is allowed, and no overlay holds one"),
        (0, "spec.namespaceResourceWhitelist.0.kind", "Secret", "ConfigMap of  is not allowed"),
        (0, "spec.clusterResourceWhitelist.0", {"group": "*", "kind": "*"}, "of the cluster"),
        (0, "spec.destinations.0.namespace", "*", "it may deliver to"),
        (1, "spec.generators.0.list.elements.2.namespace", "prod", "not for prod"),
        (1, "spec.template.spec.source.path", "overlays/{{ .environment }}", "there is no overlays/dev"),
        (1, "spec.template.spec.ignoreDifferences.0.kind", "StatefulSet", "StatefulSet"),
        (0, "spec.syncWindow", [], "'syncWindow' was unexpected"),
        (1, "spec.template.spec.syncPolicy.automatic", {}, "'automatic' was unexpected"),
    ],
)
def test_a_mistake_is_found(which: int, path: str, value: Any, told: str, services: list[Service]) -> None:
    project, applications, overlays = services[0]
    both = copy.deepcopy([project, applications])
    put(both[which], path, value)

    found = [*problems((both[0], both[1], overlays)), *schemas.problems(tuple(both))]

    assert any(told in problem for problem in found), found
