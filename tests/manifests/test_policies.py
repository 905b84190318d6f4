"""Checkov, which holds manifests to what is known to be safe, finds nothing but what is excepted beside the object."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from policies import judge
from rendered import Overlay
from test_broken_manifests import APP, SPEC, Mistake

# Kustomize needs Go.
pytestmark = pytest.mark.ci


@pytest.fixture(scope="module")
def verdicts(overlays: list[Overlay], tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, Any]:
    """Return what is said of each overlay."""
    return judge(overlays, tmp_path_factory.mktemp("policies"))


def test_nothing_is_found(verdicts: Mapping[str, Any]) -> None:
    found = {
        f"{one['object']}: {one['check']} {one['says']}": overlay
        for overlay, verdict in verdicts.items()
        for one in verdict["found"]
    }

    assert not found, "\n".join(f"{problem} (in {overlay})" for problem, overlay in found.items())
    assert all(verdict["passed"] > 50 for verdict in verdicts.values())


def test_every_exception_has_a_reason_and_is_needed_somewhere(
    verdicts: Mapping[str, Any], overlays: list[Overlay]
) -> None:
    written = {
        (one["kind"], *value.partition("=")[::2])
        for overlay in overlays
        for one in overlay.objects
        for name, value in one["metadata"].get("annotations", {}).items()
        if name.startswith("checkov.io/")
    }
    used = {
        (one["object"].partition(".")[0], one["check"], one["reason"])
        for verdict in verdicts.values()
        for one in verdict["excepted"]
    }

    assert all(len(reason) > 20 for _, _, reason in written)
    assert written == used


@pytest.mark.parametrize(
    ("mistake", "check"),
    [
        (Mistake("Deployment", f"{APP}.securityContext.privileged", True), "CKV_K8S_16"),
        (Mistake("Deployment", f"{APP}.resources.limits", {}), "CKV_K8S_13"),
        (Mistake("Deployment", f"{SPEC}.hostPID", True), "CKV_K8S_17"),
        (Mistake("Job", f"{SPEC}.automountServiceAccountToken", True), "CKV_K8S_38"),
    ],
    ids=str,
)
def test_a_mistake_is_found(mistake: Mistake, check: str, overlays: list[Overlay], tmp_path: Path) -> None:
    _, wrong = mistake.made(overlays)

    (verdict,) = judge([wrong], tmp_path).values()

    assert check in {one["check"] for one in verdict["found"]}
