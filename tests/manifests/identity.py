"""Checks of what objects are called, where they are, and who finds whom by which labels."""

import re
from collections import Counter
from collections.abc import Iterator

from rendered import Object, Overlay, labels, matches, templates, title

NAMESPACES = {"dev": "development", "staging": "staging", "prod": "production"}

STANDARD = ("name", "component", "part-of", "managed-by")


def every_object_carries_the_standard_labels(overlay: Overlay) -> Iterator[str]:
    """Without them nobody can list what belongs to a service."""
    carriers = [(title(one), one) for one in overlay.objects if one["kind"] != "Namespace"]
    pods = [(f"pods of {title(one)}", template) for one, template in templates(overlay)]
    for what, one in carriers + pods:
        found = labels(one)
        wanted = [*STANDARD, *(["version"] if one not in overlay.objects else [])]
        yield from (f"{what}: no label {name}" for name in wanted if not found.get(f"app.kubernetes.io/{name}"))
        if found.get("app.kubernetes.io/name", overlay.slug) != overlay.slug:
            yield f"{what}: is called {found['app.kubernetes.io/name']}, not {overlay.slug}"


def names_and_labels_fit(overlay: Overlay) -> Iterator[str]:
    """A Service's name is a DNS label, and every name becomes the value of a label somewhere: 63 characters."""
    for one in overlay.objects:
        name = one["metadata"]["name"]
        # The controller appends a hash and a suffix to these, and cuts what is too long; then labels tell nothing.
        limit = 63 - len("-0123456789-abcde") if one["kind"] in {"Deployment", "Rollout"} else 63
        if len(name) > limit:
            yield f"{title(one)}: {len(name)} characters, where {limit} are allowed"
        if not re.fullmatch(r"[a-z]([a-z0-9-]*[a-z0-9])?", name):
            yield f"{title(one)}: is no DNS label"
    for what, one in [(title(one), one) for one in overlay.objects] + [
        (f"pods of {title(one)}", template) for one, template in templates(overlay)
    ]:
        for key, value in labels(one).items():
            if not isinstance(value, str):
                yield f"{what}: label {key} is no text but {value!r}"
            elif not re.fullmatch(r"([A-Za-z0-9]([A-Za-z0-9._-]{0,61}[A-Za-z0-9])?)?", value):
                yield f"{what}: label {key} cannot be {value!r}"


def everything_is_in_the_namespace_of_its_environment(overlay: Overlay) -> Iterator[str]:
    """The Namespace alone belongs to the cluster."""
    wanted = NAMESPACES[overlay.environment]
    if [one["metadata"]["name"] for one in overlay.of("Namespace")] != [wanted]:
        yield f"Namespace {wanted} is not there once"
    for one in overlay.objects:
        if one["kind"] != "Namespace" and one["metadata"].get("namespace") != wanted:
            yield f"{title(one)}: is in {one['metadata'].get('namespace')}, not in {wanted}"
        if one["kind"].startswith("Cluster"):
            yield f"{title(one)}: belongs to the cluster"


def nothing_is_there_twice(overlay: Overlay) -> Iterator[str]:
    """Of two objects with one name, only one would remain."""
    counted = Counter(f"{one['apiVersion'].partition('/')[0]} {title(one)}" for one in overlay.objects)
    yield from (f"{name}: is there {count} times" for name, count in counted.items() if count > 1)


def _selectors(overlay: Overlay) -> Iterator[tuple[str, Object, str]]:
    """Each selector of this service's own pods, with the component that it is to take."""
    for one, template in templates(overlay):
        component = labels(template).get("app.kubernetes.io/component", "")
        if "selector" in one["spec"]:
            yield title(one), one["spec"]["selector"], component
        for spread in template["spec"].get("topologySpreadConstraints", []):
            yield f"{title(one)}, spread over {spread['topologyKey']}", spread["labelSelector"], component
    for one in overlay.of("Service"):
        yield title(one), {"matchLabels": one["spec"]["selector"]}, "api"
    for one in overlay.of("PodDisruptionBudget"):
        yield title(one), one["spec"]["selector"], "api"


def selectors_take_the_pods_that_they_are_meant_for(overlay: Overlay) -> Iterator[str]:
    """And no others: a Service that takes the pods of a Job sends them requests."""
    pods = [labels(template) for _, template in templates(overlay)]
    for what, selector, component in _selectors(overlay):
        taken = {found.get("app.kubernetes.io/component") for found in pods if matches(selector, found)}
        if taken != {component}:
            yield f"{what}: takes the pods of {sorted(map(str, taken)) or 'nobody'}, not of {component}"
        if "app.kubernetes.io/name" not in selector.get("matchLabels", {}):
            yield f"{what}: takes the pods of other services too"


def selectors_hold_nothing_that_changes(overlay: Overlay) -> Iterator[str]:
    """A Deployment's selector can never be changed again, so neither version nor environment may be in one."""
    for what, selector, _ in _selectors(overlay):
        held = set(selector.get("matchLabels", {})) - {"app.kubernetes.io/name", "app.kubernetes.io/component"}
        yield from (f"{what}: selects by {name}" for name in sorted(held))


def what_is_referred_to_is_there(overlay: Overlay) -> Iterator[str]:
    """A pod whose ConfigMap, Secret or account is missing never starts."""
    there = {(one["kind"], one["metadata"]["name"]) for one in overlay.objects}
    there |= {("Secret", one["spec"]["target"]["name"]) for one in overlay.of("ExternalSecret")}
    for what, kind, name in _references(overlay):
        if (kind, name) not in there:
            yield f"{what}: there is no {kind} {name}"


def _references(overlay: Overlay) -> Iterator[tuple[str, str, str]]:
    """Who refers to what, by kind and name."""
    for one, template in templates(overlay):
        yield title(one), "ServiceAccount", template["spec"]["serviceAccountName"]
        for container in template["spec"]["containers"]:
            yield from ((title(one), kind, name) for kind, name in _sources(container))
    for one in overlay.of("HorizontalPodAutoscaler"):
        yield title(one), one["spec"]["scaleTargetRef"]["kind"], one["spec"]["scaleTargetRef"]["name"]
    for one in overlay.of("RoleBinding"):
        yield title(one), one["roleRef"]["kind"], one["roleRef"]["name"]
    for one in overlay.of("Rollout"):
        yield title(one), one["spec"]["workloadRef"]["kind"], one["spec"]["workloadRef"]["name"]
        for step in one["spec"]["strategy"]["canary"]["steps"]:
            for template in step.get("analysis", {}).get("templates", []):
                yield title(one), "AnalysisTemplate", template["templateName"]


def _sources(container: Object) -> Iterator[tuple[str, str]]:
    """Where a container's environment comes from."""
    whole = [(source, "configMapRef", "secretRef") for source in container.get("envFrom", [])]
    single = [
        (variable.get("valueFrom", {}), "configMapKeyRef", "secretKeyRef") for variable in container.get("env", [])
    ]
    for source, *keys in whole + single:
        for key, kind in zip(keys, ("ConfigMap", "Secret"), strict=True):
            if key in source:
                yield kind, source[key]["name"]


CHECKS = (
    every_object_carries_the_standard_labels,
    names_and_labels_fit,
    everything_is_in_the_namespace_of_its_environment,
    nothing_is_there_twice,
    selectors_take_the_pods_that_they_are_meant_for,
    selectors_hold_nothing_that_changes,
    what_is_referred_to_is_there,
)
