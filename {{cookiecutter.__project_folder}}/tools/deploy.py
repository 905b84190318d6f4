"""`make deploy|rollback|diff|smoke ENV=…`: look whether it can be done, ask before prod, do it, wait until it is so.

What stands in the way is told at once, with what is right, and before anything is changed. How a release gets to the
cluster is `tools/delivery.py`'s.
"""

import os
import re
import sys
import tomllib
from collections.abc import Callable, Mapping

from tools import delivery
from tools.compose import ROOT
from tools.facts import FACTS
from tools.kubectl import Cluster, ClusterError, contexts, current_context, kubectl
from tools.overlay import IMAGE_REPOSITORY, SERVICE, Overlay, Target, environments, permitted, render
from tools.smoke import address_of, smoke

# The oldest Kubernetes that the manifests are for.
OLDEST = (1, 30)

# Who brings the kinds that Kubernetes itself does not have.
PROJECTS = {
    "argoproj.io": "Argo Rollouts (https://argo-rollouts.readthedocs.io)",
    "cert-manager.io": "cert-manager (https://cert-manager.io)",
    "external-secrets.io": "External Secrets Operator (https://external-secrets.io)",
    "gateway.networking.k8s.io": "Gateway API (https://gateway-api.sigs.k8s.io)",
    "monitoring.coreos.com": "Prometheus Operator (https://prometheus-operator.dev)",
}

# How long each waits, unless TIMEOUT says otherwise. A canary takes as long as its steps do.
PATIENCE_SECONDS = {"deploy": 600, "deploy canary": 3600, "rollback": 600, "diff": 60, "smoke": 120}


class RefusedError(Exception):
    """It cannot be done, for all of these reasons."""

    def __init__(self, *reasons: str) -> None:
        super().__init__("\n".join(reasons))
        self.reasons = reasons


def configured_contexts() -> dict[str, str]:
    """The context of each environment, as `k8s/contexts.toml` has it."""
    return tomllib.loads((ROOT / "k8s" / "contexts.toml").read_text(encoding="utf-8"))


def chosen_context(environment: str, configured: Mapping[str, str]) -> str:
    """The context to use; only for dev may it be the one that happens to be current."""
    chosen = os.environ.get("CONTEXT") or configured.get(environment, "")
    return chosen or (current_context() if environment == "dev" else "")


def context_problems(environment: str, context: str, configured: Mapping[str, str], known: list[str]) -> list[str]:
    """Why this context is not the one of that environment."""
    names = ", ".join(known) or "none"
    if not context:
        how = "write it into k8s/contexts.toml, or pass CONTEXT="
        return [f"No context is set for {environment}: {how}. kubectl knows: {names}."]
    others = [name for name, one in configured.items() if one == context and name != environment]
    if others and configured.get(environment) != context:
        return [f"The context {context} is the one of {', '.join(others)}, not of {environment} (k8s/contexts.toml)."]
    if context not in known:
        return [f"kubectl knows no context {context}. It knows: {names}."]
    return []


def cluster_problems(overlay: Overlay, cluster: Cluster) -> list[str]:
    """What the cluster lacks; nothing else can be asked of it when it does not answer."""
    try:
        server = cluster.server
    except ClusterError as error:
        return [f"The cluster of context {cluster.context} does not answer: {str(error).splitlines()[-1]}"]
    found = []
    version = tuple(int(re.sub(r"\D", "", server[part])) for part in ("major", "minor"))
    if version < OLDEST:
        needed = ".".join(map(str, OLDEST))
        found.append(f"The cluster runs Kubernetes {server['gitVersion']}: this needs {needed} or newer.")
    missing: dict[str, list[str]] = {}
    for manifest in overlay.manifests:
        group = manifest.api_version.partition("/")[0]
        kinds = missing.setdefault(group, [])
        if (manifest.api_version, manifest.kind) not in cluster.resources and manifest.kind not in kinds:
            kinds.append(manifest.kind)
    for group, kinds in missing.items():
        if kinds:
            project = PROJECTS.get(group, group)
            pronoun = "it" if len(kinds) == 1 else "them"
            found.append(
                f"The cluster does not know {', '.join(kinds)}: {project} brings {pronoun}, and is not installed."
            )
    return found


def image_problems(overlay: Overlay) -> list[str]:
    """An image by an old name of the service or of its images; and, but for dev, images that a push could replace."""
    release = f"make release ENV={overlay.environment} DIGEST=sha256:… VERSION=1.2.3"
    if not re.match(rf"{re.escape(IMAGE_REPOSITORY)}[:@]", overlay.image):
        old = f"k8s/overlays/{overlay.environment}/release has a name of before. Write it anew: {release}"
        return [f"{overlay.environment} would run {overlay.image}, and images are in {IMAGE_REPOSITORY}: {old}"]
    if overlay.environment == "dev":
        return []
    images = sorted({image for manifest in overlay.manifests for image in manifest.images})
    return [
        f"{overlay.environment} would run {image}, which has no digest. Write one: {release}"
        for image in images
        if not re.search(r"@sha256:[0-9a-f]{64}$", image)
    ]


