"""What an overlay in `k8s/overlays` says once `kubectl kustomize` has rendered it, for the other tools."""

import os
import re
from dataclasses import dataclass
from functools import cached_property

from tools.compose import ROOT
from tools.facts import FACTS
from tools.kubectl import Cluster, ClusterError, kubectl

OVERLAYS = ROOT / "k8s" / "overlays"

# What images are called in manifests, and what a release makes of that; make hears the same variable.
SERVICE: str = FACTS["service"]["name"]
IMAGE_REPOSITORY: str = os.environ.get("IMAGE_REPOSITORY") or FACTS["service"]["image_repository"]

VERSION_LABEL = "app.kubernetes.io/version"

# A label holds 63 characters and a digest has 64; twelve tell images apart, as they do in what `docker images` lists.
DIGEST_LABEL = "image-digest"
DIGEST_DIGITS = 12


@dataclass(frozen=True)
class Manifest:
    """One object, in the text that Kustomize prints: keys sorted, two spaces for each level.

    That text is regular enough to be searched; the standard library reads no YAML.
    """

    text: str

    @cached_property
    def api_version(self) -> str:
        """Its group and version, such as `apps/v1`."""
        return self._found(r"^apiVersion: (\S+)$")

    @cached_property
    def kind(self) -> str:
        """What it is, such as `Deployment`."""
        return self._found(r"^kind: (\S+)$")

    @cached_property
    def name(self) -> str:
        """What it is called."""
        return self._found(r"^metadata:\n(?:  .*\n)*?  name: (\S+)$")

    @cached_property
    def namespace(self) -> str:
        """Where it is; nothing for an object of the whole cluster."""
        return self._found(r"^metadata:\n(?:  .*\n)*?  namespace: (\S+)$")

    @property
    def images(self) -> list[str]:
        """The images that its containers run."""
        return re.findall(r"^ +(?:- )?image: (\S+)$", self.text, re.MULTILINE)

    def _found(self, pattern: str) -> str:
        found = re.search(pattern, self.text, re.MULTILINE)
        return found[1].strip("\"'") if found else ""


@dataclass(frozen=True)
class Overlay:
    """The objects of one environment."""

    environment: str
    manifests: tuple[Manifest, ...]

    @property
    def namespace(self) -> str:
        """The namespace that all of it is in."""
        return next(manifest.namespace for manifest in self.manifests if manifest.namespace)

    @property
    def deployment(self) -> Manifest:
        """The one that holds the service."""
        return next(manifest for manifest in self.manifests if manifest.kind == "Deployment")

    @property
    def image(self) -> str:
        """What the service runs."""
        return self.deployment.images[0]

    @property
    def version(self) -> str:
        """The version that its pods say they are of."""
        return self._label(VERSION_LABEL)

    @property
    def image_digest(self) -> str:
        """The first digits of the digest of the image that its pods say they run; nothing before the first release."""
        return self._label(DIGEST_LABEL)

    def _label(self, name: str) -> str:
        found = re.findall(rf"^ +{name}: (\S+)$", self.deployment.text, re.MULTILINE)
        return str(found[-1]).strip("\"'") if found else ""

    @property
    def canary(self) -> bool:
        """Whether Argo Rollouts moves requests to a new version, and not the Deployment itself."""
        return any(manifest.kind == "Rollout" for manifest in self.manifests)

    @property
    def address(self) -> str:
        """Where the world finds the service; nothing when it is not exposed."""
        for manifest in self.manifests:
            if manifest.kind not in {"HTTPRoute", "Ingress", "Service"}:
                continue
            named = r"(?:hostnames:\n *- |- host: |external-dns\.alpha\.kubernetes\.io/hostname: )(\S+)"
            if host := re.search(named, manifest.text):
                scheme = "http" if manifest.kind == "Service" else "https"
                return f"{scheme}://{host[1]}"
        return ""


@dataclass(frozen=True)
class Target:
    """What is to be done to: the objects of an environment, and the cluster that they are for.

    Args:
        overlay: the objects.
        known_cluster: the cluster, where one is needed or a context for it was set.
        patience: how many seconds to wait for it to become what it should.
    """

    overlay: Overlay
    known_cluster: Cluster | None
    patience: float

    @property
    def environment(self) -> str:
        """What a person calls it."""
        return self.overlay.environment

    @property
    def cluster(self) -> Cluster:
        """The cluster.

        Raises:
            ClusterError: none is known.
        """
        if not self.known_cluster:
            raise ClusterError(f"No context is set for {self.environment}: pass CONTEXT=")
        return self.known_cluster


def environments() -> list[str]:
    """The environments that have an overlay."""
    return sorted(path.parent.name for path in OVERLAYS.glob("*/kustomization.yaml"))


def parse(rendered: str) -> tuple[Manifest, ...]:
    """The objects in what Kustomize printed, in its order."""
    return tuple(Manifest(text.strip() + "\n") for text in re.split(r"^---$", rendered, flags=re.MULTILINE) if text)


def render(environment: str) -> Overlay:
    """The overlay as it would be applied now.

    Raises:
        ClusterError: kubectl is missing, or the overlay is broken.
    """
    manifests = parse(kubectl("kustomize", str(OVERLAYS / environment)))
    if not any(manifest.kind == "Deployment" for manifest in manifests):
        raise ClusterError(f"k8s/overlays/{environment} renders no Deployment")
    return Overlay(environment, manifests)


# What an administrator may keep to themselves: whoever rolls out a version needs to change none of them.
ADMINISTRATED = {"Namespace", "Role", "RoleBinding", "ResourceQuota", "LimitRange"}


def permitted(overlay: Overlay, cluster: Cluster) -> tuple[list[Manifest], list[Manifest]]:
    """The objects that the user of the cluster applies, and those that are left to an administrator."""
    asked: dict[str, bool] = {}
    ours: list[Manifest] = []
    theirs: list[Manifest] = []
    for manifest in overlay.manifests:
        if manifest.kind in ADMINISTRATED and manifest.kind not in asked:
            asked[manifest.kind] = cluster.may_change(cluster.resources[manifest.api_version, manifest.kind])
        (ours if asked.get(manifest.kind, True) else theirs).append(manifest)
    return ours, theirs
