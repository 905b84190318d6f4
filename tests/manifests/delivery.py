"""Checks of how releases come, how requests do, and that nothing is there that was not chosen."""

import re
from collections.abc import Iterator

from rendered import Object, Overlay, templates, title

# What each way to be reached consists of, beside its policy.
EXPOSED = {
    "gateway-api": {"Gateway": 1, "HTTPRoute": 2},
    "ingress": {"Ingress": 1},
    "load-balancer": {},
    "cluster-internal": {},
}


def only_the_chosen_entrance_is_there(overlay: Overlay) -> Iterator[str]:
    """And none in dev."""
    exposure = overlay.answers["exposure"] if overlay.environment != "dev" else "cluster-internal"
    for kind in ("Gateway", "HTTPRoute", "Ingress"):
        wanted = EXPOSED[exposure].get(kind, 0)
        if len(overlay.of(kind)) != wanted:
            yield f"there are {len(overlay.of(kind))} of {kind}, not {wanted}"
    for one in overlay.of("Service"):
        if one["spec"].get("type") in {"LoadBalancer", "NodePort"} and exposure != "load-balancer":
            yield f"{title(one)}: is open to the outside"


def the_entrance_has_the_name_of_its_environment(overlay: Overlay) -> Iterator[str]:
    """And tells ExternalDNS."""
    host = f"{overlay.slug}.{overlay.environment}.{overlay.answers['domain']}"
    named: list[tuple[str, object]] = []
    for one in overlay.of("Gateway"):
        named += [
            (f"{title(one)}, listener {listener['name']}", listener.get("hostname"))
            for listener in one["spec"]["listeners"]
        ]
    for one in overlay.of("HTTPRoute"):
        named += [(title(one), name) for name in one["spec"].get("hostnames", [None])]
    for one in overlay.of("Ingress"):
        named += [(title(one), rule.get("host")) for rule in one["spec"]["rules"]]
        named += [(f"{title(one)}, TLS", name) for tls in one["spec"].get("tls", []) for name in tls["hosts"]]
    public = [one for one in overlay.of("Service") if one["spec"].get("type") == "LoadBalancer"]
    for one in [*overlay.of("HTTPRoute", "Ingress"), *public]:
        told = one["metadata"].get("annotations", {}).get("external-dns.alpha.kubernetes.io/hostname")
        named.append((f"{title(one)}, for ExternalDNS", told))
    yield from (f"{what}: is called {name}, not {host}" for what, name in named if name != host)


def the_entrance_speaks_tls(overlay: Overlay) -> Iterator[str]:
    """With a certificate that cert-manager makes; whoever comes without is sent there."""
    for one in overlay.of("Gateway", "Ingress"):
        if "cert-manager.io/cluster-issuer" not in one["metadata"].get("annotations", {}):
            yield f"{title(one)}: nobody makes its certificate"
    for one in overlay.of("Ingress"):
        secured = {name for tls in one["spec"].get("tls", []) for name in tls["hosts"]}
        yield from (
            f"{title(one)}: {rule['host']} has no TLS" for rule in one["spec"]["rules"] if rule["host"] not in secured
        )
    for one in overlay.of("Gateway"):
        for listener in one["spec"]["listeners"]:
            if listener["protocol"] == "HTTPS" and not listener.get("tls", {}).get("certificateRefs"):
                yield f"{title(one)}: listener {listener['name']} has no certificate"
    for one in overlay.of("HTTPRoute"):
        sections = {parent.get("sectionName") for parent in one["spec"]["parentRefs"]}
        served = any(rule.get("backendRefs") for rule in one["spec"]["rules"])
        if served and sections != {"https"}:
            yield f"{title(one)}: serves through {sorted(map(str, sections))}"


