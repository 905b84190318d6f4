"""Prometheus, by the rules of a service, calls people when the SRE workbook says so, and not otherwise."""

import json
import re
import subprocess
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import components
import pytest
from burn_rates import HOUR, PAIRS, Outcome, Pair, Phase
from conftest import ROOT
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

pytestmark = pytest.mark.ci

# How often Prometheus scrapes and looks here, the latter in minutes: windows over an hour move every five anyway.
SCRAPES_A_MINUTE = 4
STEP = 5


class Judge(Protocol):
    """Let Prometheus see phases by the rules of a project: at these minutes, which pairs fire, of those asked for?"""

    def __call__(
        self,
        project: Path,
        phases: Sequence[Phase],
        expected: Mapping[int, Mapping[Pair, bool]],
        step: int = STEP,
    ) -> None: ...


@pytest.fixture
def judge(tmp_path: Path) -> Judge:
    """Return a function that asks the real Prometheus, and fails with what it says instead."""
    promtool = components.build("prometheus") / "promtool"

    def ask(
        project: Path,
        phases: Sequence[Phase],
        expected: Mapping[int, Mapping[Pair, bool]],
        step: int = STEP,
    ) -> None:
        counter = f'http_requests_total{{job="{project.name}", instance="a", status='
        rules = project / "observability" / "prometheus"
        pattern = {
            "interval": f"{60 // SCRAPES_A_MINUTE}s",
            "input_series": [
                {
                    "series": f'{counter}"200"}}',
                    "values": samples(phases, lambda one: one.requests * (1 - one.failing)),
                },
                {"series": f'{counter}"500"}}', "values": samples(phases, lambda one: one.requests * one.failing)},
            ],
            "promql_expr_test": [question(minute, pairs) for minute, pairs in expected.items()],
        }
        test = {
            "rule_files": [str(rules / "recording.yml"), str(rules / "alerts.yml")],
            "evaluation_interval": f"{step}m",
            # Otherwise by chance: an alert that is looked at first finds nothing that was recorded since it last was.
            "group_eval_order": ["slo-availability", "slo-latency", "slo-budget", "slo-availability-alerts"],
            "tests": [pattern],
        }
        path = tmp_path / "pattern_test.json"
        path.write_text(json.dumps(test), encoding="utf-8")
        done = subprocess.run([promtool, "test", "rules", path], capture_output=True, text=True, check=False)
        if done.returncode:
            pytest.fail(f"{phases}\n{done.stderr[-5000:]}", pytrace=False)

    return ask


def samples(phases: Iterable[Phase], rate: Callable[[Phase], float]) -> str:
    """A counter in promtool's notation, by how much it grows in a minute of each phase."""
    parts, value = [], 0.0
    for phase in phases:
        growth, number = rate(phase) / SCRAPES_A_MINUTE, phase.minutes * SCRAPES_A_MINUTE
        parts.append(f"{value!r}+{growth!r}x{number - 1}")
        value += growth * number
    return " ".join([*parts, repr(value)])


def question(minute: int, pairs: Mapping[Pair, bool]) -> dict[str, Any]:
    """Which of these pairs fire at a minute, in promtool's words."""
    names = "|".join(pair.name for pair in pairs)
    alert = f'ALERTS{{alertname="AvailabilityErrorBudgetBurn", alertstate="firing", long_window=~"{names}"}}'
    firing = [pair.name for pair, fires in pairs.items() if fires]
    return {
        "expr": f"count by (long_window) ({alert})",
        "eval_time": f"{minute}m",
        "exp_samples": [{"labels": f'{{long_window="{name}"}}', "value": 1} for name in firing],
    }


@pytest.mark.parametrize("pair", PAIRS, ids=lambda pair: pair.name)
def test_an_alert_has_spent_the_budget_that_the_workbook_says_when_it_fires(
    pair: Pair, default_project: Path, judge: Judge
) -> None:
    # Errors of a third more than its factor, after a time without any that is as long as its window.
    burn = pair.factor * 4 / 3
    phases = [Phase(pair.long, 6000, 0), Phase(pair.long, 6000, burn * 0.001)]
    outcome = Outcome(phases, budget=0.001)

    detected = outcome.first(pair)

    assert detected - pair.long == pytest.approx(pair.long * 3 / 4, abs=1)
    assert outcome.spent(detected, since=pair.long) == pytest.approx(pair.spent, rel=0.05)
    look = detected // STEP * STEP
    judge(default_project, phases, {look - STEP: {pair: False}, look + STEP: {pair: True}})


def test_a_whole_outage_pages_within_two_minutes(default_project: Path, judge: Judge) -> None:
    hour, outage = PAIRS[0], [Phase(HOUR, 6000, 0), Phase(10, 6000, 1)]

    assert Outcome(outage, budget=0.001).first(hour) == HOUR + 1
    judge(default_project, outage, {HOUR: {hour: False}, HOUR + 2: {hour: True}}, step=1)


def test_the_page_on_objectives_shows_what_happens(default_project: Path) -> None:
    page = (default_project / "docs" / "architecture" / "SLO.md").read_text(encoding="utf-8")
    drawn = [[float(value) for value in line.split(",")] for line in re.findall(r"    line \[(.+)\]", page)]
    told = re.findall(r"^\| (?:page|ticket) \| (\d+) h .*\| ([\dhmins ]+) \| [^|]+ \| (\d+) % \|$", page, re.MULTILINE)
    hour = PAIRS[0]
    # An hour without errors comes first: minute 0 of the page is minute 60 here.
    outcome = Outcome([Phase(HOUR, 6000, failing) for failing in (0, 20 * 0.001, 0)], budget=0.001)
    outage = Outcome([Phase(PAIRS[-1].long, 6000, 0), Phase(HOUR, 6000, 1)], budget=0.001)

    seen = [[outcome.burn(minute, window) for minute in range(HOUR, 3 * HOUR + 1, 10)] for window in (5, HOUR)]

    assert drawn == [*(pytest.approx(line, abs=0.05) for line in seen), [hour.factor] * 13]
    beyond = sum(outcome.burn(minute, HOUR) > hour.factor for minute in range(2 * HOUR, 3 * HOUR))
    assert f"It pages after {outcome.first(hour) - HOUR} minutes" in page
    assert f"it would go on\nfor {beyond}." in page
    assert [(int(long) * HOUR, int(spent) / 100) for long, _, spent in told] == [
        (pair.long, pair.spent) for pair in PAIRS
    ]
    for pair, (_, after, _) in zip(PAIRS, told, strict=True):
        minutes, seconds = (int((re.findall(rf"(\d+) {unit}", after) or ["0"])[0]) for unit in ("min", "s"))
        # The simulation has no seconds.
        assert outage.first(pair) - PAIRS[-1].long == minutes + (seconds > 0)


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
    pattern: tuple[float, list[Phase]], projects: Mapping[float, Path], judge: Judge
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
    judge(projects[budget], phases, expected)


def moments(phases: Sequence[Phase]) -> list[int]:
    """Minutes to look at: often after each change, and now and then between two."""
    found, begun = set(), 0
    for phase in phases:
        after = {STEP, 2 * STEP, 3 * STEP, 6 * STEP, HOUR, 2 * HOUR, phase.minutes // 2 // STEP * STEP, phase.minutes}
        found |= {begun + minutes for minutes in after if 0 < minutes <= phase.minutes}
        begun += phase.minutes
    return sorted(found)
