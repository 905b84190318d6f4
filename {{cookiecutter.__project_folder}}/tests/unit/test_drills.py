"""The runner of drills: what a file may say, when a hypothesis held, and that nothing is left behind whatever happens.

Nothing here uses the network, an engine or real time.
"""

import asyncio
import io
import json
import os
import signal
import threading
from collections.abc import Callable, Coroutine, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from app.core.config import Slo
from tests.chaos import record, report, spec
from tests.chaos.__main__ import main
from tests.chaos.client import Answer, NoAnswerError
from tests.chaos.client import parsed as parsed_head
from tests.chaos.observe import Fired, Look, Observer, Targets, parsed
from tests.chaos.runner import Clock, Outcome, Runner, run_to_the_end, to_people
from tests.chaos.spec import Drill, DrillError, Phase
from tests.chaos.stack import NAME, Stack
from tests.chaos.traffic import Sample, Traffic
from tests.chaos.verdict import Check, Seen, Span, held, judge

SLO = Slo(availability_percent=99.9, latency_threshold_ms=300, latency_percent=99)

MINIMAL = """
title = "A drill"
scenario = "Row"
hypothesis = "It holds."
impact = "none"
requests_per_second = 10
steady_seconds = 10
fault_seconds = 20
after_seconds = 10
fault = { kind = "stop", service = "other" }
protection = { name = "guard", off = { environment = { GUARD = "off" } } }
alerts = [{ name = "Gone", severity = "page", within_seconds = 15, runbook = "README.md" }]

[[bounds]]
says = "users notice nothing"
measure = "availability_percent"
at_least = "objective"
"""


def drill(tmp_path: Path, text: str = MINIMAL) -> Drill:
    path = tmp_path / "a-drill.toml"
    path.write_text(text, encoding="utf-8")
    return spec.read(path)


def test_every_drill_that_is_shipped_can_be_read_and_says_how_it_is_seen_to_fail() -> None:
    drills = [spec.named(name) for name in spec.names()]

    assert drills
    for one in drills:
        assert one.protection.off != spec.Overrides(), one.name
        assert one.scope is spec.Scope.CLUSTER or one.alerts or one.may_fire, one.name


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        ('kind = "stop"', 'kind = "explode"', "fault: Input tag 'explode'"),
        (', service = "other"', "", "fault.stop.service: Field required"),
        ("steady_seconds = 10", "", "steady_seconds: Field required"),
        ("fault_seconds = 20", "fault_seconds = 0", "fault_seconds: Input should be greater than 0"),
        ("impact", "impacts", "impacts: Extra inputs are not permitted"),
        ("availability_percent", "happiness", "bounds.0.measure: Input should be"),
        ('at_least = "objective"', "", "bounds.0: needs either at_most or at_least"),
        ('at_least = "objective"', "at_least = 1\nat_most = 2", "bounds.0: needs either at_most or at_least"),
        ("availability_percent", "restarts", "bounds.0: there is no objective for restarts"),
        ("README.md", "nowhere.md", "alerts.0: docs/runbooks has no nowhere.md"),
        ('title = "A drill"', 'title = "A drill', "a-drill.toml: "),
    ],
)
def test_a_file_that_is_no_drill_is_refused_with_the_place(tmp_path: Path, old: str, new: str, expected: str) -> None:
    assert old in MINIMAL

    with pytest.raises(DrillError, match=r"^a-drill\.toml") as error:
        drill(tmp_path, MINIMAL.replace(old, new, 1))

    assert expected in str(error.value)


def test_a_drill_that_is_not_there_is_told_with_those_that_are() -> None:
    with pytest.raises(DrillError, match=r"there is no drill meteor; there are .*high-traffic"):
        spec.named("meteor")


def test_only_a_drill_with_a_short_form_can_be_shortened(tmp_path: Path) -> None:
    with pytest.raises(DrillError, match="has no short form"):
        drill(tmp_path).shortened()

    short = drill(tmp_path, MINIMAL + "[short]\nsteady_seconds = 1\nfault_seconds = 2\nafter_seconds = 3\n").shortened()

    assert (short.steady_seconds, short.fault_seconds, short.after_seconds) == (1, 2, 3)
    # Nobody waits for them. That they fire all the same is no surprise.
    assert (short.alerts, short.may_fire) == ((), ("Gone",))


