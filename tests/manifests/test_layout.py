"""The folder `k8s/` is what its documents say: files named by kind, components that are used, each with its page."""

import re
import shutil
from pathlib import Path

import identity
import pytest
import schemas
import yaml
from rendered import ENVIRONMENTS, Overlay, build

# Kustomize needs Go.
pytestmark = pytest.mark.ci

# Takes the place of another component by hand, where there is no operator.
ALTERNATIVE = "plain-secret"


@pytest.fixture(scope="module")
def projects(overlays: list[Overlay]) -> dict[Path, Overlay]:
    """Return each generated tree, with its overlay for prod."""
    return {overlay.project: overlay for overlay in overlays if overlay.environment == "prod"}


def test_a_file_is_named_by_the_kind_that_it_holds(projects: dict[Path, Overlay]) -> None:
    other = {
        str(path.relative_to(project))
        for project in projects
        for path in (project / "k8s").rglob("*.yaml")
        for one in yaml.safe_load_all(path.read_text(encoding="utf-8"))
        if path.name != "kustomization.yaml" and one["kind"].lower() != path.stem
    }

    # What components ask of an environment. It is a ConfigMap only because Kustomize takes nothing else as a source.
    assert other == {"k8s/overlays/staging/environment.yaml", "k8s/overlays/prod/environment.yaml"}


def test_every_component_has_a_page_and_is_used(projects: dict[Path, Overlay]) -> None:
    for project in projects:
        components = {path.name for path in (project / "k8s" / "components").iterdir()}
        overlays = [project / "k8s" / "overlays" / name / "kustomization.yaml" for name in ENVIRONMENTS]
        text = "\n".join(path.read_text(encoding="utf-8") for path in overlays)
        used = set(re.findall(r"^  - \.\./\.\./components/(\S+)$", text, re.MULTILINE))

        assert components - {ALTERNATIVE} == used
        for name in components:
            assert (project / "k8s" / "components" / name / "README.md").read_text(encoding="utf-8").startswith("# ")


def test_a_secret_from_a_file_takes_the_place_of_the_operator(projects: dict[Path, Overlay], tmp_path: Path) -> None:
    project, overlay = next(iter(projects.items()))
    shutil.copytree(project, tmp_path / "copy")
    k8s = tmp_path / "copy" / "k8s"
    (k8s / "components" / ALTERNATIVE / "secret.env").write_text(
        "STORAGE_URL=postgresql://user:password@host/database\n"
    )
    file = k8s / "overlays" / "prod" / "kustomization.yaml"
    file.write_text(
        file.read_text(encoding="utf-8").replace("components/external-secrets", f"components/{ALTERNATIVE}")
    )

    objects, warnings = build(tmp_path / "copy", "prod")

    (secret,) = [one for one in objects if one["kind"] == "Secret"]
    assert secret["metadata"]["name"].startswith(f"{overlay.slug}-database-")
    assert warnings == ""
    assert not [one for one in objects if one["kind"] == "ExternalSecret"]
    assert list(identity.what_is_referred_to_is_there(overlay.having(objects))) == []
    assert list(schemas.problems(objects)) == []


def test_a_field_that_kustomize_is_to_forget_is_warned_of(projects: dict[Path, Overlay], tmp_path: Path) -> None:
    shutil.copytree(next(iter(projects)), tmp_path / "copy")
    with (tmp_path / "copy" / "k8s" / "overlays" / "dev" / "kustomization.yaml").open("a") as file:
        file.write("commonAnnotations: {}\ncommonLabels: {}\n")

    assert "'commonLabels' is deprecated" in build(tmp_path / "copy", "dev")[1]
