"""Checks of what pods are, may and need, and of how they begin and end."""

from collections.abc import Iterator

from facts import ask, facts
from rendered import Overlay, containers, labels, quantity, settings, templates, title

# https://kubernetes.io/docs/concepts/security/pod-security-standards/, the level `restricted`, and somewhat more.
POD = {"runAsNonRoot": True, "seccompProfile": {"type": "RuntimeDefault"}}
CONTAINER = {
    "allowPrivilegeEscalation": False,
    "readOnlyRootFilesystem": True,
    "capabilities": {"drop": ["ALL"]},
}
UID = {"distroless": 65532, "standard": 1001}
VOLUMES = {"configMap", "emptyDir", "projected", "secret"}


def pods_may_do_nothing_that_they_do_not_need(overlay: Overlay) -> Iterator[str]:
    """The namespace refuses more than that; a token it would let pass."""
    uid = UID[overlay.answers["production_image"]]
    for one, template in templates(overlay):
        spec = template["spec"]
        for name, wanted in {**POD, "runAsUser": uid, "runAsGroup": uid}.items():
            if spec.get("securityContext", {}).get(name) != wanted:
                yield f"{title(one)}: securityContext.{name} is not {wanted}"
        if spec.get("automountServiceAccountToken") is not False:
            yield f"{title(one)}: has a token for the API server"
        yield from (f"{title(one)}: {name}" for name in ("hostNetwork", "hostPID", "hostIPC") if spec.get(name))


def containers_may_do_nothing_that_they_do_not_need(overlay: Overlay) -> Iterator[str]:
    """Nor can what breaks into one write to its files."""
    for what, _, container in containers(overlay):
        context = container.get("securityContext", {})
        for name, wanted in CONTAINER.items():
            if context.get(name) != wanted:
                yield f"{what}: securityContext.{name} is not {wanted}"
        if set(context) - set(CONTAINER):
            yield f"{what}: securityContext has {sorted(set(context) - set(CONTAINER))}"


def volumes_are_small_and_of_the_pod(overlay: Overlay) -> Iterator[str]:
    """None of the node's, and none that grows until the node evicts others."""
    for one, template in templates(overlay):
        for volume in template["spec"].get("volumes", []):
            yield from (f"{title(one)}: a volume of {kind}" for kind in set(volume) - {"name"} - VOLUMES)
            if "emptyDir" in volume and not volume["emptyDir"].get("sizeLimit"):
                yield f"{title(one)}: volume {volume['name']} may grow without end"


def the_namespace_enforces_it(overlay: Overlay) -> Iterator[str]:
    """Whatever else is started there."""
    for one in overlay.of("Namespace"):
        for mode in ("enforce", "warn", "audit"):
            if labels(one).get(f"pod-security.kubernetes.io/{mode}") != "restricted":
                yield f"{title(one)}: {mode}s no restriction"


def accounts_have_no_token(overlay: Overlay) -> Iterator[str]:
    """Neither from the pod nor from its account."""
    for one in overlay.of("ServiceAccount"):
        if one.get("automountServiceAccountToken") is not False:
            yield f"{title(one)}: gives a token to its pods"


def containers_say_what_they_use(overlay: Overlay) -> Iterator[str]:
    """Memory is what is asked for, so that nobody else's growth kills the pod; CPU is asked for, and not limited."""
    for what, _, container in containers(overlay):
        requests, limits = (container.get("resources", {}).get(name, {}) for name in ("requests", "limits"))
        if not quantity(requests.get("cpu", 0)):
            yield f"{what}: asks for no CPU"
        if not limits.get("memory") or quantity(limits["memory"]) != quantity(requests.get("memory", 0)):
            yield f"{what}: may use {limits.get('memory')} of memory, and asks for {requests.get('memory')}"
        if "cpu" in limits:
            yield f"{what}: is throttled at {limits['cpu']} of CPU"


def images_are_those_of_a_release(overlay: Overlay) -> Iterator[str]:
    """Before the first release there is none, and the tag says so."""
    repository = overlay.answers["image_repository"]
    for what, _, container in containers(overlay):
        image = container["image"]
        _, _, digest = image.partition("@sha256:")
        if image != f"{repository}:unreleased" and not (image.startswith(f"{repository}@") and len(digest) == 64):
            yield f"{what}: runs {image}"


def pods_know_their_image(overlay: Overlay) -> Iterator[str]:
    """By the label that a release gives them; else a smoke test cannot tell it from another of the same version."""
    for what, _, container in containers(overlay):
        sources = [one["valueFrom"] for one in container.get("env", []) if one["name"] == "IMAGE_DIGEST"]
        if sources != [{"fieldRef": {"fieldPath": "metadata.labels['image-digest']"}}]:
            yield f"{what}: is not told its image"