def entrances_lead_to_the_service(overlay: Overlay) -> Iterator[str]:
    """By a Service and a port of it that exist."""
    ports = {one["metadata"]["name"]: one["spec"]["ports"] for one in overlay.of("Service")}
    for what, name, port in _backends(overlay):
        if name != overlay.slug:
            yield f"{what}: leads to {name}"
        elif port not in {known[key] for known in ports.get(name, []) for key in ("name", "port")}:
            yield f"{what}: leads to port {port} of {name}"
    gateways = {
        one["metadata"]["name"]: {each["name"] for each in one["spec"]["listeners"]} for one in overlay.of("Gateway")
    }
    for one in overlay.of("HTTPRoute"):
        for parent in one["spec"]["parentRefs"]:
            if parent.get("sectionName") not in gateways.get(parent["name"], set()):
                yield f"{title(one)}: comes from {parent}"


def _backends(overlay: Overlay) -> Iterator[tuple[str, str, object]]:
    for one in overlay.of("HTTPRoute"):
        for rule in one["spec"]["rules"]:
            yield from ((title(one), backend["name"], backend["port"]) for backend in rule.get("backendRefs", []))
    for one in overlay.of("Ingress"):
        for rule in one["spec"]["rules"]:
            for path in rule["http"]["paths"]:
                backend = path["backend"]["service"]
                yield title(one), backend["name"], backend["port"].get("name", backend["port"].get("number"))


def canaries_are_there_where_they_were_chosen(overlay: Overlay) -> Iterator[str]:
    """And nothing of Argo Rollouts elsewhere."""
    rollouts, analyses = overlay.of("Rollout"), overlay.of("AnalysisTemplate")
    if not overlay.canary:
        yield from (f"{title(one)}: nobody asked for it" for one in (*rollouts, *analyses))
        return
    if len(rollouts) != 1 or not analyses:
        yield f"there are {len(rollouts)} of Rollout and {len(analyses)} of AnalysisTemplate"
    for one in rollouts:
        if one["spec"].get("workloadRef", {}).get("name") != overlay.slug or "template" in one["spec"]:
            yield f"{title(one)}: describes pods of its own"
        deployment = overlay.one("Deployment")
        if one["spec"].get("selector") not in (None, deployment["spec"]["selector"]):
            yield f"{title(one)}: selects {one['spec']['selector']}"
        steps = one["spec"]["strategy"]["canary"]["steps"]
        if not any("analysis" in step for step in steps):
            yield f"{title(one)}: nobody judges the canary"
        if [step["setWeight"] for step in steps if "setWeight" in step] != sorted(
            step["setWeight"] for step in steps if "setWeight" in step
        ):
            yield f"{title(one)}: takes pods away from a good canary"


OWN_PODS = re.compile(r'pod=~"[a-z0-9-]+-{{args\.canary}}-\.\*"')


def canaries_are_judged_by_their_own_pods(overlay: Overlay) -> Iterator[str]:
    """A mean over all pods hides a bad one; and no answer may neither promote nor end it."""
    for one in overlay.of("AnalysisTemplate"):
        for metric in one["spec"]["metrics"]:
            what, query = f"{title(one)}, {metric['name']}", metric["provider"]["prometheus"]["query"]
            for condition in ("successCondition", "failureCondition"):
                if not metric.get(condition, "").startswith("len(result) > 0 && !isNaN(result[0]) && "):
                    yield f"{what}: {condition} does not know what to do without an answer"
            selectors = re.findall(r"(?<!{){(?!{)(?:[^{}]|{{[^{}]*}})*}", query)
            if not selectors or any(not OWN_PODS.search(selector) for selector in selectors):
                yield f"{what}: asks of other pods too"
            if "{{args.fewest-requests}}" not in query:
                yield f"{what}: judges by any number of requests"
            limit, fewest = float(metric["failureCondition"].split()[-1]), _argument(one, "fewest-requests")
            # Where users are, that is; nobody is hurt in staging.
            if overlay.environment == "prod" and fewest * limit < 1:
                yield f"{what}: one of {fewest:g} requests condemns it"
            if not metric.get("count") or metric.get("inconclusiveLimit", 0) >= metric["count"]:
                yield f"{what}: without an answer it goes on"