PHASES = {Phase.STEADY: Span(0, 10), Phase.FAULT: Span(10, 30), Phase.AFTER: Span(30, 50)}
GONE = Fired("Gone", "page", seen=20, runbook="https://git.example.com/blob/main/docs/runbooks/README.md", notified=22)


def every_tenth(status: Callable[[float], int], seconds: Callable[[float], float] = lambda _: 0.01) -> list[Sample]:
    """Ten requests a second for all phases."""
    moments = [number / 10 for number in range(500)]
    return [Sample(at, seconds(at), status(at), refused=status(at) == 503) for at in moments]


def verdict(one: Drill, **changes: Any) -> dict[str, Check]:
    """The checks of a drill in which all went well but for the changes, by their first word."""
    looks = [Look(float(at), live=True, ready=True, metrics={"circuit_breaker_state{}": 0}) for at in range(50)]
    seen: dict[str, Any] = {"samples": every_tenth(lambda _: 200), "looks": looks, "fired": [GONE]} | changes
    return {check.says.split()[0]: check for check in judge(one, Seen(PHASES, **seen), SLO)}


def test_a_hypothesis_holds_when_everything_is_as_it_says(tmp_path: Path) -> None:
    checks = verdict(drill(tmp_path))

    assert {name: check.held for name, check in checks.items()} == dict.fromkeys(
        ("requests", "before", "users", "Gone", "nobody"), True
    )
    assert checks["Gone"].measured == "after 10 s, told after 12 s, README.md"


@pytest.mark.parametrize(
    ("failed", "changes"),
    [
        ("before", {"samples": every_tenth(lambda at: 500 if at < 1 else 200)}),
        ("before", {"samples": every_tenth(lambda _: 200, lambda at: 0.5 if at < 1 else 0.01)}),
        ("requests", {"samples": [Sample(at / 10, 0.2, 200, late=0.15) for at in range(500)]}),
        ("users", {"samples": every_tenth(lambda at: 0 if 12 <= at < 12.1 else 200)}),
        ("Gone", {"fired": []}),
        ("Gone", {"fired": [Fired("Gone", "ticket", seen=20, runbook=GONE.runbook)]}),
        ("Gone", {"fired": [Fired("Gone", "page", seen=26, runbook=GONE.runbook)]}),
        ("Gone", {"fired": [Fired("Gone", "page", seen=20, runbook="https://git.example.com/other.md")]}),
        ("Gone", {"fired": [Fired("Gone", "page", seen=20, runbook="")]}),
        ("nobody", {"fired": [GONE, Fired("Other", "page", seen=20, runbook="")]}),
    ],
)
def test_it_does_not_hold_when_one_thing_is_otherwise(tmp_path: Path, failed: str, changes: dict[str, Any]) -> None:
    checks = verdict(drill(tmp_path), **changes)

    assert [name for name, check in checks.items() if check.held is False] == [failed]
    assert not held(checks.values())


@pytest.mark.parametrize(("ended", "good"), [(None, False), (45.0, False), (35.0, True)])
def test_an_alert_that_has_to_end_is_waited_for(tmp_path: Path, ended: float | None, good: bool) -> None:
    text = MINIMAL.replace("within_seconds = 15", 'within_seconds = 15, window = "1h", resolves_within_seconds = 10')
    fired = Fired("Gone", "page", seen=20, runbook=GONE.runbook, ended=ended, window="1h")
    # It looks back so far that nobody waits for its end.
    other = Fired("Gone", "page", seen=21, runbook=GONE.runbook, window="6h")

    checks = judge(drill(tmp_path, text), Seen(PHASES, every_tenth(lambda _: 200), [], [fired, other]), SLO)

    assert [check.held for check in checks if check.says.startswith("Gone ends")] == [good]


def test_a_ticket_that_nobody_waits_for_is_no_failure_and_a_page_may_be_allowed(tmp_path: Path) -> None:
    others = [GONE, Fired("Other", "page", seen=20, runbook=""), Fired("Third", "ticket", seen=20, runbook="")]

    assert held(verdict(drill(tmp_path, f'may_fire = ["Other"]{MINIMAL}'), fired=others).values())


def test_where_nobody_watches_alerts_are_not_judged_and_the_verdict_says_so(tmp_path: Path) -> None:
    checks = verdict(drill(tmp_path), fired=[], watched=False)

    assert checks["the"].held is None
    assert "no Prometheus" in checks["the"].measured
    assert held(checks.values())


