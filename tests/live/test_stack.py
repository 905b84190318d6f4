"""The whole stack, under traffic: one request is found in every signal, and no part's fault is the service's.

Each query is asked of the component that answers it for users. Where images cannot be pulled, Loki is stood in for
(`loki_standin.py`), and Grafana is left out: what it would ask is asked of those whom it would.
"""

import json
import re
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from threading import Event
from typing import Any
from uuid import uuid4

import pytest
import queries
from conftest import ROOT
from queries import SERVICE
from stack import Stack, started, tags_of
from waiting import wait_for

pytestmark = pytest.mark.live

WATCHERS = ("otel-collector", "loki", "jaeger", "prometheus", "alertmanager", "cadvisor")

# What people ask, as the documents have it.
METRICS = [
    "rate(http_requests_total[5m])",
    "histogram_quantile(0.95, rate(http_request_duration_seconds_bucket[5m]))",
    'sum(rate(http_requests_total{status=~"5.."}[5m])) / sum(rate(http_requests_total[5m]))',
    "container_memory_usage_bytes / container_spec_memory_limit_bytes",
]
LOGS = [
    f'{{service="{SERVICE}"}}',
    f'{{service="{SERVICE}"}} |= "ERROR"',
    f'{{service="{SERVICE}"}} | json | correlation_id="abc-123"',
    f'sum(rate({{service="{SERVICE}"}} |= "ERROR" [5m]))',
]


@pytest.fixture(scope="module")
def stack(cookies_session: Any) -> Iterator[Stack]:
    """The stack of the default answers, under traffic."""
    for stack in started(cookies_session, "live"):
        stack.compose("--profile=traffic", "up", "--detach", "traffic")
        yield stack


@pytest.fixture
def request_id() -> str:
    """A correlation id that no other request has."""
    return f"live-{uuid4()}"


@pytest.fixture(scope="module")
def outage(stack: Stack) -> Stack:
    """The stack after its database was away for a moment, which the service logged as an error."""
    stack.compose("stop", "db")
    wait_for(lambda: stack.ask("outage", "/health/ready").status == 503, "readiness does not tell that it is away")
    stack.compose("start", "db")
    wait_for(lambda: stack.ask("outage", "/api/v1/items").status == 200, "the service does not recover")
    return stack


def arrived(stack: Stack, request_id: str) -> Mapping[str, Any]:
    """The access line of a request, once Loki has it."""
    query = f'{{service="{SERVICE}"}} | json | correlation_id="{request_id}"'
    return wait_for(lambda: stack.lines(query), f"Loki has no line of {request_id}")[-1]


def test_make_up_says_where_to_look_and_each_address_answers(stack: Stack) -> None:
    links = dict(re.findall(r"^  http://localhost:(\d+)(\S+) ", stack.said, re.MULTILINE))

    wanted = {"HTTP_PORT", "METRICS_PORT", "GRAFANA_PORT", "PROMETHEUS_PORT", "ALERTMANAGER_PORT", "JAEGER_PORT"}
    if "grafana" in stack.absent:
        wanted.remove("GRAFANA_PORT")
    assert set(links) == {str(stack.ports[name]) for name in wanted}
    for name in wanted:
        answer = stack.client(name).send("GET", links[str(stack.ports[name])])
        # Stand-ins have no pages for people.
        assert answer.status == 200 or name in {"PROMETHEUS_PORT", "ALERTMANAGER_PORT"}, answer


def test_one_request_is_found_in_the_response_the_log_the_trace_and_an_exemplar(stack: Stack, request_id: str) -> None:
    # Nobody else asks this way, so that no other request takes its place as the exemplar of its series.
    answer = stack.ask(request_id, method="HEAD")
    assert (answer.status, answer.headers["x-correlation-id"]) == (200, request_id)

    line = arrived(stack, request_id)
    assert (line["event"], line["method"], line["route"], line["status"]) == ("request", "HEAD", "/api/v1/items", 200)

    (trace,) = wait_for(lambda: stack.traces(correlation_id=request_id), f"Jaeger has no trace of {request_id}")
    assert trace["traceID"] == line["trace_id"]
    server = next(tags for tags in tags_of(trace) if tags.get("correlation_id") == request_id)
    assert (server["http.route"], server["http.response.status_code"]) == ("/api/v1/items", 200)
    # What the request did is in the same trace.
    assert any("db.system.name" in tags for tags in tags_of(trace))

    def exemplars() -> set[str]:
        now = time.time()
        asked = 'http_request_duration_seconds_bucket{method="HEAD"}'
        series = stack.prometheus(asked, "query_exemplars", start=str(now - 300), end=str(now))
        return {one["labels"]["trace_id"] for entry in series for one in entry["exemplars"]}

    wait_for(lambda: line["trace_id"] in exemplars(), "no exemplar has its trace id")