def target(action: str, environment: str) -> Target:
    """What is asked for, when nothing stands in the way.

    Raises:
        RefusedError: something does.
    """
    if environment not in environments():
        asked = f"ENV is {environment}" if environment else "ENV is not set"
        raise RefusedError(f"{asked}: it is one of {', '.join(environments())}.")
    try:
        overlay = render(environment)
        configured = configured_contexts()
        context = chosen_context(environment, configured)
        known = contexts()
    except ClusterError as error:
        raise RefusedError(str(error)) from error
    found: list[str] = []
    cluster = None
    if context or action == "diff" or (action == "smoke" and not address_of(overlay)) or delivery.NEEDS_CONTEXT:
        found += context_problems(environment, context, configured, known)
        if not found:
            cluster = Cluster(context, overlay.namespace)
            found += cluster_problems(overlay, cluster)
    wanted = Target(overlay, cluster, patience(action, overlay))
    if action == "deploy":
        found += image_problems(overlay)
        # The way of delivery may ask the cluster, which has to be the right one, and to answer.
        found += [] if found else delivery.problems(wanted)
    if found:
        raise RefusedError(*found)
    return wanted


def confirm(action: str, wanted: Target, ask: Callable[[str], str] = input) -> None:
    """Let a person say the name of prod before it is changed.

    Raises:
        RefusedError: they did not.
    """
    if wanted.environment != "prod" or os.environ.get("CONFIRM") == "prod":
        return
    overlay = wanted.overlay
    context, server = "none: Argo CD knows its cluster", "-"
    if cluster := wanted.known_cluster:
        field = "jsonpath={.clusters[0].cluster.server}"
        context = cluster.context
        server = kubectl("config", "view", "--minify", "--context", context, "--output", field)
    facts = {"context": context, "server": server, "namespace": overlay.namespace, "image": overlay.image}
    facts["version"] = overlay.version
    sys.stdout.write(f"{action} prod\n" + "".join(f"  {name:9}  {value}\n" for name, value in facts.items()))
    if not sys.stdin.isatty():
        raise RefusedError("prod is changed only when somebody says so, and there is no terminal: pass CONFIRM=prod.")
    if ask("Type the name of the environment to go on: ").strip() != "prod":
        raise RefusedError("Not confirmed.")


def difference(wanted: Target) -> None:
    """Show what a deploy would change. The API server is asked for a dry run, which takes the permission to patch.

    Raises:
        ClusterError: it cannot be told.
    """
    manifests, left_out = permitted(wanted.overlay, wanted.cluster)
    # Each deploy replaces its Jobs, so they have nothing to be compared with.
    text = "---\n".join(manifest.text for manifest in manifests if manifest.kind != "Job")
    flags = ("--server-side", "--force-conflicts", "--field-manager", delivery.MANAGER)
    said = wanted.cluster.run("diff", *flags, "--filename", "-", text=text, accept=(0, 1))
    sys.stdout.write(f"{said or 'No difference.'}\n")
    if left_out:
        names = ", ".join(f"{manifest.kind} {manifest.name}" for manifest in left_out)
        sys.stdout.write(f"Not compared, as this user may not change them: {names}\n")


def expected(overlay: Overlay) -> dict[str, str]:
    """What has to answer: version and image of the release, or the version of this tree where nothing was released."""
    if not overlay.version or overlay.version == "unreleased":
        return {"version": str(FACTS["service"]["version"])}
    return {"version": overlay.version} | ({"image": overlay.image_digest} if overlay.image_digest else {})


def patience(action: str, overlay: Overlay) -> float:
    """How many seconds to wait."""
    usual = PATIENCE_SECONDS.get(f"{action} canary") if overlay.canary else None
    return float(os.environ.get("TIMEOUT") or usual or PATIENCE_SECONDS[action])


def act(action: str, wanted: Target) -> None:
    """Do what is asked for."""
    match action:
        case "deploy":
            delivery.deploy(wanted)
            sys.stdout.write(f"{wanted.environment} runs {wanted.overlay.image}\n")
        case "rollback":
            delivery.rollback(wanted)
        case "diff":
            difference(wanted)
        case _:
            released = expected(wanted.overlay)
            smoke(released, address_of(wanted.overlay), wanted.known_cluster, wanted.patience)
            sys.stdout.write(f"{SERVICE} {' '.join(released.values())} serves in {wanted.environment}.\n")


def main(arguments: list[str]) -> int:
    """Do one of `deploy`, `rollback`, `diff` and `smoke`; the exit code of the process."""
    action, environment = arguments
    try:
        wanted = target(action, environment)
        if action in {"deploy", "rollback"}:
            confirm(action, wanted)
    except RefusedError as error:
        sys.stderr.write("Nothing was changed.\n" + "".join(f"- {reason}\n" for reason in error.reasons))
        return 1
    try:
        act(action, wanted)
    except ClusterError as error:
        sys.stderr.write(f"{error}\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