LOOKS = [
    Look(
        float(at),
        live=at != 15,
        ready=at < 12 or at >= 33,
        metrics={
            'circuit_breaker_state{name="storage"}': 2.0 if 13 <= at < 32 else 0.0,
            # The process begins anew at 20, and its counters with it.
            'retries_total{name="storage",outcome="made"}': 5.0 * (at - (10 if at < 20 else 20)) if at >= 10 else 0.0,
            "process_start_time_seconds{}": 100.0 if at < 20 else 200.0,
        },
    )
    for at in range(50)
]


@pytest.mark.parametrize(
    ("bound", "expected", "good"),
    [
        ('measure = "answered_percent"\nat_least = 100', "95 %", False),
        ('measure = "refused_percent"\nat_least = 40', "45 %", True),
        ('measure = "availability_percent"\nfrom_seconds = 10\nat_most = 10', "0 %", True),
        ('measure = "p50_ms"\nat_most = "objective"', "10 ms", True),
        ('measure = "p99_ms"\nat_most = "objective"', "2000 ms", False),
        ('measure = "admitted_p99_ms"\nat_most = "objective"', "10 ms", True),
        ('measure = "slowest_ms"\nat_most = 2000', "2000 ms", True),
        ('measure = "live_percent"\nat_least = 100', "95 %", False),
        ('measure = "ready_percent"\nat_most = 10', "10 %", True),
        ('measure = "retries_percent"\nat_most = 50', "45 %", True),
        ('measure = "breaker_open_after_seconds"\nat_most = 3', "3.0 s", True),
        ('measure = "breaker_open_after_seconds"\nphase = "steady"\nat_most = 3', "never", False),
        ('measure = "unready_after_seconds"\nat_most = 1', "2.0 s", False),
        ('measure = "recovered_after_seconds"\nphase = "after"\nat_most = 5', "3.9 s", True),
        ('measure = "recovered_after_seconds"\nat_most = 5', "never", False),
        ('measure = "restarts"\nat_least = 1', "1", True),
        ('measure = "restarted_after_seconds"\nat_least = 11', "10.0 s", False),
        ('measure = "replicas"\nat_least = 4', "4", True),
    ],
)
def test_each_measure_is_what_its_name_says(tmp_path: Path, bound: str, expected: str, good: bool) -> None:
    text = MINIMAL.partition("[[bounds]]")[0] + f'[[bounds]]\nsays = "bound"\n{bound}\n'

    def status(at: float) -> int:
        # For half a phase all is well; then there is no answer for a second, then refusals until the fault is over.
        return 0 if 20 <= at < 21 else 503 if 21 <= at < 34 else 200

    samples = every_tenth(status, lambda at: 2.0 if 20 <= at < 21 else 0.01)
    checks = verdict(drill(tmp_path, text), samples=samples, looks=LOOKS, replicas=[(11.0, 2), (15.0, 4), (40.0, 9)])

    assert (checks["bound"].measured, checks["bound"].held) == (expected, good)


def test_what_was_not_measured_does_not_hold(tmp_path: Path) -> None:
    checks = verdict(drill(tmp_path), samples=[])

    assert (checks["users"].measured, checks["users"].held) == ("nothing to measure", False)
    assert (checks["requests"].measured, checks["requests"].held) == ("nothing was sent", False)


def test_metrics_are_read_from_the_text_that_the_service_gives() -> None:
    text = 'retries_total{name="storage",outcome="made"} 3.0\nother_total 1.0\nprocess_start_time_seconds 1.5e9\n'

    assert parsed(f"# HELP x\n{text}") == {
        'retries_total{name="storage",outcome="made"}': 3.0,
        "process_start_time_seconds{}": 1.5e9,
    }


Answers = Callable[..., Coroutine[None, None, Answer]]


async def sent_by(answers: Answers, clock: list[float]) -> list[Sample]:
    """What traffic takes down of answers like these, until the clock has no more times."""
    traffic = Traffic("http://nowhere", 1000, lambda: clock.pop(0) if len(clock) > 1 else clock[0])
    traffic._client.send = answers  # type: ignore[method-assign]
    task = asyncio.create_task(traffic.attempt(0))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    return traffic.samples


async def silence(*_: object) -> Answer:
    await asyncio.Event().wait()
    raise AssertionError


async def refusal(*_: object) -> Answer:
    return Answer(503, {"retry-after": "1"})