@pytest.mark.parametrize("query", METRICS)
def test_a_query_of_metrics_returns_data_as_written(query: str, stack: Stack) -> None:
    def finite() -> list[float]:
        values = [float(one["value"][1]) for one in stack.prometheus(query)["result"]]
        return [value for value in values if value < float("inf")]

    assert wait_for(finite, f"no data: {query}")


@pytest.mark.parametrize("query", LOGS)
def test_a_query_of_logs_returns_data_as_written(query: str, outage: Stack) -> None:
    outage.ask("abc-123")

    assert wait_for(lambda: outage.loki(query), f"no data: {query}")


def test_the_documents_name_exactly_the_queries_that_are_proven_here(stack: Stack) -> None:
    document = (stack.project / "docs" / "architecture" / "OBSERVABILITY.md").read_text(encoding="utf-8")
    block = document.partition("More that one asks:\n\n```text\n")[2].partition("```")[0]
    assert block.splitlines() == [*METRICS, *LOGS]


def test_every_target_is_scraped(stack: Stack) -> None:
    def down() -> dict[str, str]:
        answer = stack.client("PROMETHEUS_PORT").send("GET", "/api/v1/targets?state=active")
        targets = json.loads(answer.body)["data"]["activeTargets"]
        assert {target["labels"]["job"] for target in targets} == {SERVICE, "prometheus", "grafana", *WATCHERS}
        states = {target["labels"]["job"]: target["lastError"] for target in targets if target["health"] != "up"}
        return {job: error for job, error in states.items() if job not in stack.absent}

    wait_for(lambda: not down(), "some targets are down")


def test_the_memory_limits_of_containers_are_measured(stack: Stack) -> None:
    container = stack.containers()["app"]
    limit = f'container_spec_memory_limit_bytes{{id=~".*{container["Id"]}.*"}}'

    assert wait_for(lambda: stack.value(limit), "cAdvisor does not see the service") == 256 * 1024 * 1024


@pytest.mark.parametrize(
    ("kind", "query"), [pytest.param(kind, query, id=name) for name, kind, query in queries.of_panels()]
)
def test_every_panel_has_data_where_there_is_some(kind: str, query: str, outage: Stack) -> None:
    ask: Callable[[], Any] = (
        (lambda: outage.loki(query)) if kind == "loki" else lambda: outage.prometheus(query)["result"]
    )

    if queries.is_of_a_cluster(query):
        # Understood, and no series of this stack is taken for one of a pod.
        assert ask() == []
        return
    # Rules of a month are evaluated each minute, and read what others have recorded.
    assert wait_for(ask, f"no data: {query}", seconds=180)


def test_a_dashboard_offers_what_there_is_to_choose(stack: Stack) -> None:
    offered = {"service": SERVICE, "environment": "development", "job": SERVICE, "instance": "app:9000"}
    for file, board in queries.dashboards().items():
        asked = {one["name"]: one["query"]["query"] for one in board["templating"]["list"] if one["type"] == "query"}
        assert asked.keys() == offered.keys(), file
        for name, query in asked.items():
            series, label = re.fullmatch(r"label_values\((.*), (\w+)\)", query).groups()  # type: ignore[union-attr]
            chosen = series.replace("$service", SERVICE).replace("$environment", ".*")
            result = stack.prometheus(chosen)["result"]
            assert {one["metric"][label] for one in result} == {offered[name]}, (file, name)