def probes_ask_the_service(overlay: Overlay) -> Iterator[str]:
    """Each its own question at the port of the API, and none gives up before the service has had its time."""
    for what, _, container in containers(overlay):
        if not what.startswith("Deployment"):
            continue
        for name, path in (("startup", "startup"), ("liveness", "live"), ("readiness", "ready")):
            probe = container.get(f"{name}Probe", {})
            if probe.get("httpGet") != {"path": f"/health/{path}", "port": "http"}:
                yield f"{what}: {name} asks {probe.get('httpGet')}"
                continue
            # A dependency check may take 1 s.
            if probe.get("timeoutSeconds", 1) < 2:
                yield f"{what}: {name} waits for {probe.get('timeoutSeconds', 1)} s"
        startup, liveness = container.get("startupProbe", {}), container.get("livenessProbe", {})
        if startup.get("periodSeconds", 10) * startup.get("failureThreshold", 3) < 60:
            yield f"{what}: has less than a minute to start"
        if liveness.get("periodSeconds", 10) * liveness.get("failureThreshold", 3) < 20:
            yield f"{what}: is killed for a short pause"


def ports_are_those_of_the_service(overlay: Overlay) -> Iterator[str]:
    """What listens, by the names that Services and policies use."""
    for what, _, container in containers(overlay):
        if what.startswith("Deployment"):
            named = {port["name"]: port["containerPort"] for port in container.get("ports", [])}
            if named != facts(overlay)["ports"]:
                yield f"{what}: listens on {named}, not {facts(overlay)['ports']}"


def the_grace_period_is_longer_than_the_exit(overlay: Overlay) -> Iterator[str]:
    """What the preStop hook sleeps and the service may take, as the service itself says."""
    for what, spec, container in containers(overlay):
        if not what.startswith("Deployment"):
            continue
        hook = container.get("lifecycle", {}).get("preStop", {})
        slept = hook.get("sleep", {}).get("seconds", 0)
        if slept < 1:
            yield f"{what}: ends while requests still come"
        grace = spec.get("terminationGracePeriodSeconds", 30)
        needed = slept + ask(overlay, container).exit_seconds
        if grace <= needed:
            yield f"{what}: is killed after {grace} s, and may need {needed:g}"


def settings_are_ones_that_the_service_knows(overlay: Overlay) -> Iterator[str]:
    """A misspelt one would be ignored; a wrong one keeps the service from starting."""
    for what, _, container in containers(overlay):
        answer = ask(overlay, container)
        unknown = set(settings(overlay, container)).difference(answer.known)
        yield from (f"{what}: {name} is no setting" for name in sorted(unknown))
        if answer.refusal:
            yield f"{what}: {answer.refusal}"


def in_a_roll_out_no_capacity_is_lost(overlay: Overlay) -> Iterator[str]:
    """A pod goes when another is ready for a while; and a number of pods in Git would undo what the autoscaler did."""
    for one in overlay.of("Deployment"):
        if "replicas" in one["spec"]:
            yield f"{title(one)}: has a number of pods"
        if one["spec"]["strategy"].get("rollingUpdate") != {"maxSurge": 1, "maxUnavailable": 0}:
            yield f"{title(one)}: rolls by {one['spec']['strategy']}"
        if not one["spec"].get("minReadySeconds"):
            yield f"{title(one)}: goes on as soon as a new pod is ready once"


def spread_counts_the_pods_of_one_version(overlay: Overlay) -> Iterator[str]:
    """Counting those that a roll-out is about to remove would put the new ones where they should not be."""
    for one in overlay.of("Deployment"):
        for spread in one["spec"]["template"]["spec"].get("topologySpreadConstraints", []):
            if spread.get("matchLabelKeys") != ["pod-template-hash"] and not overlay.canary:
                yield f"{title(one)}: the spread over {spread['topologyKey']} counts old pods"
            if spread["whenUnsatisfiable"] != "ScheduleAnyway":
                yield f"{title(one)}: pods wait where there is only one {spread['topologyKey']}"


CHECKS = (
    pods_may_do_nothing_that_they_do_not_need,
    containers_may_do_nothing_that_they_do_not_need,
    volumes_are_small_and_of_the_pod,
    the_namespace_enforces_it,
    accounts_have_no_token,
    containers_say_what_they_use,
    images_are_those_of_a_release,
    pods_know_their_image,
    probes_ask_the_service,
    ports_are_those_of_the_service,
    the_grace_period_is_longer_than_the_exit,
    settings_are_ones_that_the_service_knows,
    in_a_roll_out_no_capacity_is_lost,
    spread_counts_the_pods_of_one_version,
)