async def broken(*_: object) -> Answer:
    raise NoAnswerError("the connection broke")


@pytest.mark.parametrize(
    ("answers", "clock", "expected"),
    [
        (refusal, [0.1, 0.3], [Sample(0, 0.3, 503, refused=True, late=0.1)]),
        (broken, [0.1, 0.3], [Sample(0, 0.3, 0, late=0.1)]),
        # When the drill ends, what has waited for long had no answer; what was just sent may yet have got one.
        (silence, [0.1, 5.0], [Sample(0, 5.0, 0, late=0.1)]),
        (silence, [0.1, 0.5], []),
    ],
)
def test_traffic_takes_down_every_request_and_counts_from_when_it_was_due(
    answers: Answers, clock: list[float], expected: list[Sample]
) -> None:
    assert asyncio.run(sent_by(answers, list(clock))) == expected


def test_the_head_of_an_answer_is_read() -> None:
    answer = parsed_head(b"HTTP/1.1 503 Service Unavailable\r\nRetry-After: 1\r\ncontent-length: 5\r\n\r\n")

    assert answer == Answer(503, {"retry-after": "1", "content-length": "5"})


@pytest.mark.parametrize("head", [b"\r\n\r\n", b"HTTP/1.1 none\r\n\r\n", b"garbage\r\n\r\n"])
def test_what_is_no_answer_is_told_as_such(head: bytes) -> None:
    with pytest.raises(ValueError):  # noqa: PT011 - int() has words of its own
        parsed_head(head)


def alert(name: str, **labels: str) -> dict[str, Any]:
    return {"labels": {"alertname": name, **labels}, "annotations": {"runbook_url": f"https://x/{name}.md"}}


def test_alerts_are_taken_down_when_they_begin_are_told_and_end() -> None:
    observer = Observer(Targets("", absent=frozenset({"loki"})), Traffic("", 1, lambda: 0), lambda: 0)

    observer.note(1, [alert("Watchdog", severity="none"), alert("StackTargetDown", job="loki")], set())
    observer.note(2, [alert("Gone", severity="page"), alert("StackTargetDown", job="app", severity="ticket")], set())
    observer.note(3, [alert("Gone", severity="page")], {"Gone"})
    observer.note(4, [], set())
    observer.note(5, [alert("Gone", severity="page")], set())

    assert [(one.name, one.seen, one.notified, one.ended) for one in observer.fired] == [
        ("Gone", 2, 3, 4),
        ("StackTargetDown", 2, None, 3),
        ("Gone", 5, None, None),
    ]
    assert observer.fired[0].runbook == "https://x/Gone.md"


class Time:
    """Time that passes only when somebody waits."""

    def __init__(self) -> None:
        self.at = 1000.0
        self.clock = Clock(lambda: self.at, self.sleep)

    async def sleep(self, seconds: float) -> None:
        self.at += seconds
        await asyncio.sleep(0)


class FakePlace:
    """A place that writes down what is done to it, and fails where it is told to."""

    def __init__(self, *, refusal: str = "", left: Sequence[str] = (), fails: str = "") -> None:
        self.done: list[str] = []
        self._refusal = refusal
        self._left = list(left)
        self._fails = fails

    def _do(self, what: str) -> None:
        self.done.append(what)
        if what == self._fails:
            raise DrillError(f"{what} failed")

    def refusal(self) -> str:
        return self._refusal

    def leftovers(self) -> list[str]:
        return self._left

    def start(self) -> Targets:
        self._do("start")
        return Targets("http://nowhere", prometheus="http://nowhere")

    def inject(self) -> float | None:
        self._do("inject")
        return 50

    def restore(self) -> None:
        self._do("restore")

    def replicas(self) -> int:
        return 1

    def clean(self) -> None:
        self._do("clean")


class Blind(Observer):
    """An observer that looks at nothing, and fails where it is told to."""

    fails = False

    async def run(self) -> None:
        if self.fails:
            raise DrillError("observing failed")
        await asyncio.Event().wait()


def runner(
    one: Drill,
    place: FakePlace,
    time: Time | None = None,
    watch: type[Blind] = Blind,
    say: Callable[[str], None] = lambda _: None,
) -> Runner:
    return Runner(
        one,
        place,
        (time or Time()).clock,
        lambda targets, drill, clock: watch(targets, Traffic("", drill.requests_per_second, clock), clock),
        say,
    )


