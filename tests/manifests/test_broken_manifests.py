"""Every check of manifests finds what it is for: each mistake is made in what was rendered, and is told."""

import copy
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import capacity
import delivery
import differences
import identity
import monitoring
import network
import pods
import pytest
import schemas
from rendered import Object, Overlay
from test_manifests import CHECKS

# Kustomize needs Go.
pytestmark = pytest.mark.ci

GONE = object()


# Fields, as a fieldPath of kustomize names them.
SPEC = "spec.template.spec"
APP = f"{SPEC}.containers.0"


@dataclass(frozen=True)
class Mistake:
    """A wrong value in a rendered object.

    Attributes:
        kind: of the object.
        path: which of its fields.
        value: what it gets instead; or the field is gone.
        name: of the object, after the service's name; the first of its kind unless given.
        profile: which answers it was rendered for.
        environment: which overlay.
    """

    kind: str
    path: str
    value: Any
    name: str | None = None
    profile: str = "gateway-api-rolling-argocd"
    environment: str = "prod"

    def __str__(self) -> str:
        value = "gone" if self.value is GONE else str(self.value)[:40]
        return f"{self.kind}{self.name or ''} {self.path} {value}"

    def made(self, overlays: list[Overlay]) -> tuple[Overlay, Overlay]:
        """The overlay without it and with it."""
        (overlay,) = [one for one in overlays if str(one) == f"{self.profile}/{self.environment}"]
        objects = copy.deepcopy(overlay.objects)
        name = None if self.name is None else overlay.slug + self.name
        broken = next(one for one in objects if one["kind"] == self.kind and name in (None, plain(one)))
        put(broken, self.path, self.value)
        return overlay, overlay.having(objects)


def plain(one: Object) -> str:
    """The name of an object, without the hash that kustomize appends to that of a ConfigMap."""
    return re.sub("(?<=-settings)-[a-z0-9]{10}$", "", one["metadata"]["name"])


def put(one: Object, path: str, value: Any) -> None:
    """Change one field."""
    place: Any = one
    *parents, last = [key or name for key, name in re.findall(r"\[([^\]]+)\]|([^.\[\]]+)", path)]
    for step in parents:
        place = place[int(step)] if isinstance(place, list) else place.setdefault(step, {})
    key: Any = int(last) if isinstance(place, list) else last
    if value is GONE:
        del place[key]
    else:
        place[key] = value


Check = Callable[[Overlay], Iterator[str]]

CANARY = "gateway-api-canary-argocd"