def _argument(template: Object, name: str) -> float:
    (value,) = [one["value"] for one in template["spec"]["args"] if one["name"] == name]
    return float(value)


def canaries_are_judged_by_the_objectives(overlay: Overlay) -> Iterator[str]:
    """By the series, and the bound of the histogram, that the recording rules measure the objectives by."""
    rules = (overlay.project / "observability" / "prometheus" / "recording.yml").read_text(encoding="utf-8")
    for one in overlay.of("AnalysisTemplate"):
        for metric in one["spec"]["metrics"]:
            query = metric["provider"]["prometheus"]["query"]
            for series in re.findall(r"\w+(?={)", query.replace("{{", "")):
                if not re.search(rf"\b{series}{{", rules):
                    yield f"{title(one)}, {metric['name']}: no objective is measured by {series}"
            for bound in re.findall(r'le="[^"]*"', query):
                if bound not in rules:
                    yield f"{title(one)}, {metric['name']}: {bound} is not the objective's"


# What stands in which wave of Argo CD.
WAVES = {
    "-1": {
        "ConfigMap",
        "ExternalSecret",
        "LimitRange",
        "Namespace",
        "NetworkPolicy",
        "ResourceQuota",
        "Role",
        "RoleBinding",
        "Secret",
        "ServiceAccount",
    },
    "0": {"Job"},
    "1": {"Deployment", "Rollout"},
}
ARGOCD = "argocd.argoproj.io/"


def argo_cd_is_told_what_comes_first(overlay: Overlay) -> Iterator[str]:
    """What pods need, then the schema, then the pods; and nobody else is told."""
    told = overlay.answers["deployment"] == "argocd"
    for one in overlay.objects:
        given = {
            key.removeprefix(ARGOCD): value
            for key, value in one["metadata"].get("annotations", {}).items()
            if key.startswith(ARGOCD)
        }
        if not told:
            yield from (f"{title(one)}: {key} is for Argo CD" for key in given)
            continue
        for wave, kinds in WAVES.items():
            if one["kind"] in kinds and given.get("sync-wave") != wave:
                yield f"{title(one)}: is in wave {given.get('sync-wave')}, not {wave}"
        wanted: dict[str, str | None] = {"hook": None, "hook-delete-policy": None}
        if one["kind"] == "Job":
            wanted = {"hook": "Sync", "hook-delete-policy": "BeforeHookCreation"}
        if one["kind"] == "Namespace":
            wanted["sync-options"] = "Prune=false,Delete=false"
        for key, value in wanted.items():
            if given.get(key) != value:
                yield f"{title(one)}: {key} is {given.get(key)}, not {value}"


def where_there_is_a_database_its_schema_is_brought_up_to_date(overlay: Overlay) -> Iterator[str]:
    """By one Job with the image, the settings and the secret of the pods; dev embeds its own."""
    wanted = 1 if overlay.answers["database"] == "postgresql" and overlay.environment != "dev" else 0
    for kind in ("Job", "ExternalSecret"):
        if len(overlay.of(kind)) != wanted:
            yield f"there are {len(overlay.of(kind))} of {kind}, not {wanted}"
    if not wanted:
        return
    (serving,), (migrating,) = (
        template["spec"]["containers"] for _, template in sorted(templates(overlay), key=lambda one: one[0]["kind"])
    )
    if migrating.get("args") != ["migrate"]:
        yield f"{title(overlay.one('Job'))}: runs {migrating.get('args')}"
    for key in ("image", "envFrom", "env"):
        if serving.get(key) != migrating.get(key):
            yield f"{title(overlay.one('Job'))}: {key} is not that of the pods: {migrating.get(key)}"
    spec = overlay.one("Job")["spec"]
    if not spec.get("activeDeadlineSeconds"):
        yield f"{title(overlay.one('Job'))}: may hang for ever"


def secrets_are_not_in_git(overlay: Overlay) -> Iterator[str]:
    """Only references are."""
    yield from (f"{title(one)}: is in Git" for one in overlay.of("Secret"))


