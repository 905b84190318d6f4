"""The queries that a generated service ships: in dashboards, in links between data sources, in documents."""

import json
import re
from pathlib import Path
from typing import Any

import yaml
from conftest import ROOT

SERVICE = "sre-demo-api"
TEMPLATE = ROOT / "{{cookiecutter.__project_folder}}"

# What a person has chosen in a dashboard.
_CHOSEN = {
    "service": SERVICE,
    "job": SERVICE,
    "instance": ".*",
    "environment": ".*",
    "__rate_interval": "1m",
    "__range": "5m",
}


def dashboards() -> dict[str, Any]:
    """Each dashboard of the template, by the name of its file; what an answer decides is the number 1."""
    folder = TEMPLATE / "observability" / "grafana" / "dashboards"
    return {
        path.stem: json.loads(re.sub(r"\{%.*?%\}|(\{\{ .*? \}\})", lambda part: "1" if part[1] else "", text))
        for path in sorted(folder.glob("*.json"))
        if (text := path.read_text(encoding="utf-8"))
    }


def of_panels() -> list[tuple[str, str, str]]:
    """Each query of each panel: its name, the kind of its data source, and itself with its variables filled in."""
    return [
        (
            f"{name}: {panel['title']} {target['refId']}",
            target["datasource"]["type"],
            re.sub(r"\$\{?(\w+)\}?", lambda variable: _CHOSEN[variable[1]], target["expr"]),
        )
        for name, board in dashboards().items()
        for panel in board["panels"]
        for target in panel.get("targets", [])
    ]


def is_of_a_cluster(query: str) -> bool:
    """Whether it asks for series that only a cluster has: of pods, as a kubelet tells them, and of objects."""
    return re.search(r"\bkube_|\bpod=~", query) is not None


def data_sources(project: Path) -> dict[str, Any]:
    """What Grafana is told of each data source, by its id, as Grafana reads the file."""
    path = project / "observability" / "grafana" / "provisioning" / "datasources" / "datasources.yaml"
    text = path.read_text(encoding="utf-8").replace("$$", "$")
    return {one["uid"]: one for one in yaml.safe_load(text)["datasources"]}


def of_documents(project: Path) -> list[str]:
    """Each query of logs in a document of the project."""
    texts = [path.read_text(encoding="utf-8") for path in sorted(project.rglob("*.md"))]
    found = {
        query for text in texts for query in re.findall(r"(?:^|`)([^`\n]*\{service=[^`\n]*)(?:`|$)", text, re.MULTILINE)
    }
    # In a table, a bar has a backslash before it.
    return sorted(query.strip().replace("\\|", "|") for query in found)