# A check, the mistake, and a part of what is said of it.
MISTAKES: list[tuple[Check, Mistake, str]] = [
    # identity
    (
        identity.every_object_carries_the_standard_labels,
        Mistake("Role", "metadata.labels.[app.kubernetes.io/part-of]", GONE),
        "no label part-of",
    ),
    (
        identity.every_object_carries_the_standard_labels,
        Mistake("Job", "spec.template.metadata.labels.[app.kubernetes.io/version]", GONE),
        "pods of Job sre-demo-api-migration: no label version",
    ),
    (
        identity.every_object_carries_the_standard_labels,
        Mistake("Service", "metadata.labels.[app.kubernetes.io/name]", "other"),
        "is called other",
    ),
    (identity.names_and_labels_fit, Mistake("ConfigMap", "metadata.name", "a" * 64), "64 characters"),
    (identity.names_and_labels_fit, Mistake("Deployment", "metadata.name", "a" * 48), "48 characters"),
    (identity.names_and_labels_fit, Mistake("Service", "metadata.name", "1st"), "no DNS label"),
    (identity.names_and_labels_fit, Mistake("Service", "metadata.labels.team", "a b"), "cannot be 'a b'"),
    (identity.names_and_labels_fit, Mistake("Service", "metadata.labels.team", None), "is no text"),
    (
        identity.everything_is_in_the_namespace_of_its_environment,
        Mistake("Service", "metadata.namespace", "default"),
        "is in default",
    ),
    (
        identity.everything_is_in_the_namespace_of_its_environment,
        Mistake("Namespace", "metadata.name", "prod"),
        "Namespace production is not there",
    ),
    (
        identity.everything_is_in_the_namespace_of_its_environment,
        Mistake("Role", "kind", "ClusterRole"),
        "belongs to the cluster",
    ),
    (identity.nothing_is_there_twice, Mistake("Service", "metadata.name", "sre-demo-api-headless", ""), "2 times"),
    (
        identity.selectors_take_the_pods_that_they_are_meant_for,
        Mistake("Service", "spec.selector.[app.kubernetes.io/component]", "apis"),
        "takes the pods of nobody",
    ),
    (
        identity.selectors_take_the_pods_that_they_are_meant_for,
        Mistake("PodDisruptionBudget", "spec.selector.matchLabels.[app.kubernetes.io/component]", GONE),
        "takes the pods of ['api', 'migration']",
    ),
    (
        identity.selectors_take_the_pods_that_they_are_meant_for,
        Mistake("Deployment", f"{SPEC}.topologySpreadConstraints.0.labelSelector.matchLabels", {"app": "x"}),
        "spread over",
    ),
    (
        identity.selectors_take_the_pods_that_they_are_meant_for,
        Mistake("Service", "spec.selector.[app.kubernetes.io/name]", GONE),
        "of other services too",
    ),
    (
        identity.selectors_hold_nothing_that_changes,
        Mistake("Deployment", "spec.selector.matchLabels.[app.kubernetes.io/version]", "unreleased"),
        "selects by app.kubernetes.io/version",
    ),
    (
        identity.what_is_referred_to_is_there,
        Mistake("ConfigMap", "metadata.name", "sre-demo-api-settings", "-settings"),
        "there is no ConfigMap sre-demo-api-settings-",
    ),
    (
        identity.what_is_referred_to_is_there,
        Mistake("ExternalSecret", "spec.target.name", "other"),
        "there is no Secret sre-demo-api-database",
    ),
    (
        identity.what_is_referred_to_is_there,
        Mistake("ServiceAccount", "metadata.name", "other"),
        "there is no ServiceAccount sre-demo-api",
    ),
    (
        identity.what_is_referred_to_is_there,
        Mistake("AnalysisTemplate", "metadata.name", "other", profile=CANARY),
        "there is no AnalysisTemplate",
    ),
    # pods
    (
        pods.pods_may_do_nothing_that_they_do_not_need,
        Mistake("Deployment", f"{SPEC}.securityContext.runAsUser", 0),
        "runAsUser is not 65532",
    ),
    (
        pods.pods_may_do_nothing_that_they_do_not_need,
        Mistake("Deployment", f"{SPEC}.securityContext.runAsUser", 65532, profile="standard-image"),
        "runAsUser is not 1001",
    ),
    (
        pods.containers_may_do_nothing_that_they_do_not_need,
        Mistake("Job", f"{APP}.securityContext.readOnlyRootFilesystem", GONE),
        "readOnlyRootFilesystem is not True",
    ),
    (
        pods.containers_may_do_nothing_that_they_do_not_need,
        Mistake("Deployment", f"{APP}.securityContext.privileged", True),
        "securityContext has ['privileged']",
    ),
    (
        pods.pods_may_do_nothing_that_they_do_not_need,
        Mistake("Deployment", f"{SPEC}.automountServiceAccountToken", GONE),
        "has a token",
    ),
    (pods.pods_may_do_nothing_that_they_do_not_need, Mistake("Deployment", f"{SPEC}.hostNetwork", True), "hostNetwork"),
    (
        pods.volumes_are_small_and_of_the_pod,
        Mistake("Deployment", f"{SPEC}.volumes.0", {"name": "tmp", "hostPath": {"path": "/"}}),
        "a volume of hostPath",
    ),
    (
        pods.volumes_are_small_and_of_the_pod,
        Mistake("Deployment", f"{SPEC}.volumes.0.emptyDir", {}),
        "may grow without end",
    ),
    (
        pods.the_namespace_enforces_it,
        Mistake("Namespace", "metadata.labels.[pod-security.kubernetes.io/enforce]", "baseline"),
        "enforces no restriction",
    ),
    (
        pods.accounts_have_no_token,
        Mistake("ServiceAccount", "automountServiceAccountToken", GONE),
        "gives a token",
    ),
    (pods.containers_say_what_they_use, Mistake("Job", f"{APP}.resources.requests.cpu", GONE), "asks for no CPU"),
    (
        pods.containers_say_what_they_use,
        Mistake("Deployment", f"{APP}.resources.limits.memory", "1Gi"),
        "may use 1Gi of memory",
    ),
    (pods.containers_say_what_they_use, Mistake("Deployment", f"{APP}.resources.limits", GONE), "may use None"),
    (pods.containers_say_what_they_use, Mistake("Deployment", f"{APP}.resources.limits.cpu", "1"), "throttled"),
    (
        pods.images_are_those_of_a_release,
        Mistake("Deployment", f"{APP}.image", "ghcr.io/example-org/sre-demo-api:latest"),
        "runs ghcr.io/example-org/sre-demo-api:latest",
    ),
    (
        pods.images_are_those_of_a_release,
        Mistake("Job", f"{APP}.image", f"elsewhere@sha256:{'0' * 64}"),
        "runs elsewhere",
    ),
    (
        pods.probes_ask_the_service,
        Mistake("Deployment", f"{APP}.livenessProbe.httpGet.path", "/health/ready"),
        "liveness asks",
    ),
    (pods.probes_ask_the_service, Mistake("Deployment", f"{APP}.startupProbe", GONE), "startup asks None"),
    (pods.probes_ask_the_service, Mistake("Deployment", f"{APP}.readinessProbe.timeoutSeconds", 1), "waits for 1 s"),
    (pods.probes_ask_the_service, Mistake("Deployment", f"{APP}.startupProbe.failureThreshold", 3), "to start"),
    (pods.probes_ask_the_service, Mistake("Deployment", f"{APP}.livenessProbe.periodSeconds", 1), "short pause"),
    (pods.ports_are_those_of_the_service, Mistake("Deployment", f"{APP}.ports.0.containerPort", 8080), "listens on"),
    (
        pods.the_grace_period_is_longer_than_the_exit,
        Mistake("Deployment", f"{SPEC}.terminationGracePeriodSeconds", 38),
        "is killed after 38 s, and may need 40",
    ),
    (
        pods.the_grace_period_is_longer_than_the_exit,
        Mistake("ConfigMap", "data.DRAIN_SECONDS", "10", "-settings"),
        "is killed after 45 s, and may need 48",
    ),
    (pods.the_grace_period_is_longer_than_the_exit, Mistake("Deployment", f"{APP}.lifecycle", GONE), "still come"),
    (
        pods.settings_are_ones_that_the_service_knows,
        Mistake("ConfigMap", "data.LOGLEVEL", "INFO", "-settings"),
        "LOGLEVEL is no setting",
    ),
    (
        pods.settings_are_ones_that_the_service_knows,
        Mistake("ConfigMap", "data.LOG_LEVEL", "LOUD", "-settings"),
        "LOG_LEVEL",
    ),
    (
        pods.settings_are_ones_that_the_service_knows,
        Mistake("Deployment", f"{APP}.env", []),
        "STORAGE_URL",
    ),
    (pods.pods_know_their_image, Mistake("Deployment", f"{APP}.env.0", GONE), "is not told its image"),
    (pods.in_a_roll_out_no_capacity_is_lost, Mistake("Deployment", "spec.replicas", 3), "has a number of pods"),
    (
        pods.in_a_roll_out_no_capacity_is_lost,
        Mistake("Deployment", "spec.strategy", {"type": "Recreate"}),
        "rolls by",
    ),
    (pods.in_a_roll_out_no_capacity_is_lost, Mistake("Deployment", "spec.minReadySeconds", GONE), "ready once"),
    (
        pods.spread_counts_the_pods_of_one_version,
        Mistake("Deployment", f"{SPEC}.topologySpreadConstraints.0.matchLabelKeys", GONE),
        "counts old pods",
    ),
    (
        pods.spread_counts_the_pods_of_one_version,
        Mistake("Deployment", f"{SPEC}.topologySpreadConstraints.0.whenUnsatisfiable", "DoNotSchedule"),
        "pods wait",
    ),
    # network
    (
        network.everything_is_closed_both_ways,
        Mistake("NetworkPolicy", "spec.policyTypes", ["Ingress"], "-default-deny"),
        "no policy denies egress",
    ),
    (
        network.everything_is_closed_both_ways,
        Mistake("NetworkPolicy", "spec.ingress", [{}], "-default-deny"),
        "no policy denies ingress",
    ),
    (
        network.holes_are_for_the_ports_of_the_service,
        Mistake("NetworkPolicy", "spec.ingress.0.ports.0.port", 8080, "-allow-clients"),
        "may be reached at",
    ),
    (
        network.holes_are_for_the_ports_of_the_service,
        Mistake("NetworkPolicy", "spec.ingress.0.ports.0.port", "metrics", "-allow-clients"),
        "allow-clients shows the metrics",
    ),
    (
        network.holes_are_for_the_ports_of_the_service,
        Mistake("NetworkPolicy", "spec.ingress.0.ports", GONE, "-allow-prometheus"),
        "('every', 'port')",
    ),
    (
        network.holes_lead_where_the_settings_do,
        Mistake("NetworkPolicy", "spec.egress.0.ports.0.port", 5433, "-allow-database"),
        "('TCP', 5433)",
    ),
    (
        network.holes_lead_where_the_settings_do,
        Mistake("ConfigMap", "data.OTEL_EXPORTER_OTLP_ENDPOINT", "http://collector:4319", "-settings"),
        "has to [('TCP', 4319)",
    ),
    (
        network.holes_lead_where_the_settings_do,
        Mistake("NetworkPolicy", "spec.egress.0.ports.1.protocol", "UDP", "-allow-dns"),
        "has to",
    ),
    (
        network.only_the_cluster_s_own_dns_answers,
        Mistake("NetworkPolicy", "spec.egress.0.to.0.podSelector.matchLabels.env", "prod", "-allow-dns"),
        "leads to",
    ),
    (
        network.every_hole_says_for_whom,
        Mistake("NetworkPolicy", "spec.ingress.0.from", GONE, "-allow-clients"),
        "ingress for everybody",
    ),
    (
        network.every_hole_says_for_whom,
        Mistake("NetworkPolicy", "spec.ingress.0.from.0.podSelector", GONE, "-allow-clients"),
        "every pod of the cluster",
    ),
    (
        network.every_hole_says_for_whom,
        Mistake("NetworkPolicy", "spec.egress.0.to.0", {"ipBlock": {"cidr": "0.0.0.0/0"}}, "-allow-database"),
        "the whole world",
    ),
    (
        network.services_lead_to_ports_that_exist,
        Mistake("Service", "spec.ports.0.targetPort", "web"),
        "port web is none of",
    ),
    (
        network.services_are_what_others_know_them_as,
        Mistake("Service", "spec.ports.0.port", 8080, ""),
        "listens on",
    ),
    (
        network.services_are_what_others_know_them_as,
        Mistake("Service", "spec.clusterIP", GONE, "-headless"),
        "has an address",
    ),
    (
        network.services_are_what_others_know_them_as,
        Mistake("Service", "spec.ports.1.port", 9001, "-headless"),
        "has the ports",
    ),
    (
        network.services_are_what_others_know_them_as,
        Mistake("Service", "spec.type", "NodePort", ""),
        "the Services are",
    ),
    # capacity
    (
        capacity.where_pods_are_many_something_scales_them,
        Mistake("PodDisruptionBudget", "kind", "Other"),
        "there are 0 of PodDisruptionBudget",
    ),
    (
        capacity.the_autoscaler_has_room_and_a_measure,
        Mistake("HorizontalPodAutoscaler", "spec.scaleTargetRef.kind", "Deployment", profile=CANARY),
        "scales {",
    ),
    (
        capacity.the_autoscaler_has_room_and_a_measure,
        Mistake("HorizontalPodAutoscaler", "spec.maxReplicas", 3),
        "scales from 3 to 3",
    ),
    (
        capacity.the_autoscaler_has_room_and_a_measure,
        Mistake("HorizontalPodAutoscaler", "spec.metrics.1", {"type": "Object"}),
        "scales by ['cpu']",
    ),
    (
        capacity.the_autoscaler_has_room_and_a_measure,
        Mistake("Deployment", f"{APP}.resources.requests.cpu", GONE),
        "asks for no cpu",
    ),
    (
        capacity.the_autoscaler_has_room_and_a_measure,
        Mistake("HorizontalPodAutoscaler", "spec.behavior.scaleDown", GONE),
        "goes down after 0 s",
    ),
    (
        capacity.a_drain_takes_some_pods_and_never_too_many,
        Mistake("PodDisruptionBudget", "spec.maxUnavailable", 2),
        "leaves 1 of 3 pods, where 2 are needed",
    ),
    (
        capacity.a_drain_takes_some_pods_and_never_too_many,
        Mistake("PodDisruptionBudget", "spec.maxUnavailable", 0),
        "allows 0 away",
    ),
    (
        capacity.a_drain_takes_some_pods_and_never_too_many,
        Mistake("HorizontalPodAutoscaler", "spec.minReplicas", 1, environment="staging"),
        "leaves 0 of 1 pods",
    ),
    (
        capacity.a_drain_takes_some_pods_and_never_too_many,
        Mistake("PodDisruptionBudget", "spec.unhealthyPodEvictionPolicy", GONE),
        "serve nobody",
    ),
    (
        capacity.the_quota_has_room_for_all_pods,
        Mistake("HorizontalPodAutoscaler", "spec.maxReplicas", 40),
        "pods is 24, and may have to be 43",
    ),
    (
        capacity.the_quota_has_room_for_all_pods,
        Mistake("ResourceQuota", "spec.hard.[limits.memory]", "3Gi"),
        "limits.memory is",
    ),
    (
        capacity.the_quota_has_room_for_all_pods,
        Mistake("ResourceQuota", "spec.hard.[requests.cpu]", "100"),
        "far more than",
    ),
    (
        capacity.every_container_fits_its_bounds,
        Mistake("LimitRange", "spec.limits.0.max.memory", "128Mi"),
        "allows 128Mi",
    ),
    (
        capacity.every_container_fits_its_bounds,
        Mistake("LimitRange", "spec.limits.0.default.memory", "2Gi"),
        "gives more memory than it allows",
    ),
    (
        capacity.every_container_fits_its_bounds,
        Mistake("LimitRange", "spec.limits.0.defaultRequest.memory", "1Gi"),
        "asks for more memory",
    ),
    (
        capacity.prod_bounds_what_its_namespace_uses,
        Mistake("ResourceQuota", "kind", "Other"),
        "there are 0 of ResourceQuota",
    ),
    # monitoring
    (
        monitoring.one_service_is_scraped_at_a_port_that_it_has,
        Mistake("Service", "metadata.labels.[app.kubernetes.io/component]", "metrics", ""),
        "scrapes [",
    ),
    (
        monitoring.one_service_is_scraped_at_a_port_that_it_has,
        Mistake("ServiceMonitor", "spec.endpoints.0.port", "9000"),
        "scrapes port 9000",
    ),
    (
        monitoring.one_service_is_scraped_at_a_port_that_it_has,
        Mistake("ServiceMonitor", "kind", "PodMonitor"),
        "there are 0 of ServiceMonitor",
    ),
    (
        monitoring.series_are_called_as_rules_and_dashboards_do,
        Mistake("ServiceMonitor", "spec.endpoints.0.relabelings", []),
        "the job is []",
    ),
    (
        monitoring.rules_are_those_that_were_tested,
        Mistake("PrometheusRule", "spec.groups.0.rules.0.expr", "up", "-recording"),
        "is 'up', not",
    ),
    (
        monitoring.rules_are_those_that_were_tested,
        Mistake("PrometheusRule", "spec.groups.0.rules.0.labels.severity", "page", "-alerts", environment="staging"),
        "is 'page', not 'ticket'",
    ),
    (
        monitoring.rules_are_those_that_were_tested,
        Mistake("PrometheusRule", "spec.groups.0.rules.0", GONE, "-alerts"),
        "is None, not",
    ),
    (
        monitoring.rules_are_those_that_were_tested,
        Mistake("PrometheusRule", "metadata.name", "other"),
        "the rules are in",
    ),
    (
        monitoring.dashboards_are_those_of_the_local_stack,
        Mistake("ConfigMap", "metadata.labels.grafana_dashboard", GONE, "-dashboard-slo"),
        "the dashboards are",
    ),
    (
        monitoring.dashboards_are_those_of_the_local_stack,
        Mistake("ConfigMap", "data.[sre-demo-api-slo-error-budget.json]", "{}", "-dashboard-slo"),
        "dashboard slo-error-budget.json",
    ),
    # delivery
    (
        delivery.only_the_chosen_entrance_is_there,
        Mistake("HTTPRoute", "kind", "Ingress"),
        "there are 1 of Ingress, not 0",
    ),
    (
        delivery.only_the_chosen_entrance_is_there,
        Mistake("Service", "spec.type", "LoadBalancer"),
        "is open to the outside",
    ),
    (
        delivery.the_entrance_has_the_name_of_its_environment,
        Mistake("HTTPRoute", "spec.hostnames.0", "replaced.invalid"),
        "is called replaced.invalid",
    ),
    (
        delivery.the_entrance_has_the_name_of_its_environment,
        Mistake("Gateway", "spec.listeners.1.hostname", GONE),
        "listener https: is called None",
    ),
    (
        delivery.the_entrance_has_the_name_of_its_environment,
        Mistake("Ingress", "spec.tls.0.hosts.0", "other", profile="ingress-rolling-kubectl"),
        "TLS: is called other",
    ),
    (
        delivery.the_entrance_has_the_name_of_its_environment,
        Mistake("Service", "metadata.annotations", {}, "-public", profile="load-balancer-canary-argocd"),
        "for ExternalDNS: is called None",
    ),
    (
        delivery.the_entrance_speaks_tls,
        Mistake("Gateway", "spec.listeners.1.tls", {"mode": "Terminate"}),
        "has no certificate",
    ),
    (delivery.the_entrance_speaks_tls, Mistake("Gateway", "metadata.annotations", {}), "nobody makes"),
    (
        delivery.the_entrance_speaks_tls,
        Mistake("HTTPRoute", "spec.parentRefs.0.sectionName", "http", ""),
        "serves through ['http']",
    ),
    (
        delivery.the_entrance_speaks_tls,
        Mistake("Ingress", "spec.tls", GONE, profile="ingress-rolling-kubectl"),
        "has no TLS",
    ),
    (
        delivery.entrances_lead_to_the_service,
        Mistake("HTTPRoute", "spec.rules.0.backendRefs.0.port", 8000, ""),
        "leads to port 8000",
    ),
    (
        delivery.entrances_lead_to_the_service,
        Mistake("HTTPRoute", "spec.rules.0.backendRefs.0.name", "other", ""),
        "leads to other",
    ),
    (
        delivery.entrances_lead_to_the_service,
        Mistake("HTTPRoute", "spec.parentRefs.0.sectionName", "web", ""),
        "comes from",
    ),
    (
        delivery.entrances_lead_to_the_service,
        Mistake(
            "Ingress", "spec.rules.0.http.paths.0.backend.service.port.name", "web", profile="ingress-rolling-kubectl"
        ),
        "leads to port web",
    ),
    (
        delivery.canaries_are_there_where_they_were_chosen,
        Mistake("Role", "kind", "Rollout"),
        "nobody asked for it",
    ),
    (
        delivery.canaries_are_there_where_they_were_chosen,
        Mistake("Rollout", "kind", "Other", profile=CANARY),
        "there are 0 of Rollout",
    ),
    (
        delivery.canaries_are_there_where_they_were_chosen,
        Mistake("Rollout", "spec.workloadRef.name", "other", profile=CANARY),
        "describes pods of its own",
    ),
    (
        delivery.canaries_are_there_where_they_were_chosen,
        Mistake("Rollout", "spec.selector.matchLabels.x", "y", profile=CANARY),
        "selects",
    ),
    (
        delivery.canaries_are_there_where_they_were_chosen,
        Mistake("Rollout", "spec.strategy.canary.steps", [{"setWeight": 50}, {"setWeight": 20}], profile=CANARY),
        "nobody judges the canary",
    ),
    (
        delivery.canaries_are_there_where_they_were_chosen,
        Mistake("Rollout", "spec.strategy.canary.steps.0.setWeight", 90, profile=CANARY),
        "takes pods away",
    ),
    (
        delivery.canaries_are_judged_by_their_own_pods,
        Mistake("AnalysisTemplate", "spec.metrics.0.successCondition", "result[0] < 1", profile=CANARY),
        "successCondition does not know",
    ),
    (
        delivery.canaries_are_judged_by_their_own_pods,
        Mistake(
            "AnalysisTemplate",
            "spec.metrics.0.provider.prometheus.query",
            'sum(x{job="{{args.job}}"}) / sum(x{pod=~"sre-demo-api-{{args.canary}}-.*"})',
            profile=CANARY,
        ),
        "asks of other pods too",
    ),
    (
        delivery.canaries_are_judged_by_their_own_pods,
        Mistake("AnalysisTemplate", "spec.metrics.1.provider.prometheus.query", "x", profile=CANARY),
        "judges by any number of requests",
    ),
    (
        delivery.canaries_are_judged_by_their_own_pods,
        Mistake("AnalysisTemplate", "spec.args.4.value", "50", profile=CANARY),
        "one of 50 requests condemns it",
    ),
    (
        delivery.canaries_are_judged_by_their_own_pods,
        Mistake("AnalysisTemplate", "spec.metrics.0.inconclusiveLimit", 5, profile=CANARY),
        "without an answer it goes on",
    ),
    (
        delivery.argo_cd_is_told_what_comes_first,
        Mistake("Deployment", "metadata.annotations.[argocd.argoproj.io/sync-wave]", "0"),
        "is in wave 0, not 1",
    ),
    (
        delivery.argo_cd_is_told_what_comes_first,
        Mistake("Job", "metadata.annotations.[argocd.argoproj.io/hook-delete-policy]", "HookSucceeded"),
        "hook-delete-policy is HookSucceeded",
    ),
    (
        delivery.argo_cd_is_told_what_comes_first,
        Mistake("Namespace", "metadata.annotations.[argocd.argoproj.io/sync-options]", "Prune=false"),
        "sync-options is Prune=false",
    ),
    (
        delivery.argo_cd_is_told_what_comes_first,
        Mistake(
            "Deployment",
            "metadata.annotations.[argocd.argoproj.io/sync-wave]",
            "1",
            profile="gateway-api-rolling-kubectl",
        ),
        "sync-wave is for Argo CD",
    ),
    (
        delivery.where_there_is_a_database_its_schema_is_brought_up_to_date,
        Mistake("Job", f"{APP}.args", ["serve"]),
        "runs ['serve']",
    ),
    (
        delivery.where_there_is_a_database_its_schema_is_brought_up_to_date,
        Mistake("Job", f"{APP}.image", "other"),
        "image is not that of the pods",
    ),
    (
        delivery.where_there_is_a_database_its_schema_is_brought_up_to_date,
        Mistake("ExternalSecret", "kind", "Secret"),
        "there are 0 of ExternalSecret",
    ),
    (
        delivery.where_there_is_a_database_its_schema_is_brought_up_to_date,
        Mistake("Job", "spec.activeDeadlineSeconds", GONE),
        "may hang for ever",
    ),
    (delivery.secrets_are_not_in_git, Mistake("ConfigMap", "kind", "Secret"), "is in Git"),
    (
        delivery.roles_give_no_more_than_is_done_with_them,
        Mistake("Role", "rules.0.resources", ["secrets"]),
        "reads Secrets",
    ),
    (
        delivery.roles_give_no_more_than_is_done_with_them,
        Mistake("Role", "rules.0.verbs", ["*"]),
        "'*'",
    ),
    (
        delivery.roles_give_no_more_than_is_done_with_them,
        Mistake("Role", "rules.0.verbs", ["patch"], "-on-call"),
        "may ['patch']",
    ),
    (
        delivery.roles_give_no_more_than_is_done_with_them,
        Mistake("Role", "rules.0.resources", ["resourcequotas"], "-deployer"),
        "['resourcequotas']",
    ),
    (
        delivery.roles_give_no_more_than_is_done_with_them,
        Mistake("RoleBinding", "subjects.0.name", "system:authenticated"),
        "gives it to Group system:authenticated",
    ),
    (
        delivery.roles_give_no_more_than_is_done_with_them,
        Mistake("RoleBinding", "roleRef.name", "other"),
        "nobody has it",
    ),
    (
        delivery.dev_needs_nothing_that_a_cluster_lacks,
        Mistake("Service", "apiVersion", "serving.knative.dev/v1", environment="dev"),
        "needs the definitions of serving.knative.dev",
    ),
    (
        delivery.canaries_are_judged_by_the_objectives,
        Mistake(
            "AnalysisTemplate",
            "spec.metrics.0.provider.prometheus.query",
            'sum(requests_total{job="{{args.job}}"})',
            profile=CANARY,
        ),
        "no objective is measured by requests_total",
    ),
    (
        delivery.canaries_are_judged_by_the_objectives,
        Mistake(
            "AnalysisTemplate",
            "spec.metrics.1.provider.prometheus.query",
            'sum(http_request_duration_seconds_bucket{le="0.25"})',
            profile=CANARY,
        ),
        'le="0.25" is not',
    ),
    (
        delivery.the_deployer_may_apply_what_there_is,
        Mistake("Service", "kind", "EndpointSlice"),
        "may not apply endpointslices",
    ),
    (
        delivery.the_deployer_may_apply_what_there_is,
        Mistake("Role", "rules.0.verbs", ["get"], "-deployer"),
        "may not apply configmaps",
    ),
    (
        differences.the_page_adds_up,
        Mistake("Deployment", f"{SPEC}.terminationGracePeriodSeconds", 60),
        "stops within (60, 5, 2",
    ),
    (
        differences.the_page_adds_up,
        Mistake("HorizontalPodAutoscaler", "spec.maxReplicas", 10),
        "cpu of all pods is 3.40 of 6",
    ),
    (
        differences.the_page_adds_up,
        Mistake("ResourceQuota", "spec.hard.[requests.memory]", "5Gi"),
        "memory of all pods is 3.44 of 5",
    ),
]