def test_a_drill_goes_through_its_phases_in_order_and_cleans_up(tmp_path: Path) -> None:
    place = FakePlace()

    outcome = run_to_the_end(runner(drill(tmp_path), place))

    assert place.done == ["start", "inject", "restore", "clean"]
    assert outcome.seen.phases == {Phase.STEADY: Span(5, 15), Phase.FAULT: Span(15, 35), Phase.AFTER: Span(35, 45)}
    told = [event.text.partition(":")[0] for event in outcome.events]
    assert told == ["warming up", "steady", "fault begins", "fault ends"]


@pytest.mark.parametrize(
    ("fails", "done"),
    [
        ("start", ["start", "clean"]),
        ("inject", ["start", "inject", "restore", "clean"]),
        ("restore", ["start", "inject", "restore", "clean"]),
    ],
)
def test_it_cleans_up_when_something_fails(tmp_path: Path, fails: str, done: list[str]) -> None:
    place = FakePlace(fails=fails)

    with pytest.raises(DrillError, match=f"{fails} failed"):
        run_to_the_end(runner(drill(tmp_path), place))

    assert place.done == done


def test_it_cleans_up_when_observing_fails(tmp_path: Path) -> None:
    class Broken(Blind):
        fails = True

    place = FakePlace()

    with pytest.raises(DrillError, match="observing failed"):
        run_to_the_end(runner(drill(tmp_path), place, watch=Broken))

    assert place.done[-1] == "clean"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
@pytest.mark.parametrize("at", [1005.0, 1020.0, 1040.0], ids=["steady", "fault", "after"])
def test_it_cleans_up_when_it_is_told_to_stop(tmp_path: Path, number: signal.Signals, at: float) -> None:
    class Interrupted(Time):
        async def sleep(self, seconds: float) -> None:
            if self.at >= at:
                os.kill(os.getpid(), number)
                await asyncio.Event().wait()
            await super().sleep(seconds)

    place = FakePlace()

    with pytest.raises(KeyboardInterrupt):
        run_to_the_end(runner(drill(tmp_path), place, Interrupted()))

    assert place.done[-1] == "clean"
    assert ("restore" in place.done) == ("inject" in place.done)


@pytest.mark.parametrize("times", [1, 2])
def test_a_fault_that_is_beginning_when_it_is_told_to_stop_is_waited_for_and_then_ended(
    tmp_path: Path, times: int
) -> None:
    async def stopped() -> list[str]:
        loop = asyncio.get_running_loop()
        beginning, may_begin = asyncio.Event(), threading.Event()

        class Slow(FakePlace):
            def inject(self) -> float | None:
                loop.call_soon_threadsafe(beginning.set)
                may_begin.wait()
                return super().inject()

        place = Slow()
        drilling = asyncio.create_task(runner(drill(tmp_path), place).run())
        await beginning.wait()
        for _ in range(times):
            drilling.cancel()
            # Enough for whoever does not wait to be through.
            for _ in range(20):
                await asyncio.sleep(0)
        may_begin.set()
        with pytest.raises(asyncio.CancelledError):
            await drilling
        return place.done

    assert asyncio.run(stopped()) == ["start", "inject", "restore", "clean"]


def test_requests_go_on_while_a_fault_begins_and_ends(tmp_path: Path) -> None:
    held_up_by = []

    class Place(FakePlace):
        def _do(self, what: str) -> None:
            super()._do(what)
            if threading.current_thread() is threading.main_thread():
                held_up_by.append(what)

    place = Place()

    run_to_the_end(runner(drill(tmp_path), place))

    assert place.done == ["start", "inject", "restore", "clean"]
    assert held_up_by == ["start", "clean"]


