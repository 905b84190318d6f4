"""The manifests of a service, for all answers: as kustomize renders them, known to every Kubernetes, and consistent.

Each check can fail: `test_broken_manifests.py` breaks what it looks at.
"""

from collections.abc import Callable, Iterable, Iterator

import capacity
import components
import delivery
import differences
import identity
import monitoring
import network
import pods
import pytest
import schemas
from rendered import Overlay, build, title

# Kustomize and the definitions of custom resources need Go.
pytestmark = pytest.mark.ci

CHECKS = [
    check
    for module in (identity, pods, network, capacity, monitoring, delivery, differences)
    for check in module.CHECKS
]


def assert_nothing(problems: Iterable[tuple[Overlay, str]]) -> None:
    """Each problem once, with where it is."""
    places: dict[str, list[str]] = {}
    for overlay, problem in problems:
        places.setdefault(problem, []).append(str(overlay))
    assert not places, "\n".join(f"{problem} (in {len(where)}: {where[0]})" for problem, where in places.items())


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
def test_in_every_overlay(check: Callable[[Overlay], Iterator[str]], overlays: list[Overlay]) -> None:
    assert_nothing((overlay, problem) for overlay in overlays for problem in check(overlay))


def test_every_kubernetes_from_1_30_on_knows_all_fields_of_all_objects(overlays: list[Overlay]) -> None:
    assert schemas.versions()[0] == "1.30"
    assert_nothing((overlay, problem) for overlay in overlays for problem in schemas.problems(overlay.objects))


def test_the_definitions_are_those_of_what_runs_in_the_cluster_of_the_tests() -> None:
    rollouts = "github.com/argoproj/argo-rollouts"

    assert components.version("crds", rollouts) == components.version("argo-rollouts", rollouts)


def test_kustomize_warns_of_nothing(overlays: list[Overlay]) -> None:
    assert_nothing((overlay, overlay.warnings) for overlay in overlays if overlay.warnings)


def test_the_kustomize_of_the_oldest_kubectl_makes_the_same_of_it(overlays: list[Overlay]) -> None:
    """So `kubectl apply -k` applies what is tested here; the newest kubectl, 1.37, has the kustomize of these tests."""
    chosen = [overlay for overlay in overlays if overlay.canary or overlay.environment == "dev"]

    assert_nothing(
        (overlay, f"{title(one)} is another, or there is no such thing")
        for overlay in chosen
        for one in build(overlay.project, overlay.environment, "kustomize-oldest")[0]
        if one not in overlay.objects
    )


def test_a_service_has_the_same_selectors_whatever_else_was_answered(overlays: list[Overlay]) -> None:
    """They cannot be changed where they run, so no other answer and no later release may ask for others."""
    found = {str(overlay.one("Deployment")["spec"]["selector"]).replace(overlay.slug, "SLUG") for overlay in overlays}

    assert len(found) == 1
