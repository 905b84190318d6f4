"""`make rules`: the cluster's Prometheus judges by the same rules as the one on this machine.

An environment's `prometheusrule.yaml` holds the rules of `observability/prometheus`, and those on what only a cluster
measures, with the facts of its `environment.yaml` in place of this machine's. Both are in the repository, as a cluster
takes what is there; `--check` says where they differ.
"""

import re
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

from tools.compose import ROOT
from tools.overlay import OVERLAYS, SERVICE

# What each object is called by, and where its rules stand.
SOURCES = {
    "recording": ROOT / "observability" / "prometheus" / "recording.yml",
    "alerts": ROOT / "observability" / "prometheus" / "alerts.yml",
    "kubernetes": ROOT / "k8s" / "components" / "monitoring" / "alerts.yml",
}

HEAD = "# Written by `make rules` from observability/prometheus and k8s/components/monitoring/alerts.yml. Edit those.\n"

OBJECT = """\
apiVersion: monitoring.coreos.com/v1
kind: PrometheusRule
metadata:
  name: {service}-{name}
  labels:
    app.kubernetes.io/component: monitoring
spec:
{rules}"""


def facts(environment: Path) -> dict[str, str]:
    """What an environment's ConfigMap says, each fact on a line of its own."""
    data = (environment / "environment.yaml").read_text(encoding="utf-8").partition("\ndata:\n")[2]
    return {name: value.strip("\"'") for name, value in re.findall(r"^  (\w+): *(.+)$", data, re.MULTILINE)}


def rendered(known: Mapping[str, str]) -> str:
    """The objects of an environment of which this is known."""
    elsewhere = {
        f'job="{SERVICE}"': f'job="{known["job"]}"',
        f'job: "{SERVICE}"': f'job: "{known["job"]}"',
        'namespace="production"': f'namespace="{known["namespace"]}"',
        "severity: page": f"severity: {known['pages_as']}",
        "http://localhost:3000": known["grafana"],
    }
    objects = []
    for name, source in SOURCES.items():
        # Before that stands what is said to whoever reads the file.
        rules = "groups:" + source.read_text(encoding="utf-8").partition("groups:")[2]
        for here, there in elsewhere.items():
            rules = rules.replace(here, there)
        indented = re.sub("^(?=.)", "  ", rules, flags=re.MULTILINE)
        objects.append(OBJECT.format(service=SERVICE, name=name, rules=indented))
    return HEAD + "---\n".join(objects)


def wanted() -> Iterator[tuple[Path, str]]:
    """Each file, and what it has to hold. An environment without facts has no rules."""
    for path in sorted(OVERLAYS.glob("*/environment.yaml")):
        yield path.parent / "prometheusrule.yaml", rendered(facts(path.parent))


def main(arguments: list[str]) -> int:
    """Write the files, or say which are not as they would be written; the exit code of the process."""
    if arguments not in ([], ["--check"]):
        sys.stderr.write("usage: python -m tools.rules [--check]\n")
        return 2
    drifted = [(path, text) for path, text in wanted() if not path.exists() or path.read_text(encoding="utf-8") != text]
    for path, text in drifted:
        name = path.relative_to(ROOT)
        if arguments:
            sys.stderr.write(f"{name} is not what its rules and its environment.yaml make: run `make rules`\n")
        else:
            path.write_text(text, encoding="utf-8", newline="\n")
            sys.stdout.write(f"{name} is written anew\n")
    return 1 if arguments and drifted else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