def roles_give_no_more_than_is_done_with_them(overlay: Overlay) -> Iterator[str]:
    """No Secret, no right to give rights, nothing of everything; and whoever is on call only reads."""
    for one in overlay.of("Role"):
        for rule in one["rules"]:
            yield from _excess(one, rule)
    bound = {one["roleRef"]["name"] for one in overlay.of("RoleBinding")}
    yield from (f"{title(one)}: nobody has it" for one in overlay.of("Role") if one["metadata"]["name"] not in bound)
    for one in overlay.of("RoleBinding"):
        for subject in one["subjects"]:
            team = overlay.answers["team"]
            if subject["kind"] != "Group" or subject["name"] not in {f"{team}-deployers", f"{team}-on-call"}:
                yield f"{title(one)}: gives it to {subject['kind']} {subject['name']}"


def _excess(role: Object, rule: Object) -> Iterator[str]:
    if {"*", "escalate", "bind", "impersonate"} & set(rule["verbs"]) or "*" in rule["apiGroups"]:
        yield f"{title(role)}: {rule}"
    if "secrets" in rule["resources"] or ("*" in rule["resources"] and "" in rule["apiGroups"]):
        yield f"{title(role)}: reads Secrets"
    changes = set(rule["verbs"]) - {"get", "list", "watch"}
    if changes and (role["metadata"]["name"].endswith("-on-call") or "*" in rule["resources"]):
        yield f"{title(role)}: may {sorted(changes)} {rule['resources']}"
    if changes and {"roles", "rolebindings", "resourcequotas", "limitranges", "namespaces"} & set(rule["resources"]):
        yield f"{title(role)}: may {sorted(changes)} {rule['resources']}"


# What an administrator applies, and a pipeline may not.
ADMINISTRATORS = {"LimitRange", "Namespace", "ResourceQuota", "Role", "RoleBinding"}


def the_deployer_may_apply_what_there_is(overlay: Overlay) -> Iterator[str]:
    """A kind that is new in an overlay is new in the Role too, or the pipeline stops half-way."""
    allowed = {
        (group, resource)
        for one in overlay.of("Role")
        for rule in one["rules"]
        for group in rule["apiGroups"]
        for resource in rule["resources"]
        if one["metadata"]["name"].endswith("-deployer") and {"get", "create", "patch"} <= set(rule["verbs"])
    }
    for one in overlay.objects if overlay.of("Role") else ():
        plural = re.sub("(?<=[^aeiou])ys$", "ies", re.sub("sss$", "sses", f"{one['kind'].lower()}s"))
        if one["kind"] not in ADMINISTRATORS and (one["apiVersion"].rpartition("/")[0], plural) not in allowed:
            yield f"{title(one)}: the deployer may not apply {plural}"


BUILT_IN_GROUPS = {"", "apps", "batch", "autoscaling", "policy", "networking.k8s.io", "rbac.authorization.k8s.io"}


def dev_needs_nothing_that_a_cluster_lacks(overlay: Overlay) -> Iterator[str]:
    """No operator, no database, no entrance."""
    for one in overlay.objects if overlay.environment == "dev" else ():
        group = one["apiVersion"].rpartition("/")[0]
        if group not in BUILT_IN_GROUPS:
            yield f"{title(one)}: needs the definitions of {group}"


CHECKS = (
    only_the_chosen_entrance_is_there,
    the_entrance_has_the_name_of_its_environment,
    the_entrance_speaks_tls,
    entrances_lead_to_the_service,
    canaries_are_there_where_they_were_chosen,
    canaries_are_judged_by_their_own_pods,
    canaries_are_judged_by_the_objectives,
    argo_cd_is_told_what_comes_first,
    where_there_is_a_database_its_schema_is_brought_up_to_date,
    secrets_are_not_in_git,
    roles_give_no_more_than_is_done_with_them,
    the_deployer_may_apply_what_there_is,
    dev_needs_nothing_that_a_cluster_lacks,
)
