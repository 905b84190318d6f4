"""The two Roles of a service, asked what they may do and what they may not."""

import pytest
from deployed import Service

pytestmark = pytest.mark.cluster

# For each: who may (d: the pipeline, o: whoever is on call).
QUESTIONS = {
    "patch deployments": "d",
    "create configmaps": "d",
    "delete jobs": "d",
    "patch horizontalpodautoscalers": "d",
    "create pods --subresource=portforward": "d",
    "get deployments": "do",
    "list pods": "do",
    "get pods --subresource=log": "do",
    "list events": "do",
    "get resourcequotas": "o",
    "list pods.metrics.k8s.io": "o",
    "get secrets": "",
    "list secrets": "",
    "patch secrets": "",
    "create roles": "",
    "patch rolebindings": "",
    "create pods": "",
    "create pods --subresource=exec": "",
    "delete deployments": "",
    "delete pods": "",
    "patch resourcequotas": "",
    "delete namespaces": "",
    "impersonate serviceaccounts": "",
}
GROUPS = {"d": "platform-deployers", "o": "platform-on-call"}


def may(prod: Service, group: str, question: str, namespace: str) -> bool:
    """Whether somebody of a group may, as the cluster answers."""
    who = ("--as=somebody", f"--as-group={group}")
    done = prod.cluster.try_kubectl("auth", "can-i", *question.split(), *who, namespace=namespace)
    said = done.stdout.split()
    assert said[:1] in (["yes"], ["no"]), done.stderr
    return said[0] == "yes"


@pytest.mark.parametrize("question", QUESTIONS)
def test_each_role_may_what_it_is_for_and_no_more(prod: Service, question: str) -> None:
    allowed = {letter for letter, group in GROUPS.items() if may(prod, group, question, prod.namespace)}

    assert allowed == set(QUESTIONS[question])


def test_neither_role_reaches_another_namespace(prod: Service) -> None:
    assert not any(may(prod, group, "get pods", "default") for group in GROUPS.values())


def test_without_a_group_nothing_is_allowed(prod: Service) -> None:
    assert not any(may(prod, "nobody", question, prod.namespace) for question in QUESTIONS)
