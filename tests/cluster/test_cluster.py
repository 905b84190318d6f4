"""The cluster itself: it runs pods, names them, guards them and measures them, and leaves nothing behind."""

import pytest
from kube import Cluster
from node import TOOLS

pytestmark = [pytest.mark.cluster, pytest.mark.ci]

NAMESPACE = "trial"
RESTRICTED = {
    "allowPrivilegeEscalation": False,
    "capabilities": {"drop": ["ALL"]},
    "runAsNonRoot": True,
    "seccompProfile": {"type": "RuntimeDefault"},
}
TRIAL = [
    {
        "apiVersion": "v1",
        "kind": "Namespace",
        "metadata": {"name": NAMESPACE, "labels": {"pod-security.kubernetes.io/enforce": "restricted"}},
    },
    {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": "web", "namespace": NAMESPACE},
        "spec": {
            "replicas": 2,
            "selector": {"matchLabels": {"app": "web"}},
            "template": {
                "metadata": {"labels": {"app": "web"}},
                "spec": {
                    "containers": [
                        {
                            "name": "web",
                            "image": TOOLS,
                            "command": ["httpd", "-f", "-p", "8080", "-h", "/etc"],
                            "readinessProbe": {"httpGet": {"path": "/hostname", "port": 8080}, "periodSeconds": 1},
                            "resources": {"limits": {"memory": "16Mi", "cpu": "100m"}},
                            "securityContext": RESTRICTED,
                        }
                    ]
                },
            },
        },
    },
    {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": "web", "namespace": NAMESPACE},
        "spec": {"selector": {"app": "web"}, "ports": [{"port": 80, "targetPort": 8080}]},
    },
]


@pytest.fixture(scope="module")
def trial(cluster: Cluster) -> str:
    """Return the namespace of a Deployment that runs, behind a Service."""
    cluster.apply(*TRIAL)
    cluster.rolled_out("deployment/web", NAMESPACE)
    return NAMESPACE


def test_pods_answer_through_their_service_by_its_address_and_by_its_name(cluster: Cluster, trial: str) -> None:
    address = cluster.object("service", "web", trial)["spec"]["clusterIP"]
    pods = {pod["metadata"]["name"] for pod in cluster.objects("pods", trial)}

    status, body = cluster.within(10, lambda: (got := cluster.get(f"http://{address}/hostname"))[0] and got)
    by_name = cluster.kubectl(
        "exec",
        "deployment/web",
        "--",
        "wget",
        "-q",
        "-O-",
        f"http://web.{trial}.svc.cluster.local/hostname",
        namespace=trial,
    )

    assert len(pods) == 2
    assert status == 200
    assert {body.strip(), by_name.strip()} <= pods


def test_a_pod_that_the_namespace_forbids_is_refused(cluster: Cluster, trial: str) -> None:
    override = '{"spec": {"containers": [{"name": "bad", "image": "bad", "securityContext": {"privileged": true}}]}}'

    done = cluster.try_kubectl("run", "bad", "--image=bad", f"--overrides={override}", namespace=trial)

    assert done.returncode != 0
    assert 'violates PodSecurity "restricted' in done.stderr


def test_the_usage_of_pods_is_known(cluster: Cluster, trial: str) -> None:
    done = cluster.within(
        60, lambda: (top := cluster.try_kubectl("top", "pods", namespace=trial)).returncode == 0 and top, trial
    )

    assert done.stdout.count("Mi") == 2


def test_the_kubelet_measures_containers_as_alerts_read_them(cluster: Cluster, trial: str) -> None:
    both = ("container_memory_usage_bytes", "container_spec_memory_limit_bytes")
    labels = f'container="web",.*namespace="{trial}"'
    assert cluster.within(30, lambda: [len(cluster.series(name, labels)) for name in both] == [2, 2], trial)
