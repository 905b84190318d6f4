"""What a canary needs of a cluster: Argo Rollouts, and a Prometheus that finds the pods as its operator would."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

import addons
import components
import yaml
from control_plane import ADDRESS
from kube import Cluster
from sandbox import Program

PORT = 9090
# Seconds between two looks at the pods, so that a test is short.
SCRAPE = 5


def start_controller(cluster: Cluster) -> None:
    """Start the controller of Argo Rollouts, whose kinds of objects the cluster has to know."""
    # Where it looks for its own settings; there are none.
    cluster.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "argo-rollouts"}})
    program = cluster.sandbox.start(
        "rollouts-controller",
        components.build("argo-rollouts") / "rollouts-controller",
        f"--kubeconfig={cluster.kubeconfig}",
        "--namespace=argo-rollouts",
        "--leader-elect=false",
    )
    program.until(lambda: cluster.get("http://127.0.0.1:8080/healthz")[0] == 200)


def start_prometheus(cluster: Cluster, jobs: dict[str, str], rules: Sequence[Mapping[str, Any]] = ()) -> Program:
    """Start a Prometheus that knows nothing yet, under the name that the operator gives it.

    Args:
        cluster: where.
        jobs: what the metrics of each namespace's services are called by, as a ServiceMonitor says it.
        rules: the `spec` of each PrometheusRule that it evaluates.
    """
    folder = Path(mkdtemp(prefix="prometheus-", dir=cluster.sandbox.folder))
    config = folder / "prometheus.yml"
    for number, rule in enumerate(rules):
        (folder / f"rules-{number}.yml").write_text(yaml.safe_dump(rule), encoding="utf-8")
    config.write_text(yaml.safe_dump(_config(cluster.kubeconfig, jobs)), encoding="utf-8")
    program = cluster.sandbox.start(
        "prometheus",
        components.build("prometheus") / "prometheus",
        f"--config.file={config}",
        f"--storage.tsdb.path={folder / 'data'}",
        f"--web.listen-address={ADDRESS}:{PORT}",
    )
    program.until(lambda: cluster.get(f"http://{ADDRESS}:{PORT}/-/ready")[0] == 200)
    ports = [{"name": "web", "port": PORT, "protocol": "TCP"}]
    cluster.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "monitoring"}})
    cluster.apply(*addons.service("prometheus-operated", "monitoring", ports, clusterIP="None"))
    return program


def _config(kubeconfig: Path, jobs: dict[str, str]) -> dict[str, object]:
    """The labels that the operator writes for a ServiceMonitor on the port `metrics`."""
    found = "__meta_kubernetes"
    labels = {"namespace": "namespace", "pod": "pod_name"}
    relabel: list[dict[str, object]] = [
        {"action": "keep", "source_labels": [f"{found}_endpointslice_port_name"], "regex": "metrics"}
    ]
    for label, kind in labels.items():
        relabel.append({"source_labels": [f"{found}_{kind}"], "target_label": label})
    for namespace, job in jobs.items():
        here = {"source_labels": [f"{found}_namespace"], "regex": namespace}
        relabel.append({**here, "target_label": "job", "replacement": job})
    discovery = {"role": "endpointslice", "kubeconfig_file": str(kubeconfig), "namespaces": {"names": [*jobs]}}
    scrape = {"job_name": "services", "kubernetes_sd_configs": [discovery], "relabel_configs": relabel}
    intervals = {"scrape_interval": f"{SCRAPE}s", "evaluation_interval": f"{SCRAPE}s"}
    return {"global": intervals, "rule_files": ["rules-*.yml"], "scrape_configs": [scrape]}
