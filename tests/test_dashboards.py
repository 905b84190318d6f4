"""Dashboards are read at 3 a.m.: each panel says what it shows, in a unit, and is wide enough to read."""

import json
import re
from itertools import combinations
from pathlib import Path
from typing import Any

import pytest
import yaml
from conftest import FOLDER, ROOT, Bake

DASHBOARDS = sorted((ROOT / FOLDER / "observability" / "grafana" / "dashboards").glob("*.json"))
NAMES = [path.stem for path in DASHBOARDS]

# What stands for a dashboard in addresses and in the names of ConfigMaps, which both hold the service's name too, in
# 40 and in 63 characters.
SHORT = {
    "application-performance": "app",
    "database": "database",
    "error-analysis": "errors",
    "infrastructure": "infra",
    "slo-error-budget": "slo",
    "sre-overview": "overview",
}

# Of the 24 columns; a narrower panel cannot be read.
NARROWEST = 6
TYPES = {"row", "stat", "timeseries", "heatmap", "table", "logs"}


@pytest.fixture(params=NAMES)
def board(request: pytest.FixtureRequest, default_project: Path) -> Any:
    """One of the dashboards, as a service has it."""
    path = default_project / "observability" / "grafana" / "dashboards" / f"{request.param}.json"
    return json.loads(path.read_text(encoding="utf-8"))


def panels(board: Any) -> list[Any]:
    """The panels that show something."""
    return [panel for panel in board["panels"] if panel["type"] != "row"]


def queries(board: Any) -> list[str]:
    """What the panels ask Prometheus."""
    targets = [target for panel in panels(board) for target in panel["targets"]]
    return [target["expr"] for target in targets if target["datasource"]["type"] == "prometheus"]


def test_the_dashboards_of_the_design_are_there() -> None:
    assert {"sre-overview", "application-performance", "infrastructure", "error-analysis", "slo-error-budget"} <= {
        *NAMES
    }


def test_its_address_is_its_own_and_never_changes(board: Any, request: pytest.FixtureRequest) -> None:
    assert board["uid"] == f"sre-demo-api-{SHORT[request.node.callspec.params['board']]}"
    # Grafana gives an id of its own; one in a file would replace another dashboard.
    assert board["id"] is None
    assert board["title"]
    assert board["description"].endswith(".")


def test_each_panel_says_what_it_shows_and_in_which_unit(board: Any) -> None:
    for panel in panels(board):
        assert panel["type"] in TYPES
        assert panel["title"]
        assert panel["description"].endswith("."), panel["title"]
        if panel["type"] in {"stat", "timeseries"}:
            assert panel["fieldConfig"]["defaults"]["unit"], panel["title"]
        assert [target["refId"] for target in panel["targets"]] == sorted({one["refId"] for one in panel["targets"]})


def test_panels_have_ids_of_their_own_and_places_of_their_own(board: Any) -> None:
    ids = [panel["id"] for panel in board["panels"]]
    assert len(ids) == len(set(ids))
    for panel in panels(board):
        assert panel["gridPos"]["w"] >= NARROWEST, panel["title"]
    for panel in board["panels"]:
        assert panel["gridPos"]["x"] + panel["gridPos"]["w"] <= 24, panel["title"]
    for one, other in combinations(board["panels"], 2):
        a, b = one["gridPos"], other["gridPos"]
        apart = (
            a["x"] + a["w"] <= b["x"]
            or b["x"] + b["w"] <= a["x"]
            or a["y"] + a["h"] <= b["y"]
            or b["y"] + b["h"] <= a["y"]
        )
        assert apart, (one["title"], other["title"])


def test_data_sources_service_and_environment_can_be_chosen(board: Any) -> None:
    assert {"metrics", "logs", "service", "environment"} <= {one["name"] for one in board["templating"]["list"]}
    used = {target["datasource"]["uid"] for panel in panels(board) for target in panel["targets"]}
    assert used <= {"${metrics}", "${logs}"}


def test_no_counter_is_shown_as_it_is(board: Any) -> None:
    for query in queries(board):
        # A counter only means something by how fast it grows.
        bare = re.sub(r"\b(?:rate|increase)\(\w+_total(?:\{[^}]*\})?\[", "", query)
        assert not re.search(r"\w+_total\b", bare), query


def test_it_leads_to_the_runbooks_and_to_the_other_dashboards(board: Any) -> None:
    links = {link["type"]: link for link in board["links"]}

    assert links["dashboards"]["tags"] == board["tags"]
    assert links["link"]["url"] == "https://github.com/example-org/sre-demo-api/blob/main/docs/runbooks/README.md"