def test_the_links_between_signals_lead_to_the_same_request(stack: Stack, request_id: str) -> None:
    sources = queries.data_sources(stack.project)
    for source in sources.values():
        service, port = re.fullmatch(r"http://([\w-]+):(\d+)", source["url"]).groups()  # type: ignore[union-attr]
        ports = stack.config()[service].get("ports", [])
        assert int(port) in {one["target"] for one in ports}, source["name"]

    stack.ask(request_id, "/api/v1/items?limit=1")
    line = arrived(stack, request_id)

    # From an exemplar and from a line to the trace: both name it by its id, and Jaeger finds it by that alone.
    (exemplar,) = sources["prometheus"]["jsonData"]["exemplarTraceIdDestinations"]
    (derived,) = sources["loki"]["jsonData"]["derivedFields"]
    assert (exemplar["name"], exemplar["datasourceUid"]) == ("trace_id", "jaeger")
    assert (derived["matcherType"], derived["datasourceUid"]) == ("label", "jaeger")
    (stream,) = stack.loki(f'{{service="{SERVICE}"}} |= "{request_id}"')
    trace_id = stream["stream"][derived["matcherRegex"]]
    assert trace_id == line["trace_id"]

    def trace() -> Any:
        answer = stack.client("JAEGER_PORT").send("GET", f"/api/traces/{trace_id}")
        return json.loads(answer.body)["data"] if answer.status == 200 else None

    (found,) = wait_for(trace, f"Jaeger has no trace {trace_id}")

    # From a span to its lines and to the metrics of its route.
    tags = next(tags for tags in tags_of(found) if tags.get("correlation_id") == request_id)
    process = {tag["key"]: tag["value"] for one in found["processes"].values() for tag in one["tags"]}
    known = tags | process | {"service.name": next(iter(found["processes"].values()))["serviceName"]}

    def filled(query: str) -> str:
        named = query.replace("${__trace.traceId}", trace_id)
        return re.sub(r'\$\{__span\.tags\["([\w.]+)"\]\}', lambda tag: str(known[tag[1]]), named)

    logs = sources["jaeger"]["jsonData"]["tracesToLogsV2"]
    assert logs["datasourceUid"] == "loki"
    assert request_id in {one["correlation_id"] for one in stack.lines(filled(logs["query"]))}
    metrics = sources["jaeger"]["jsonData"]["tracesToMetrics"]
    assert metrics["datasourceUid"] == "prometheus"
    for query in metrics["queries"]:
        asked = filled(query["query"])
        assert wait_for(partial(stack.prometheus, asked), asked)["result"]


@pytest.mark.parametrize("how", ["stopped", "crashed"])
@pytest.mark.parametrize("part", WATCHERS)
def test_the_service_serves_without_a_part_that_watches_it_and_the_part_comes_back(
    part: str, how: str, stack: Stack, request_id: str
) -> None:
    ended = stack.process(part)
    if how == "stopped":
        stack.compose("stop", "--timeout=10", part)
    else:
        stack.crash(part)

    for number in range(20):
        began = time.monotonic()
        assert stack.ask(f"{request_id}-{number}").status == 200
        assert time.monotonic() - began < 5
    assert stack.ask(request_id, "/health/ready").status == 200

    if how == "stopped":
        stack.compose("start", part)
    # At first the engine may not know yet that it has ended.
    wait_for(lambda: stack.process(part) not in {0, ended}, f"{part} was not started again")
    wait_for(lambda: not stack.unhealthy(), lambda: f"{part} does not come back: {stack.unhealthy()}")
    wait_for(lambda: stack.value(f'up{{job="{part}"}}') == 1, f"{part} is not scraped any more")

    again = f"again-{uuid4()}"
    stack.ask(again)
    arrived(stack, again)
    wait_for(lambda: bool(stack.traces(correlation_id=again)), f"after {part} came back, Jaeger gets no traces")


def test_without_its_database_the_service_says_so_at_once_and_recovers_by_itself(stack: Stack) -> None:
    ended = stack.process("db")
    stack.crash("db")
    # At first the engine may not know yet that it has ended.
    wait_for(lambda: stack.process("db") not in {0, ended}, "the database was not started again")
    wait_for(lambda: not stack.unhealthy(), "the database is not healthy again")
    wait_for(lambda: stack.ask("recovered").status == 200, "the service does not recover")

    stack.compose("stop", "db")
    try:
        answer = wait_for(lambda: (one := stack.ask("away")).status == 503 and one, "it does not tell that it is away")
        assert answer.headers["content-type"] == "application/problem+json"  # type: ignore[union-attr]
        assert stack.ask("away", "/health/live").status == 200
    finally:
        stack.compose("start", "db")
    wait_for(lambda: stack.ask("recovered").status == 200, "the service does not recover")
    wait_for(lambda: not stack.unhealthy(), "the service is not healthy again")


