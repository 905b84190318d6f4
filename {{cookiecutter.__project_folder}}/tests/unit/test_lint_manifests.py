"""`make lint-manifests`: what a schema does not know is a problem, unless a project brings its own kinds."""

import pytest

from tools.lint_manifests import unknown

SAID = "WARN prod.yaml Couldn't find schema for kind {} with api version {} for kubernetes version 1.30\n"


@pytest.mark.parametrize(
    ("kind", "api_version", "found"),
    [
        ("Deployment", "apps/v9", ["Kubernetes 1.30 knows no apps/v9 Deployment"]),
        ("Pot", "v1", ["Kubernetes 1.30 knows no v1 Pot"]),
        ("NetworkPolice", "networking.k8s.io/v1", ["Kubernetes 1.30 knows no networking.k8s.io/v1 NetworkPolice"]),
        ("ServiceMonitor", "monitoring.coreos.com/v1", []),
        ("Gateway", "gateway.networking.k8s.io/v1", []),
    ],
)
def test_a_kind_without_a_schema_is_one_that_another_project_brings(
    kind: str, api_version: str, found: list[str]
) -> None:
    assert unknown(SAID.format(kind, api_version)) == found