def test_restarts_and_deployments_are_marked_in_every_graph(board: Any) -> None:
    assert {one["name"] for one in board["annotations"]["list"] if one["enable"]} == {"Restarts", "Deployments"}


@pytest.mark.parametrize(
    ("availability", "latency", "error_ratio", "seconds"),
    [
        ("99.9", "300", 0.001, 0.3),
        ("99.99", "5", 0.0001, 0.005),
        ("95", "10000", 0.05, 10),
        ("99.975", "1000", 0.00025, 1),
    ],
)
def test_thresholds_are_those_of_the_objectives(
    availability: str, latency: str, error_ratio: float, seconds: float, bake: Bake
) -> None:
    project = bake(slo_availability=availability, slo_latency_ms=latency)
    text = (project / "observability" / "grafana" / "dashboards" / "sre-overview.json").read_text(encoding="utf-8")
    thresholds = {
        panel["title"]: [step["value"] for step in panel["fieldConfig"]["defaults"]["thresholds"]["steps"]]
        for panel in panels(json.loads(text))
        if "thresholds" in panel["fieldConfig"]["defaults"]
    }

    assert thresholds["Errors"] == [None, pytest.approx(error_ratio / 2), pytest.approx(error_ratio)]
    assert thresholds["Error ratio by route"] == [None, pytest.approx(error_ratio)]
    assert thresholds["99th percentile"] == thresholds["Duration"] == [None, pytest.approx(seconds)]


def test_every_alert_leads_to_a_dashboard_that_exists(default_project: Path) -> None:
    rules = sorted((default_project / "observability" / "prometheus").glob("alerts*.yml"))
    rules.append(default_project / "k8s" / "components" / "monitoring" / "alerts.yml")
    addresses = [
        address for path in rules for address in re.findall(r"dashboard_url: (\S+)", path.read_text(encoding="utf-8"))
    ]

    assert len(addresses) > 20
    # The stack's own alerts lead to pages of Prometheus and Alertmanager too.
    grafana = [address for address in addresses if ":3000/" in address]
    assert {address.removeprefix("http://localhost:3000/d/sre-demo-api-") for address in grafana} <= {*SHORT.values()}
    assert all(re.match(r"http://localhost:(3000|9090|9093)/", address) for address in addresses)


SLUGS = [
    "api",
    "a-service-with-a-name-of-31-char",
    "payments-for-everybody-in-the-world-read",
    "payments-for-everybody-in-the-world-send",
]


def test_services_share_no_address_and_no_file_in_a_grafana_that_shows_them_all(bake: Bake) -> None:
    uids, keys = [], []
    for slug in SLUGS:
        folder = bake(project_slug=slug) / "observability" / "grafana" / "dashboards"
        uids += [json.loads(path.read_text(encoding="utf-8"))["uid"] for path in folder.glob("*.json")]
        maps = yaml.safe_load((folder / "kustomization.yaml").read_text(encoding="utf-8"))["configMapGenerator"]
        keys += [file.partition("=")[0] for one in maps for file in one["files"]]
        assert {file.partition("=")[2] for one in maps for file in one["files"]} == {
            path.name for path in folder.glob("*.json")
        }
        assert {one["name"] for one in maps} == {f"{slug}-dashboard-{short}" for short in SHORT.values()}
        assert max(len(one["name"]) for one in maps) <= 63

    assert len(set(uids)) == len(uids) == len(SLUGS) * len(SHORT)
    assert len(set(keys)) == len(keys)
    # More than that Grafana refuses.
    assert max(map(len, uids)) <= 40


def test_choosing_an_environment_chooses_its_job(board: Any) -> None:
    variables = {one["name"]: one for one in board["templating"]["list"]}

    assert variables["service"]["current"]["value"] == "sre-demo-api"
    query = 'label_values(app_info{service="$service",environment=~"$environment"}, job)'
    assert variables["job"]["query"]["query"] == variables["job"]["definition"] == query


def test_a_dashboard_fits_into_what_kubectl_apply_remembers(default_project: Path) -> None:
    for path in (default_project / "observability" / "grafana" / "dashboards").glob("*.json"):
        # The annotation holds the whole object, in which the file is a string.
        assert len(json.dumps(path.read_text(encoding="utf-8"))) < 262144 - 2048, path.name
