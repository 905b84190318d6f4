"""What kustomize makes of a service's overlays, and ways to look at it."""

import os
import subprocess
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path
from typing import Any

import components
import yaml
from conftest import ROOT

Object = dict[str, Any]

ENVIRONMENTS = ("dev", "staging", "prod")

# Every way to reach a service, to replace a version and to deliver it; then what else changes manifests, and the
# longest name that a service may have.
PROFILES: Mapping[str, Mapping[str, str]] = {
    "-".join(chosen): dict(zip(("exposure", "release_strategy", "deployment"), chosen, strict=True))
    for chosen in product(
        ("gateway-api", "ingress", "load-balancer", "cluster-internal"), ("rolling", "canary"), ("argocd", "kubectl")
    )
} | {
    "without-database": {"database": "none"},
    "without-database-canary-kubectl": {"database": "none", "release_strategy": "canary", "deployment": "kubectl"},
    "standard-image": {"production_image": "standard", "exposure": "ingress"},
    "longest-names": {
        "project_slug": "a" * 40,
        "team": "null",
        "release_strategy": "canary",
        "exposure": "load-balancer",
        "domain": "internal.example.org",
        "image_repository": "registry.example.org:5000/some/where/else",
    },
}


@dataclass(frozen=True)
class Overlay:
    """One environment of one service.

    Attributes:
        profile: which of `PROFILES` the service was generated from.
        answers: all answers, with the defaults.
        project: the generated tree.
        environment: dev, staging or prod.
        objects: what an API server would be given.
        warnings: what kustomize had to say.
    """

    profile: str
    answers: Mapping[str, str]
    project: Path
    environment: str
    objects: tuple[Object, ...]
    warnings: str = ""

    def __str__(self) -> str:
        return f"{self.profile}/{self.environment}"

    @property
    def slug(self) -> str:
        """The name of the service."""
        return self.answers["project_slug"]

    @property
    def canary(self) -> bool:
        """Whether a share of the pods gets a new version first."""
        return self.answers["release_strategy"] == "canary" and self.environment != "dev"

    def of(self, *kinds: str) -> list[Object]:
        """The objects of these kinds."""
        return [one for one in self.objects if one["kind"] in kinds]

    def one(self, kind: str, name: str = "") -> Object:
        """The only object of a kind, or the one with this name."""
        (found,) = [one for one in self.of(kind) if name in ("", one["metadata"]["name"])]
        return found

    def having(self, objects: tuple[Object, ...]) -> "Overlay":
        """The same with other objects."""
        return replace(self, objects=objects)


def render_all(cookies: Any) -> list[Overlay]:
    """Generate every profile, and build each overlay of it.

    Args:
        cookies: generates a project, as pytest-cookies does.
    """
    projects = {}
    for profile, answers in PROFILES.items():
        result = cookies.bake(extra_context=dict(answers), template=str(ROOT))
        assert result.exception is None, f"{profile}: {result.exception!r}"
        projects[profile] = (result.context, Path(result.project_path))
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        rendered = [
            pool.submit(render, profile, answers, project, environment)
            for profile, (answers, project) in projects.items()
            for environment in ENVIRONMENTS
        ]
        return [one.result() for one in rendered]


def render(profile: str, answers: Mapping[str, str], project: Path, environment: str) -> Overlay:
    """Build an overlay as `kustomize build` does."""
    objects, warnings = build(project, environment)
    return Overlay(profile, answers, project, environment, objects, warnings)


def build(project: Path, environment: str, kustomize: str = "kustomize") -> tuple[tuple[Object, ...], str]:
    """What a kustomize makes of an overlay, and what it warns of."""
    program = components.build(kustomize) / "kustomize"
    command = [str(program), "build", f"k8s/overlays/{environment}"]
    done = subprocess.run(command, cwd=project, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{project}: {' '.join(command)}: {done.stderr}"
    return tuple(one for one in yaml.load_all(done.stdout, yaml.CSafeLoader) if one), done.stderr


def title(one: Object) -> str:
    """What to call an object in a message."""
    return f"{one['kind']} {one['metadata']['name']}"


def labels(one: Object) -> Mapping[str, str]:
    """The labels of an object, or of a template's pods."""
    found: Mapping[str, str] = one.get("metadata", {}).get("labels", {})
    return found


def templates(overlay: Overlay) -> Iterator[tuple[Object, Object]]:
    """Each object that makes pods, with the template of its pods."""
    for one in overlay.of("Deployment", "Job"):
        yield one, one["spec"]["template"]


def containers(overlay: Overlay) -> Iterator[tuple[str, Object, Object]]:
    """Each container: what to call it, the pods' spec, its own."""
    for one, template in templates(overlay):
        for container in [*template["spec"].get("initContainers", []), *template["spec"]["containers"]]:
            yield f"{title(one)}, container {container['name']}", template["spec"], container


def matches(selector: Mapping[str, Any] | None, found: Mapping[str, str]) -> bool:
    """Whether a selector of labels takes these; an empty one takes all, and none at all takes nothing."""
    if selector is None:
        return False
    for name, value in selector.get("matchLabels", {}).items():
        if found.get(name) != value:
            return False
    for wanted in selector.get("matchExpressions", []):
        has, values = wanted["key"] in found, wanted.get("values", [])
        right = {
            "In": has and found.get(wanted["key"]) in values,
            "NotIn": not has or found[wanted["key"]] not in values,
            "Exists": has,
            "DoesNotExist": not has,
        }
        if not right[wanted["operator"]]:
            return False
    return True


def settings(overlay: Overlay, container: Object) -> dict[str, str]:
    """The environment of a container, as far as the manifests hold it."""
    found: dict[str, str] = {}
    for source in container.get("envFrom", []):
        if "configMapRef" in source:
            found |= overlay.one("ConfigMap", source["configMapRef"]["name"])["data"]
    return found | {one["name"]: one["value"] for one in container.get("env", []) if "value" in one}


_UNITS = {"": 1, "m": 0.001, "k": 1e3, "M": 1e6, "G": 1e9, "Ki": 2**10, "Mi": 2**20, "Gi": 2**30}


def quantity(text: str | float) -> float:
    """What a quantity of Kubernetes amounts to."""
    number = str(text).rstrip("kmMGi")
    return float(number) * _UNITS[str(text)[len(number) :]]
