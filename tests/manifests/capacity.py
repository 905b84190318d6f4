"""Checks of how many pods there are: what the autoscaler may do, who may take some away, and whether there is room."""

from collections.abc import Iterator

from rendered import Object, Overlay, containers, quantity, templates, title

# Fewer pods than this never serve in prod, whatever node is emptied.
ALWAYS_IN_PROD = 2


def where_pods_are_many_something_scales_them(overlay: Overlay) -> Iterator[str]:
    """One autoscaler and one budget for disruptions; in dev, which has one pod, neither."""
    for kind in ("HorizontalPodAutoscaler", "PodDisruptionBudget"):
        wanted = 0 if overlay.environment == "dev" else 1
        if len(overlay.of(kind)) != wanted:
            yield f"there are {len(overlay.of(kind))} of {kind}, not {wanted}"


def the_autoscaler_has_room_and_a_measure(overlay: Overlay) -> Iterator[str]:
    """It scales what has the pods, between bounds, by what those ask for, and down more slowly than up."""
    for one in overlay.of("HorizontalPodAutoscaler"):
        spec = one["spec"]
        owner = "Rollout" if overlay.canary else "Deployment"
        if (spec["scaleTargetRef"]["kind"], spec["scaleTargetRef"]["name"]) != (owner, overlay.slug):
            yield f"{title(one)}: scales {spec['scaleTargetRef']}"
        if not spec["minReplicas"] < spec["maxReplicas"]:
            yield f"{title(one)}: scales from {spec['minReplicas']} to {spec['maxReplicas']}"
        measured = {metric["resource"]["name"] for metric in spec["metrics"] if metric["type"] == "Resource"}
        if measured != {"cpu", "memory"}:
            yield f"{title(one)}: scales by {sorted(measured)}"
        for what, _, container in containers(overlay):
            if what.startswith("Deployment"):
                missing = measured - set(container.get("resources", {}).get("requests", {}))
                yield from (f"{title(one)}: {what} asks for no {name}, of which it takes shares" for name in missing)
        behavior = spec.get("behavior", {})
        up, down = (
            behavior.get(direction, {}).get("stabilizationWindowSeconds", default)
            for direction, default in (("scaleUp", 0), ("scaleDown", 0))
        )
        if not (
            up < down and all(behavior.get(direction, {}).get("policies") for direction in ("scaleUp", "scaleDown"))
        ):
            yield f"{title(one)}: goes down after {down} s, up after {up} s, by {behavior}"


def a_drain_takes_some_pods_and_never_too_many(overlay: Overlay) -> Iterator[str]:
    """Some, or no node could ever be emptied; and what is left has to serve."""
    for budget in overlay.of("PodDisruptionBudget"):
        spec = budget["spec"]
        if "minAvailable" in spec or not isinstance(spec.get("maxUnavailable"), int) or spec["maxUnavailable"] < 1:
            yield f"{title(budget)}: allows {spec.get('maxUnavailable')} away, {spec.get('minAvailable')} to stay"
            continue
        if spec.get("unhealthyPodEvictionPolicy") != "AlwaysAllow":
            yield f"{title(budget)}: keeps pods that serve nobody"
        for scaler in overlay.of("HorizontalPodAutoscaler"):
            left = scaler["spec"]["minReplicas"] - spec["maxUnavailable"]
            needed = ALWAYS_IN_PROD if overlay.environment == "prod" else 1
            if left < needed:
                of = scaler["spec"]["minReplicas"]
                yield f"{title(budget)}: leaves {left} of {of} pods, where {needed} are needed"


def _at_most(overlay: Overlay) -> tuple[int, Object, list[Object]]:
    """How many pods serve at most, during a roll-out, what one is; and what one of each Job is."""
    (deployment,) = [template for one, template in templates(overlay) if one["kind"] == "Deployment"]
    jobs = [template for one, template in templates(overlay) if one["kind"] == "Job"]
    surge = overlay.one("Deployment")["spec"]["strategy"]["rollingUpdate"]["maxSurge"]
    if overlay.canary:
        surge = overlay.one("Rollout")["spec"]["strategy"]["canary"]["maxSurge"]
    # One that ends keeps its share for a while, and another takes its place.
    ending = 1
    return overlay.one("HorizontalPodAutoscaler")["spec"]["maxReplicas"] + surge + ending, deployment, jobs


def the_quota_has_room_for_all_pods(overlay: Overlay) -> Iterator[str]:
    """Those at the autoscaler's upper bound, those of a roll-out, and the migration; and it does bound something."""
    for quota in overlay.of("ResourceQuota"):
        count, pod, jobs = _at_most(overlay)
        needed = {"pods": float(count + len(jobs))}
        for section, name in (("requests", "cpu"), ("requests", "memory"), ("limits", "memory")):
            each = [
                sum(quantity(container["resources"][section][name]) for container in one["spec"]["containers"])
                for one in (pod, *jobs)
            ]
            needed[f"{section}.{name}"] = count * each[0] + sum(each[1:])
        hard = {name: quantity(value) for name, value in quota["spec"]["hard"].items()}
        for name, amount in needed.items():
            if hard.get(name, 0) < amount:
                yield f"{title(quota)}: {name} is {hard.get(name, 0):g}, and may have to be {amount:g}"
            elif hard[name] > 3 * amount:
                yield f"{title(quota)}: {name} is {hard[name]:g}, far more than {amount:g}"


def every_container_fits_its_bounds(overlay: Overlay) -> Iterator[str]:
    """A LimitRange refuses what is larger, and what it gives those that say nothing must itself be allowed."""
    for bounds in overlay.of("LimitRange"):
        for limit in bounds["spec"]["limits"]:
            for name, most in limit.get("max", {}).items():
                for what, _, container in containers(overlay):
                    asked = container["resources"].get("limits", {}).get(name)
                    if asked is None or quantity(asked) > quantity(most):
                        yield f"{what}: may use {asked} of {name}, and {title(bounds)} allows {most}"
                if quantity(limit.get("default", {}).get(name, 0)) > quantity(most):
                    yield f"{title(bounds)}: gives more {name} than it allows"
            for name, given in limit.get("defaultRequest", {}).items():
                if name in limit.get("default", {}) and quantity(given) > quantity(limit["default"][name]):
                    yield f"{title(bounds)}: asks for more {name} than it gives"


def prod_bounds_what_its_namespace_uses(overlay: Overlay) -> Iterator[str]:
    """And only prod: elsewhere the cluster's own bounds have to do."""
    for kind in ("LimitRange", "ResourceQuota"):
        wanted = 1 if overlay.environment == "prod" else 0
        if len(overlay.of(kind)) != wanted:
            yield f"there are {len(overlay.of(kind))} of {kind}, not {wanted}"


CHECKS = (
    where_pods_are_many_something_scales_them,
    the_autoscaler_has_room_and_a_measure,
    a_drain_takes_some_pods_and_never_too_many,
    the_quota_has_room_for_all_pods,
    every_container_fits_its_bounds,
    prod_bounds_what_its_namespace_uses,
)