def test_no_log_line_is_lost_when_the_collector_restarts_under_load(stack: Stack, request_id: str) -> None:
    over = Event()

    def load(worker: int) -> list[str]:
        asked: list[str] = []
        while not over.is_set():
            asked.append(f"{request_id}-{worker}-{len(asked)}")
            assert stack.ask(asked[-1], "/api/v1/items?limit=1").status == 200
        return asked

    with ThreadPoolExecutor(4) as pool:
        workers = [pool.submit(load, number) for number in range(4)]
        try:
            time.sleep(2)
            stack.compose("restart", "otel-collector")
            time.sleep(2)
        finally:
            over.set()
        asked = {one for worker in workers for one in worker.result()}

    def missing() -> set[str]:
        parameters = f'{{service="{SERVICE}"}} |= "{request_id}"'
        return asked - {line["correlation_id"] for line in stack.lines(parameters)}

    assert len(asked) > 100
    wait_for(lambda: not missing(), lambda: f"of {len(asked)} lines, these are missing: {sorted(missing())[:5]}")


def test_a_second_up_changes_nothing(stack: Stack) -> None:
    before = {service: container["Id"] for service, container in stack.containers().items()}

    stack.compose("up", "--detach", "--wait")

    after = {service: container["Id"] for service, container in stack.containers().items()}
    assert after == before
    assert stack.unhealthy() == {}


# How each program marks a line that a person should look at.
ALARMING = re.compile(
    r'level=(error|ERROR)|"level":"(error|fatal|ERROR|CRITICAL)"|\b(ERROR|FATAL|PANIC)\b|\|\s+E\d{4}|panic:'
)


def test_nothing_in_the_stack_logs_an_error_at_rest(stack: Stack) -> None:
    wait_for(lambda: not stack.unhealthy(), "the stack is not at rest")
    since = datetime.now(UTC).isoformat()
    time.sleep(15)

    said = stack.compose("--profile=traffic", "logs", "--no-color", f"--since={since}")

    assert '"event":"request"' in said, "not even the service's access lines were seen"
    assert [line for line in said.splitlines() if ALARMING.search(line)] == []


def test_logs_can_still_be_followed_in_the_terminal(stack: Stack, request_id: str) -> None:
    stack.ask(request_id)

    wait_for(lambda: request_id in stack.compose("logs", "--tail=200", "app"), "the engine keeps no copy of the log")


def test_every_part_has_a_memory_limit_no_capabilities_and_no_way_to_more(stack: Stack) -> None:
    for service, container in stack.containers().items():
        host = container["HostConfig"]
        assert host["Memory"] > 0, service
        assert not host["Privileged"], service
        assert host["SecurityOpt"] == ["no-new-privileges:true"], service
        # The upstream image of PostgreSQL gives up root itself.
        assert service == "db" or host["CapDrop"] == ["ALL"], service
        sources = [mount.get("Source", "") for mount in container["Mounts"]]
        assert not [source for source in sources if "docker.sock" in source], service
        for ports in (container["NetworkSettings"]["Ports"] or {}).values():
            assert all(port["HostIp"] == "127.0.0.1" for port in ports or []), service


def test_a_request_waits_for_no_part_of_the_stack(stack: Stack) -> None:
    assert "depends_on" in stack.config()["app"]
    assert not set(stack.config()["app"]["depends_on"]) & set(WATCHERS)


def firing(stack: Stack, name: str) -> set[str]:
    """The jobs of the alerts of this name that Alertmanager has now."""
    answer = stack.client("ALERTMANAGER_PORT").send("GET", "/api/v2/alerts?active=true")
    labels = [alert["labels"] for alert in json.loads(answer.body)]
    return {one.get("job", "") for one in labels if one["alertname"] == name}


def test_a_part_that_is_gone_is_told_by_an_alert_which_ends_when_it_is_back(stack: Stack) -> None:
    stack.compose("stop", "jaeger")
    try:
        wait_for(lambda: "jaeger" in firing(stack, "StackTargetDown"), "no alert arrived at Alertmanager", seconds=120)
    finally:
        stack.compose("start", "jaeger")

    wait_for(lambda: "jaeger" not in firing(stack, "StackTargetDown"), "the alert does not end", seconds=180)
    wait_for(lambda: not stack.unhealthy(), "the stack does not recover")