# Each row of the page that says how environments differ, and a value that it does not say.
DIFFERENCES = [
    (Mistake("HorizontalPodAutoscaler", "spec.minReplicas", 4), "Pods is 4 to 12, not 3 to 12"),
    (Mistake("Deployment", f"{APP}.resources.requests.cpu", "1"), "CPU that a pod requests is 1, not 300m"),
    (Mistake("Deployment", f"{APP}.resources.limits.memory", "1Gi"), "Memory of a pod is 1Gi"),
    (Mistake("ConfigMap", "data.LOG_LEVEL", "DEBUG", "-settings"), "Log level is DEBUG"),
    (Mistake("ConfigMap", "data.OTEL_TRACES_SAMPLER_ARG", "1", "-settings"), "Traces sampled is 100 %, not 10 %"),
    (Mistake("Gateway", "kind", "Other"), "Reached from outside is no"),
    (Mistake("ConfigMap", "data.STORAGE_URL", "sqlite:///x", "-settings"), "Items live in is SQLite"),
    (Mistake("PodDisruptionBudget", "spec.maxUnavailable", 2), "Pods away at once for a drain is 2"),
    (Mistake("Deployment", f"{SPEC}.topologySpreadConstraints.0", GONE), "Spread over is nodes, not zones and nodes"),
    (
        Mistake("Namespace", "metadata.labels.[pod-security.kubernetes.io/enforce-version]", "latest"),
        "Pod Security is restricted, latest",
    ),
    (Mistake("LimitRange", "kind", "Other"), "Bounds of the namespace is quota,"),
    (Mistake("Role", "kind", "Other", "-deployer"), "Roles is on-call"),
    (
        Mistake("PrometheusRule", "spec.groups.0.rules.0.labels.severity", "page", "-alerts", environment="staging"),
        "Alerts is pages and tickets",
    ),
    (
        Mistake("ConfigMap", "metadata.labels.grafana_dashboard", "1", "-settings", environment="staging"),
        "Dashboards is yes, not no",
    ),
    (Mistake("Role", "kind", "Rollout"), "A new version is canary"),
]
MISTAKES += [(differences.environments_differ_as_the_page_says, mistake, told) for mistake, told in DIFFERENCES]