def test_it_cleans_up_when_nobody_listens_any_more(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Closed(io.StringIO):
        def write(self, _: str) -> int:
            raise BrokenPipeError

    monkeypatch.setattr("sys.stderr", Closed())
    place = FakePlace()

    run_to_the_end(runner(drill(tmp_path), place, say=to_people))

    assert place.done == ["start", "inject", "restore", "clean"]


def test_what_an_earlier_drill_left_is_removed_first(tmp_path: Path) -> None:
    place = FakePlace(left=["container", "volume"])

    run_to_the_end(runner(drill(tmp_path), place))

    assert place.done == ["clean", "start", "inject", "restore", "clean"]


def test_what_is_refused_is_not_begun_unless_somebody_insists(tmp_path: Path) -> None:
    place = FakePlace(refusal="this is production")

    with pytest.raises(DrillError, match="Nothing was done: this is production"):
        run_to_the_end(runner(drill(tmp_path), place))
    assert place.done == []

    run_to_the_end(runner(drill(tmp_path), place), even_in_production=True)
    assert "inject" in place.done


class Engine:
    """What stands for docker: it answers with what Compose knows, and writes down what it is told."""

    def __init__(self, environment: str = "development", endpoint: str = "unix:///var/run/docker.sock") -> None:
        self.told: list[tuple[str, ...]] = []
        self.variables: Mapping[str, str] = {}
        self.override: dict[str, Any] = {}
        self._endpoint = endpoint
        ports = [{"target": 8000, "published": "8000"}, {"target": 9000, "published": "9000"}]
        app = {"image": "demo:standard", "environment": {"ENVIRONMENT": environment}, "ports": ports}
        self.services = {"app": app, "other": {}, "prometheus": {"ports": [{"target": 9090, "published": "9090"}]}}

    def __call__(self, command: Sequence[str], variables: Mapping[str, str]) -> str:
        self.told.append(tuple(command))
        self.variables = variables
        if "config" in command:
            return json.dumps({"services": self.services})
        if "context" in command:
            return self._endpoint
        if "up" in command:
            files = variables["COMPOSE_FILE"].split(os.pathsep)
            self.override = json.loads(Path(files[-1]).read_text(encoding="utf-8").replace("!override ", ""))
        return ""

    def did(self, *words: str) -> bool:
        return any(set(words) <= set(command) for command in self.told)


def test_the_stack_of_a_drill_is_a_copy_with_a_name_and_ports_of_its_own(tmp_path: Path) -> None:
    engine = Engine()
    stack = Stack(drill(tmp_path), run=engine)

    targets = stack.start()
    stack.inject()
    stack.restore()
    stack.clean()

    assert engine.variables["COMPOSE_PROJECT_NAME"] == NAME
    published = {port["published"] for one in engine.override["services"].values() for port in one.get("ports", [])}
    assert len(published) == 3
    assert published.isdisjoint({"8000", "9000", "9090"})
    assert targets.service.rpartition(":")[2] in published
    assert targets.absent == {"other"}
    assert [command[2] for command in engine.told if command[-1] == "other"] == ["stop", "start"]
    assert engine.did("down", "--volumes", "--remove-orphans")
    # The file that said what is different is gone too.
    assert not Path(engine.variables["COMPOSE_FILE"].split(os.pathsep)[-1]).exists()


@pytest.mark.parametrize(("protected", "expected"), [(True, None), (False, "off")])
def test_the_protection_is_off_only_when_that_is_asked_for(
    tmp_path: Path, protected: bool, expected: str | None
) -> None:
    engine = Engine()

    Stack(drill(tmp_path), protected=protected, run=engine).start()

    assert engine.override["services"]["app"]["environment"].get("GUARD") == expected


@pytest.mark.parametrize(
    ("engine", "expected"),
    [
        (Engine(), ""),
        (Engine(environment="production"), "app is production"),
        (Engine(endpoint="ssh://user@host"), "another machine, ssh://user@host"),
    ],
)
def test_production_and_other_machines_are_refused(
    tmp_path: Path, engine: Engine, expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("DOCKER_HOST", raising=False)

    refusal = Stack(drill(tmp_path), run=engine).refusal()

    assert expected in refusal
    assert bool(refusal) == bool(expected)


def test_a_service_that_the_stack_lacks_is_told_before_anything_starts(tmp_path: Path) -> None:
    engine = Engine()

    with pytest.raises(DrillError, match="a-drill needs cadvisor, which this stack does not have"):
        Stack(drill(tmp_path, f'needs = ["cadvisor"]{MINIMAL}'), run=engine).start()

    assert not engine.did("up")


def kept(one: Drill, form: record.Form, *, good: bool = True, fails_until: float = 31) -> dict[str, Any]:
    samples = every_tenth(lambda at: 503 if 11 <= at < fails_until else 200)
    looks = [Look(float(at), live=True, ready=at < 11) for at in range(50)]
    outcome = Outcome(Seen(PHASES, samples, looks, [GONE]))
    return record.document(one, outcome, [Check("it is <so>", "1", "2", held=good)], form)


def test_a_record_says_what_was_seen_to_machines_and_people(tmp_path: Path) -> None:
    written = record.write(kept(drill(tmp_path), record.Form(), good=False), tmp_path / "results")

    (document,) = record.read(tmp_path / "results")
    assert (document["requests"], document["failed"]) == (500, 200)
    assert (document["detected_after_seconds"], document["recovered_after_seconds"]) == (10, 0.9)
    assert document["seconds"][15] == {"good": 0, "refused": 10, "failed": 0, "p50_ms": 10.0, "p99_ms": 10.0}
    page = written.read_text(encoding="utf-8")
    assert "**The hypothesis did not hold.**" in page
    assert "It failed by: it is <so>." in page
    assert "](a-drill.svg)" in page
    assert "| 20.0 | Gone (page) fires |" in page
    picture = (tmp_path / "results" / "a-drill.svg").read_text(encoding="utf-8")
    assert picture.startswith("<svg ")
    assert "Gone (page)" in picture


def test_a_service_that_failed_until_shortly_before_the_end_has_not_recovered(tmp_path: Path) -> None:
    """As a bound on that measure has it: calm has to be seen for a while."""
    document = kept(drill(tmp_path), record.Form(), fails_until=47)

    assert document["recovered_after_seconds"] is None


def test_the_table_has_a_row_for_each_whole_drill_and_how_it_ended_without_its_protection(tmp_path: Path) -> None:
    document = tmp_path / "page.md"
    document.write_text(f"before\n{report.BEGIN}\nold\n{report.END}\nafter\n", encoding="utf-8")
    one = drill(tmp_path)
    records = [
        kept(one, record.Form()),
        kept(one, record.Form(protected=False), good=False),
        kept(one, record.Form(short=True)),
    ]

    report.write_table(records, document)

    text = document.read_text(encoding="utf-8")
    assert text.startswith("before\n")
    assert text.endswith(f"{report.END}\nafter\n")
    assert "old" not in text
    rows = [line for line in text.splitlines() if "`a-drill`" in line]
    assert len(rows) == 1
    assert "Gone after 10 s" in rows[0]
    assert "200 of 500 requests failed" in rows[0]
    assert "guard off: it is <so>" in rows[0]


def test_a_document_without_a_place_for_the_table_is_told(tmp_path: Path) -> None:
    (tmp_path / "page.md").write_text("nothing\n", encoding="utf-8")

    with pytest.raises(DrillError, match="has no lines"):
        report.write_table([], tmp_path / "page.md")


def test_the_command_lists_what_there_is_and_refuses_what_is_not(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["list"]) == 0
    assert [line.split()[0] for line in capsys.readouterr().out.splitlines()] == spec.names()

    assert main(["run", "meteor"]) == 2
    assert "there is no drill meteor" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("held_in", "expected"),
    [
        pytest.param([True, False], (0, "That is right: its protection was off."), id="it needs its protection"),
        pytest.param([True, True], (1, "this proves nothing"), id="it holds without"),
        pytest.param([True, None], (1, "this proves nothing"), id="without, the machine was too busy to tell"),
        pytest.param([False, False], (1, "a-drill: the hypothesis did not hold"), id="it does not hold"),
    ],
)
def test_with_and_then_without_its_protection_a_drill_has_to_hold_and_to_fail(
    held_in: list[bool | None],
    expected: tuple[int, str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """What is seen is set; which forms are run, and what that comes to, is real."""
    verdicts = iter(held_in)
    forms = []

    def place(_: Drill, form: record.Form, *__: Any) -> FakePlace:
        forms.append(form.protected)
        return FakePlace()

    one = drill(tmp_path)
    monkeypatch.setattr(spec, "named", lambda _: one)
    monkeypatch.setattr("tests.chaos.__main__.where", place)
    monkeypatch.setattr("tests.chaos.__main__.run_to_the_end", lambda *_, **__: Outcome(Seen(PHASES, [], [])))

    def judge(*_: object) -> list[Check]:
        good = next(verdicts)
        told = Check("the run tells", "x", "y", held=good is not None, precondition=True)
        return [told, Check("it holds", "x", "y", held=bool(good))]

    monkeypatch.setattr("tests.chaos.__main__.judge", judge)
    code, said = expected

    assert main(["run", "a-drill", "--both", f"--results={tmp_path / 'results'}"]) == code
    assert forms == [True, False]
    assert said in capsys.readouterr().out
