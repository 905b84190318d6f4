"""The rules of a service: for all answers, on what it really measures, and as the SRE workbook means them."""

import json
import os
import re
import subprocess
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import components
import pytest
import yaml
from burn_rates import HOUR, PAIRS, Outcome, Pair, Phase
from conftest import ROOT, Bake
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from test_prompts import RIGHT, WRONG
from test_service import CACHE, default_python, environment_name, make

from demo.client import Client, NoAnswerError
from demo.ports import LOOPBACK, available

pytestmark = pytest.mark.ci

# How often Prometheus scrapes and looks here: windows over an hour move every five minutes anyway.
SCRAPES_A_MINUTE = 4
STEP = 5


@pytest.fixture(scope="session")
def promtool() -> Path:
    """The real one."""
    return components.build("prometheus") / "promtool"


def run(*command: str | Path, cwd: Path | None = None) -> str:
    """Return what a program says; that is also the reason when it fails."""
    done = subprocess.run([str(word) for word in command], cwd=cwd, capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.fail(f"{done.stdout[-5000:]}\n{done.stderr[-5000:]}", pytrace=False)
    return done.stdout


def rules_of(project: Path) -> Path:
    return project / "observability" / "prometheus"


def python_of(project: Path) -> Path:
    """The Python of an environment that has all that the service needs."""
    make(project)
    return CACHE / environment_name(project, default_python()) / "bin" / "python"


def series(phases: Iterable[Phase], rate: Callable[[Phase], float]) -> str:
    """A counter in promtool's notation, after what it grows by in a minute of each phase."""
    parts, value = [], 0.0
    for phase in phases:
        growth = rate(phase) / SCRAPES_A_MINUTE
        samples = phase.minutes * SCRAPES_A_MINUTE
        # The first sample is where the last phase ended.
        parts.append(f"{value!r}+{growth!r}x{samples - 1}")
        value += growth * samples
    return " ".join([*parts, repr(value)])


def judge(
    promtool: Path,
    project: Path,
    folder: Path,
    phases: Sequence[Phase],
    expected: Mapping[int, Mapping[Pair, bool]],
    step: int = STEP,
) -> None:
    """Let Prometheus' own rules see these phases, and say at each minute which pairs fire, among those asked for."""
    questions = []
    for minute, pairs in expected.items():
        asked = "|".join(pair.name for pair in pairs)
        alert = f'ALERTS{{alertname="AvailabilityErrorBudgetBurn", alertstate="firing", long_window=~"{asked}"}}'
        questions.append({
            "expr": f"count by (long_window) ({alert})",
            "eval_time": f"{minute}m",
            "exp_samples": [
                {"labels": f'{{long_window="{pair.name}"}}', "value": 1} for pair, fires in pairs.items() if fires
            ],
        })  # fmt: skip
    counter = f'http_requests_total{{job="{project.name}", instance="a", status='
    test = {
        "rule_files": [str(rules_of(project) / name) for name in ("recording.yml", "alerts.yml")],
        "evaluation_interval": f"{step}m",
        # Otherwise by chance: an alert that is looked at first finds nothing that was recorded within its five minutes.
        "group_eval_order": ["slo-availability", "slo-latency", "slo-budget", "slo-availability-alerts"],
        "tests": [
            {
                "interval": f"{60 // SCRAPES_A_MINUTE}s",
                "input_series": [
                    {
                        "series": f'{counter}"200"}}',
                        "values": series(phases, lambda phase: phase.requests * (1 - phase.failing)),
                    },
                    {
                        "series": f'{counter}"500"}}',
                        "values": series(phases, lambda phase: phase.requests * phase.failing),
                    },
                ],
                "promql_expr_test": questions,
            }
        ],
    }
    path = folder / "pattern_test.json"
    path.write_text(json.dumps(test), encoding="utf-8")
    run(promtool, "test", "rules", path)


# Answers at the edges of what is asked for, and some between that are hard to write as decimals; with and without what
# decides about rules.
ANSWERS = [
    {"slo_availability": "95", "slo_latency_ms": "5", "database": "none"},
    {"slo_availability": "99.99", "slo_latency_ms": "10000"},
    {"slo_availability": "99.975", "slo_latency_ms": "1000", "database": "none", "project_slug": "null", "team": "1e3"},
    {"slo_availability": "99.5", "slo_latency_ms": "12", "observability_stack": "no"},
    {"slo_availability": "97.0", "slo_latency_ms": "2500", "database": "none", "observability_stack": "no"},
    {"slo_availability": "99.9", "slo_latency_ms": "300"},
]


@pytest.mark.parametrize("answers", ANSWERS, ids=lambda answers: "-".join(answers.values()))
def test_make_rules_passes_whatever_is_answered(
    answers: dict[str, str], bake: Bake, promtool: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PROMTOOL", str(promtool))

    make(bake(**answers), "rules")


@pytest.mark.parametrize("answers", ANSWERS, ids=lambda answers: "-".join(answers.values()))
def test_the_threshold_of_the_rules_is_a_bound_that_the_service_emits(answers: dict[str, str], bake: Bake) -> None:
    project = bake(**answers)
    emit = (
        "from app.core.config import Settings\n"
        "from app.core.metrics import Metrics\n"
        "from prometheus_client import generate_latest\n"
        "metrics = Metrics(Settings())\n"
        "metrics.expect([('GET', '/')])\n"
        "print(generate_latest(metrics.registry).decode())\n"
    )
    rules = (rules_of(project) / "recording.yml").read_text(encoding="utf-8")

    emitted = run(python_of(project), "-c", emit, cwd=project)

    (bound,) = set(re.findall(r'le="([^"]+)"', rules))
    assert f'http_request_duration_seconds_bucket{{le="{bound}",method="GET",route="/",status="200"}}' in emitted


def test_no_objective_is_slower_than_the_deadline(default_project: Path) -> None:
    config = (default_project / "app" / "core" / "config.py").read_text(encoding="utf-8")
    deadline = re.search(r"request_timeout_seconds: float = Field\(\s+([\d.]+)", config)
    slowest = max(int(value) for name, value in RIGHT if name == "slo_latency_ms")

    assert ("slo_latency_ms", str(slowest + 1)) in WRONG
    assert deadline
    assert slowest / 1000 < float(deadline[1])


@pytest.mark.parametrize("pair", PAIRS, ids=lambda pair: pair.name)
def test_an_alert_has_spent_the_budget_that_the_workbook_says_when_it_fires(
    pair: Pair, default_project: Path, promtool: Path, tmp_path: Path
) -> None:
    # Errors of a third more than its factor, after a time without any that is as long as its window.
    burn = pair.factor * 4 / 3
    phases = [Phase(pair.long, 6000, 0), Phase(pair.long, 6000, burn * 0.001)]
    outcome = Outcome(phases, budget=0.001)

    detected = outcome.first(pair)

    assert detected - pair.long == pytest.approx(pair.long * 3 / 4, abs=1)
    assert outcome.spent(detected, since=pair.long) == pytest.approx(pair.spent, rel=0.05)
    look = detected // STEP * STEP
    judge(promtool, default_project, tmp_path, phases, {look - STEP: {pair: False}, look + STEP: {pair: True}})


def test_a_whole_outage_pages_within_two_minutes(default_project: Path, promtool: Path, tmp_path: Path) -> None:
    hour, outage = PAIRS[0], [Phase(HOUR, 6000, 0), Phase(10, 6000, 1)]

    assert Outcome(outage, budget=0.001).first(hour) == HOUR + 1
    judge(promtool, default_project, tmp_path, outage, {HOUR: {hour: False}, HOUR + 2: {hour: True}}, step=1)


@st.composite
def patterns(draw: st.DrawFn) -> tuple[float, list[Phase]]:
    """A budget, and some phases of a service that is busy, idle, well, ill or both."""
    budget = draw(st.sampled_from([0.05, 0.001, 0.0001]))
    failing = st.one_of(
        st.just(0.0),
        st.floats(0, 1),
        st.floats(0.5, 30).map(lambda burn: min(1.0, burn * budget)),
    )
    phase = st.builds(
        Phase,
        minutes=st.sampled_from([5, 10, 30, 60, 180, 720]),
        requests=st.sampled_from([0, 0.2, 5, 600, 100_000]),
        failing=failing,
    )
    return budget, draw(st.lists(phase, min_size=1, max_size=5))


@pytest.fixture(scope="module")
def projects(cookies_session: Any) -> Mapping[float, Path]:
    """Services by their error budget."""
    answers = {0.05: "95", 0.001: "99.9", 0.0001: "99.99"}
    return {
        budget: Path(cookies_session.bake({"slo_availability": answer}, template=str(ROOT)).project_path)
        for budget, answer in answers.items()
    }


@settings(max_examples=12, deadline=None, database=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(pattern=patterns())
def test_prometheus_fires_when_the_workbook_says_so(
    pattern: tuple[float, list[Phase]], projects: Mapping[float, Path], promtool: Path, tmp_path: Path
) -> None:
    budget, phases = pattern
    outcome = Outcome(phases, budget)

    expected = {}
    for minute in moments(phases):
        # Near its threshold, a rate that is estimated from samples may be on either side.
        decided = {pair: outcome.fires(pair, minute, STEP, 1 / 1.1) for pair in PAIRS}
        expected[minute] = {
            pair: fires for pair, fires in decided.items() if outcome.fires(pair, minute, STEP, 1.1) == fires
        }
    assert any(expected.values())
    judge(promtool, projects[budget], tmp_path, phases, expected)


def moments(phases: Sequence[Phase]) -> list[int]:
    """Minutes to look at: often after each change, and now and then between two."""
    found, begun = set(), 0
    for phase in phases:
        after = {STEP, 2 * STEP, 3 * STEP, 6 * STEP, HOUR, 2 * HOUR, phase.minutes // 2 // STEP * STEP, phase.minutes}
        found |= {begun + minutes for minutes in after if 0 < minutes <= phase.minutes}
        begun += phase.minutes
    return sorted(found)


# What no service emits, and who does. Each is a beginning of names.
ELSEWHERE = {
    "up": "Prometheus itself, of each target",
    "ALERTS": "Prometheus itself, of each alert",
    "job:": "recording.yml",
    "alertmanager_": "Alertmanager",
    "prometheus_": "Prometheus",
    "otelcol_": "the Collector, and Jaeger, which is one",
    "container_": "cAdvisor",
}
# What Prometheus adds to what it scrapes.
TARGET = {"job", "instance"}

KEYWORDS = {"and", "or", "unless", "by", "on", "without", "ignoring"}


def rules(project: Path) -> list[Mapping[str, Any]]:
    """All rules, each with the labels of its group."""
    files = [rules_of(project) / "recording.yml", *sorted(rules_of(project).glob("alerts*.yml"))]
    groups = [group for file in files for group in yaml.safe_load(file.read_text(encoding="utf-8"))["groups"]]
    return [rule | {"group": group.get("labels", {})} for group in groups for rule in group["rules"]]


def selectors(expression: str) -> Iterator[tuple[str, set[str]]]:
    """The name of each series that an expression reads, with the labels that it selects by."""
    without_groups = re.sub(r"\b(by|on|without|ignoring)\s*\([^)]*\)", " ", expression)
    for name, call, matchers in re.findall(
        r"(?<![\w:\"\[.])([a-zA-Z_:][\w:]*)\s*(\()?(\{[^}]*\})?", unquoted(without_groups)
    ):
        if not call and name not in KEYWORDS:
            yield name, set(re.findall(r"(\w+)\s*[=!]", matchers))


def unquoted(expression: str) -> str:
    """The expression without what stands in quotes or square brackets."""
    return re.sub(r"\[[^\]]*\]", "", re.sub(r'"[^"]*"', "", expression))


@pytest.fixture(scope="module")
def emitted(cookies_session: Any, tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, set[str]]:
    """The labels of each series of a running service: with a database, whose pool is measured also where it is away."""
    project = Path(cookies_session.bake({}, template=str(ROOT)).project_path)
    http_port, metrics_port = available([0, 0])
    settings = {"STORAGE_URL": f"postgresql://app:app@{LOOPBACK}:1/app", "DRAIN_SECONDS": "0"}
    ports = {"HTTP_PORT": str(http_port), "METRICS_PORT": str(metrics_port)}
    service = subprocess.Popen(
        [python_of(project), "-m", "app"],
        cwd=project,
        env={"PATH": os.environ["PATH"], **settings, **ports},
        stdout=subprocess.DEVNULL,
    )
    try:
        wait_until_it_answers(Client(http_port), "/health/ready")
        found: dict[str, set[str]] = {}
        for line in Client(metrics_port).send("GET", "/metrics").body.splitlines():
            if sample := re.match(r"(\w+)(?:\{(.*)\})? ", line):
                found.setdefault(sample[1], set()).update(re.findall(r'(\w+)="', sample[2] or ""))
        return found
    finally:
        service.terminate()
        service.wait()


def wait_until_it_answers(client: Client, path: str) -> None:
    deadline = time.monotonic() + 60
    while True:
        try:
            client.send("GET", path)
        except NoAnswerError:
            assert time.monotonic() < deadline, "the service does not start"
            time.sleep(0.1)
        else:
            return


def test_every_series_and_label_of_a_rule_is_emitted(default_project: Path, emitted: Mapping[str, set[str]]) -> None:
    unknown = []
    read = set()
    for rule in rules(default_project):
        for name, labels in selectors(str(rule["expr"])):
            if name.startswith(tuple(ELSEWHERE)):
                continue
            read.add(name)
            unknown += [f"{name}{{{label}}}" for label in labels - TARGET - emitted.get(name, set())]
            unknown += [name] if name not in emitted else []

    assert unknown == []
    # So the expressions were understood.
    assert {"http_requests_total", "http_request_duration_seconds_bucket", "circuit_breaker_state"} <= read
    assert {"db_pool_connections", "app_event_loop_lag_seconds", "telemetry_dropped_total"} <= read


def test_every_recorded_series_that_a_rule_reads_is_recorded(default_project: Path) -> None:
    known = {rule["record"] for rule in rules(default_project) if "record" in rule}
    read = {name for rule in rules(default_project) for name, _ in selectors(str(rule["expr"]))}

    assert {name for name in read if name.startswith("job:")} <= known
    assert len(known) == 54


def test_every_alert_says_what_is_wrong_whose_it_is_and_where_to_go(default_project: Path) -> None:
    incomplete = []
    for rule in rules(default_project):
        if "alert" not in rule:
            continue
        labels, annotations = rule["group"] | rule.get("labels", {}), rule["annotations"]
        wanted = ["summary", "description", "runbook_url", "dashboard_url"]
        incomplete += [f"{rule['alert']}: {name}" for name in wanted if not annotations.get(name, "").strip()]
        incomplete += [f"{rule['alert']}: team"] if labels.get("team") != "platform" else []
        incomplete += [f"{rule['alert']}: severity"] if labels.get("severity") not in {"page", "ticket", "none"} else []

    assert incomplete == []


def test_every_runbook_exists_one_for_each_alert_of_the_service(bake: Bake) -> None:
    for answers in ({}, {"database": "none"}, {"observability_stack": "no"}):
        project = bake(**answers)
        lost = []
        for rule in rules(project):
            if "alert" not in rule:
                continue
            address, _, anchor = rule["annotations"]["runbook_url"].partition("#")
            page = project / address.partition("/blob/main/")[2]
            kebab = re.sub(r"(?<=[a-z])(?=[A-Z])", "-", rule["alert"]).lower()
            headings = re.findall(r"^#+ (.+)$", page.read_text("utf-8"), re.MULTILINE) if page.is_file() else []
            found = anchor in {heading.lower() for heading in headings} if anchor else bool(headings)
            lost += [] if found and (anchor or page.stem == kebab) else [rule["alert"]]

        assert sorted(set(lost)) == [], answers