def test_a_page_goes_all_the_way_from_the_fault_to_whom_it_concerns(stack: Stack) -> None:
    # It may have come already, after an earlier fault: what goes on burning is not told twice.
    def page() -> str:
        said = stack.compose("logs", "--no-log-prefix", "alert-inbox").splitlines()
        began = [number for number, line in enumerate(said) if "PAGE AvailabilityErrorBudgetBurn" in line]
        return "\n".join(said[began[0] : began[0] + 4]) if began else ""

    stack.compose("stop", "db")
    try:
        told = wait_for(page, "nobody was paged", seconds=180)
    finally:
        stack.compose("start", "db")
    wait_for(lambda: stack.ask("recovered").status == 200, "the service does not recover")

    assert "(to page)" in told
    # What it says leads to a page that says what to do, and to a dashboard that shows it.
    runbook = re.search(r"runbook: https://github.com/example-org/sre-demo-api/blob/main/(\S+)", told)
    dashboard = re.search(r"dashboard: http://localhost:3000/d/([\w-]+)", told)
    assert runbook
    assert dashboard
    assert (stack.project / runbook[1]).is_file()
    boards = (stack.project / "observability" / "grafana" / "dashboards").glob("*.json")
    assert dashboard[1] in {json.loads(board.read_text(encoding="utf-8"))["uid"] for board in boards}


def test_the_heartbeat_is_heard(stack: Stack) -> None:
    wait_for(lambda: "heartbeat" in stack.compose("logs", "alert-inbox"), "nobody hears the heartbeat", seconds=120)


def test_ports_that_are_taken_are_named_with_their_variables(stack: Stack) -> None:
    other = Stack(stack.project, f"{stack.name}-other")
    other.environment |= {name: str(port) for name, port in stack.ports.items()}

    done = other.make("up")

    assert done.returncode != 0
    assert done.stderr.startswith("Nothing was started.\n")
    told = re.findall(r"^- Port (\d+) is taken, and [\w-]+ needs it\. .* (\w+)=\d+ make up$", done.stderr, re.MULTILINE)
    # Grafana is left out of these tests, and the others are of profiles that nobody asked for.
    free = {"DEV_PORT", "DEBUG_PORT", "GRAFANA_PORT", "TOXIPROXY_PORT"}
    assert {(name, int(port)) for port, name in told} == {
        (name, port) for name, port in stack.ports.items() if name not in free
    }
    assert other.leftovers() == []


def test_an_engine_that_does_not_answer_is_told_with_what_to_do(stack: Stack) -> None:
    other = Stack(stack.project, f"{stack.name}-other")
    other.environment["DOCKER_HOST"] = "unix:///nowhere/docker.sock"

    done = other.make("up")

    assert done.returncode != 0
    assert "The Docker engine does not answer. Start it" in done.stderr


@pytest.mark.parametrize(
    ("answers", "services"),
    [
        ({"observability_stack": "no"}, {"app", "db", "migrate"}),
        ({"observability_stack": "no", "database": "none", "production_image": "standard"}, {"app"}),
    ],
    ids=["postgresql, distroless", "none, standard"],
)
def test_without_the_stack_the_service_still_starts(
    answers: dict[str, str], services: set[str], cookies_session: Any
) -> None:
    context = answers | {"project_slug": "alone"}
    project = Path(cookies_session.bake(template=str(ROOT), extra_context=context).project_path)
    stack = Stack(project, f"alone-{uuid4().hex[:8]}")
    try:
        stack.prepare()
        stack.up()

        assert set(stack.containers()) == services
        assert stack.ask("alone").status == 200
        ports = {"HTTP_PORT", "METRICS_PORT", "DEV_PORT", "DEBUG_PORT"}
        assert set(stack.ports) == ports | ({"TOXIPROXY_PORT"} if "db" in services else set())
        assert re.findall(r"http://localhost:(\d+)", stack.said) == [
            str(stack.ports["HTTP_PORT"]),
            str(stack.ports["METRICS_PORT"]),
        ]
    finally:
        stack.remove()
    assert stack.leftovers() == []


def test_the_code_on_disk_runs_beside_it_and_restarts_at_a_save(stack: Stack) -> None:
    facts = stack.project / "app" / "service.toml"
    stack.compose("up", "--detach", "--build", "--wait", "dev")
    assert stack.client("DEV_PORT").send("GET", "/api/v1/items").status == 200

    text = facts.read_text(encoding="utf-8")
    facts.write_text(text.replace('title = "SRE Demo API"', 'title = "Saved"'), encoding="utf-8")
    try:
        wait_for(
            lambda: '"title":"Saved"' in stack.client("DEV_PORT").send("GET", "/openapi.json").body,
            "what was saved is not served",
        )
        assert '"title":"SRE Demo API"' in stack.client("HTTP_PORT").send("GET", "/openapi.json").body
    finally:
        facts.write_text(text, encoding="utf-8")
        stack.compose("--profile=dev", "rm", "--stop", "--force", "dev")