@pytest.mark.parametrize(("check", "mistake", "told"), MISTAKES, ids=lambda one: getattr(one, "__name__", str(one)))
def test_a_mistake_is_found(check: Check, mistake: Mistake, told: str, overlays: list[Overlay]) -> None:
    right, wrong = mistake.made(overlays)
    before, after = set(check(right)), set(check(wrong))

    assert any(told in problem for problem in after - before), f"found: {after - before}"


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
def test_every_check_is_known_to_find_something(check: Check) -> None:
    assert check in {proven for proven, _, _ in MISTAKES}


def test_every_row_of_the_page_is_known_to_be_read() -> None:
    assert {row for row in differences.ROWS if any(told.startswith(f"{row} is") for _, told in DIFFERENCES)} == set(
        differences.ROWS
    )


# A mistake in an object, and what the schemas say to it.
UNKNOWN = [
    (Mistake("Deployment", "spec.replica", 3), "'replica' was unexpected) (Kubernetes 1.30)"),
    (Mistake("Deployment", f"{APP}.lifecycle.preStop.sleep.second", 5), "'second' was unexpected"),
    (Mistake("Deployment", f"{APP}.ports.0.containerPort", "http"), "is not of type 'integer'"),
    (Mistake("NetworkPolicy", "spec.egres", []), "'egres' was unexpected"),
    (Mistake("HorizontalPodAutoscaler", "apiVersion", "autoscaling/v2beta2"), "knows no autoscaling/v2beta2"),
    (Mistake("PodDisruptionBudget", "kind", "Budget"), "knows no policy/v1 Budget"),
    (Mistake("ServiceMonitor", "spec.endpoints.0.interva", "15s"), "'interva' was unexpected"),
    (Mistake("PrometheusRule", "spec.groups.0.rules.0.expression", "up"), "'expression' was unexpected"),
    (Mistake("ExternalSecret", "spec.target.creationPolicy", "Sometimes"), "is not one of"),
    (Mistake("ExternalSecret", "apiVersion", "external-secrets.io/v2"), "knows no external-secrets.io/v2"),
    (Mistake("Gateway", "spec.listeners.0.hostname", "no host"), "does not match"),
    (Mistake("HTTPRoute", "spec.rules.0.backendRef", []), "'backendRef' was unexpected"),
    (Mistake("Rollout", "spec.strategy.canary.step", [], profile=CANARY), "'step' was unexpected"),
    (Mistake("AnalysisTemplate", "spec.metrics.0.name", GONE, profile=CANARY), "'name' is a required property"),
]


@pytest.mark.parametrize(("mistake", "told"), UNKNOWN, ids=str)
def test_what_no_api_server_knows_is_found(mistake: Mistake, told: str, overlays: list[Overlay]) -> None:
    _, wrong = mistake.made(overlays)

    assert any(told in problem for problem in schemas.problems(wrong.objects)), list(schemas.problems(wrong.objects))


def test_what_only_a_newer_kubernetes_knows_is_found(overlays: list[Overlay]) -> None:
    _, newer = Mistake("Deployment", f"{APP}.lifecycle.stopSignal", "SIGTERM").made(overlays)

    told = [problem.rpartition("(")[2] for problem in schemas.problems(tuple(newer.of("Deployment")))]

    assert told == ["Kubernetes 1.30)", "Kubernetes 1.31)", "Kubernetes 1.32)"]
