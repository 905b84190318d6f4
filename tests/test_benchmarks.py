"""The benchmark's arithmetic, client and page are right; each application of it serves what is asked of it."""

import ast
import json
import re
import socketserver
import subprocess
import sys
import threading
import time
import tomllib
import xml.etree.ElementTree as ET
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from http.client import HTTPConnection
from pathlib import Path

import pytest
from conftest import FOLDER, ROOT
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1.trace_pb2 import ResourceSpans, ScopeSpans, Span

sys.path.insert(0, str(ROOT / "benchmarks"))

import measure
import report
import telemetry
from figures import Costs, Latency, Results, Spans, Spread, with_routes
from load import BenchmarkError, Target, closed_loop, open_loop, request
from servers import (
    BARE,
    ITEMS,
    ROUTES_ONLY,
    SERVICE,
    SERVICE_ALL,
    SERVICE_NONE,
    USUAL,
    USUAL_ALL,
    App,
    Server,
    Stage,
    cpu_clock,
)

from demo.ports import available

APPS = (BARE, ROUTES_ONLY, SERVICE_NONE, SERVICE, SERVICE_ALL, USUAL, USUAL_ALL)
MIB = 1024 * 1024


def costs(others: Mapping[str, float] = {}, copy: float = 100.0) -> Costs:
    """Costs of all applications, 100 µs where nothing else is said, in three windows of which the second is slow."""
    micros = {app.name: 100.0 for app in APPS} | dict(others)
    return Costs({name: (cost, 2 * cost, cost) for name, cost in micros.items()}, (copy, 2 * copy, copy))


def test_a_slow_window_changes_no_speed() -> None:
    assert costs({SERVICE.name: 80.0}).speed(SERVICE.name) == Spread(1.25, 1.25, 1.25)
    assert costs({SERVICE.name: 80.0, USUAL.name: 400.0}).speed(SERVICE.name, USUAL.name) == Spread(5.0, 5.0, 5.0)


def test_growth_is_the_difference_of_differences_in_each_window() -> None:
    found = Costs({"a": (1.0, 5.0), "b": (2.0, 7.0), "c": (10.0, 20.0), "d": (14.0, 25.0)}, (1.0, 5.0))

    # d - c is 4 and 5, b - a is 1 and 2.
    assert found.growth(few=("b", "a"), many=("d", "c")) == Spread(3.0, 3.0, 3.0)


@pytest.mark.parametrize(
    ("milliseconds", "p50", "p99"),
    [(range(1, 101), 50, 99), (range(1, 1001), 500, 990), ([7], 7, 7), ([1, 2], 1, 2)],
    ids=["100", "1000", "1", "2"],
)
def test_percentiles_are_values_that_were_measured(milliseconds: list[int], p50: float, p99: float) -> None:
    assert Latency.of(reversed(list(milliseconds))) == Latency(p50, p99)


def whole_run(change: Mapping[str, float] = {}) -> Results:
    """A run in which every bar is just met, but for what is changed about the list."""
    met = {
        SERVICE.name: 100.0,
        SERVICE_ALL.name: 140.0,
        ROUTES_ONLY.name: 90.0,
        USUAL.name: 500.0,
        USUAL_ALL.name: 560.0,
    }
    grown = {(SERVICE.name, 5): 100.0, (SERVICE.name, 100): 210.0}
    grown |= {(ROUTES_ONLY.name, 5): 80.0, (ROUTES_ONLY.name, 100): 180.0}
    routes = {with_routes(BARE.name, number): (200.0,) for number in (5, 100)}
    routes |= {with_routes(name, number): (micros,) for (name, number), micros in grown.items()}
    listed = costs(met | dict(change))
    return Results(
        requests={"list": listed, "read": costs(met)},
        routes=Costs(routes, (200.0,)),
        connections={1: listed},
        payloads={100: listed},
        latencies={app.name: (Latency(0.001, 0.002),) * 3 for app in (BARE, SERVICE, SERVICE_ALL)},
        memory={BARE.name: {1000: 50 * MIB, 10_000: 51 * MIB}, SERVICE.name: {1000: 60 * MIB, 10_000: 67 * MIB}},
        starts={BARE.name: (0.5, 1.5), SERVICE.name: (0.75, 1.75)},
        spans=Spans(requests=1000, received=990, counted_as_lost=10),
    )


def missed(results: Results) -> list[str]:
    return [bar.figure for bar in report.bars(results) if not bar.met]


def test_a_bar_that_is_just_reached_is_met() -> None:
    assert missed(whole_run()) == []
    assert report.summary(whole_run()) == "12 of 12 bars met"


@pytest.mark.parametrize(
    ("change", "figure"),
    [
        ({SERVICE.name: 100.1, ROUTES_ONLY.name: 95.0, USUAL.name: 510.0}, "service ÷ bare FastAPI, 10 % sampling"),
        ({SERVICE_ALL.name: 143.0, USUAL_ALL.name: 600.0}, "service ÷ bare FastAPI, 100 %"),
        ({ROUTES_ONLY.name: 84.9}, "service ÷ the same routes and server flags without telemetry, 10 %"),
        ({USUAL.name: 499.0}, "service ÷ the usual stack, 10 %"),
        ({USUAL_ALL.name: 559.0}, "service ÷ the usual stack, 100 %"),
    ],
    ids=lambda value: "" if isinstance(value, dict) else value,
)
def test_one_kind_of_request_is_enough_to_miss_a_bar(change: Mapping[str, float], figure: str) -> None:
    assert missed(whole_run(change)) == [figure]


SLOW = {BARE.name: (Latency(1, 1),), SERVICE.name: (Latency(1, 1.3),), SERVICE_ALL.name: (Latency(1, 1),)}
LARGE = {BARE.name: {1000: 0}, SERVICE.name: {1000: 17 * MIB}}
LATE = {BARE.name: (1.0,), SERVICE.name: (1.251,)}
GROWING = Costs(
    {with_routes(ROUTES_ONLY.name, number): (float(number),) for number in (5, 100)}
    | {with_routes(SERVICE.name, 5): (5.0,), with_routes(SERVICE.name, 100): (110.1,)},
    (5.0,),
)


@pytest.mark.parametrize(
    ("results", "figure"),
    [
        (Results(latencies=SLOW), "p99 at 200 requests a second ÷ bare FastAPI's, 10 % sampling"),
        (Results(routes=GROWING), "telemetry's extra cost a request, 5 → 100 routes"),
        (Results(memory=LARGE), "resident memory over bare FastAPI's, at its worst"),
        (Results(starts=LATE), "cold start over bare FastAPI's"),
        (Results(spans=Spans(10, 8, 1)), "spans neither exported nor counted"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_every_other_figure_can_miss_its_bar(results: Results, figure: str) -> None:
    assert missed(results) == [figure]


def test_a_run_whose_baseline_differs_from_its_copy_says_that_it_is_not_to_be_trusted() -> None:
    assert "A/A" in report.markdown(whole_run(), [])
    assert "Do not trust" not in report.markdown(whole_run(), [])

    untrue = replace(whole_run(), connections={16: costs(copy=104.0)})

    assert "**Do not trust this run" in report.markdown(untrue, [])
    assert "16 connections 0.962 [0.962..0.962]" in report.markdown(untrue, [])


def test_a_run_beside_other_processes_says_so() -> None:
    idle, busy = (replace(costs(), share=(0.5, share, 0.99)) for share in (0.95, 0.8))

    assert "not idle" not in report.markdown(Results(requests={"list": idle}), [])
    assert "20% of the servers' core went to others" in report.markdown(Results(requests={"list": busy}), [])


def test_a_page_has_a_table_for_everything_that_was_measured() -> None:
    page = report.markdown(whole_run(), ["a fact"])

    assert re.findall(r"^### (.*)$", page, re.MULTILINE) == [
        "Bars",
        "CPU time a request",
        "Number of routes",
        "Connections",
        "Size of the response",
        "Latency at 200 requests a second",
        "Resident memory",
        "Cold start",
        "Spans at saturation",
        "This run",
    ]
    for lines in re.findall(r"(?:^\|.*\n?)+", page, re.MULTILINE):
        assert len({line.count("|") for line in lines.splitlines()}) == 1, lines


def test_a_page_has_no_table_for_what_was_not_measured() -> None:
    page = report.markdown(Results(requests={"list": costs()}), [])

    assert re.findall(r"^### (.*)$", page, re.MULTILINE) == ["Bars", "CPU time a request", "This run"]


def test_the_plot_shows_each_server_by_its_length() -> None:
    found = costs({USUAL.name: 400.0, SERVICE.name: 200.0})
    drawing = ET.fromstring(report.plot(found, "Title & text"))  # noqa: S314 - our own
    shown = [element.text for element in drawing.findall("{*}text")]
    lengths = [float(element.attrib["width"]) for element in drawing.findall("{*}rect")]

    assert shown == ["Title & text", *(text for app in APPS for text in (app.name, f"{found.micros(app.name):.0f} µs"))]
    assert len(lengths) == len(APPS)
    assert lengths[APPS.index(USUAL)] == pytest.approx(2 * lengths[APPS.index(SERVICE)], abs=0.2)


@pytest.mark.parametrize("background", ["#ffffff", "#0d1117"], ids=["light", "dark"])
@pytest.mark.parametrize("colour", sorted({report.TEXT, *report.COLOURS.values()}))
def test_the_plot_can_be_read_on_a_light_and_a_dark_page(colour: str, background: str) -> None:
    darker, lighter = sorted((luminance(colour), luminance(background)))

    assert (lighter + 0.05) / (darker + 0.05) >= 4


def luminance(colour: str) -> float:
    """Relative luminance (WCAG 2.1)."""
    parts = [int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5)]
    red, green, blue = (part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def test_writing_changes_only_what_is_between_the_marks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    page, drawing = tmp_path / "page.md", tmp_path / "page.svg"
    page.write_text(f"before\n{telemetry.BEGIN}old\n{telemetry.END}after\n", encoding="utf-8")
    monkeypatch.setattr(telemetry, "PAGE", page)
    monkeypatch.setattr(telemetry, "PLOT", drawing)

    for text in ("new\n", "newer\n"):
        telemetry.write(whole_run(), text)

    assert page.read_text() == f"before\n{telemetry.BEGIN}\nnewer\n\n{telemetry.END}after\n"
    assert drawing.read_text().startswith("<svg")


def test_the_committed_page_is_one_that_can_be_written_again() -> None:
    page = telemetry.PAGE.read_text(encoding="utf-8")

    assert page.count(telemetry.BEGIN) == page.count(telemetry.END) == 1
    assert f"]({telemetry.PLOT.name})" in page
    assert "### This run" in page.partition(telemetry.BEGIN)[2].partition(telemetry.END)[0]


def test_a_quick_run_is_not_written_over_a_whole_one(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        telemetry.main(["--quick", "--write"])

    assert "--quick" in capsys.readouterr().err


def test_the_server_without_telemetry_has_the_flags_of_the_service() -> None:
    def flags(path: Path) -> dict[str, str]:
        calls = [node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Call)]
        (config,) = [call for call in calls if ast.unparse(call.func) == "uvicorn.Config"]
        return {str(keyword.arg): ast.unparse(keyword.value) for keyword in config.keywords}

    of_service = flags(ROOT / FOLDER / "app" / "core" / "lifecycle.py")

    # The stricter parser is one of the guards that it does without; the service starts and stops by itself.
    assert of_service.pop("http")
    assert of_service.pop("lifespan")
    assert flags(ROOT / "benchmarks" / "apps" / "plain.py") == of_service


def test_the_versions_that_the_page_names_are_those_of_packages_that_are_installed() -> None:
    lock = (ROOT / "benchmarks" / "requirements.txt").read_text(encoding="utf-8")

    assert [name for name in telemetry.PACKAGES if f"\n{name}==" not in lock] == []


def test_the_environment_holds_what_the_service_is_compared_with() -> None:
    groups = tomllib.loads((ROOT / "pyproject.toml").read_text())["dependency-groups"]

    assert set(groups["benchmarks"]) <= set(telemetry.PACKAGES)


class Answering(socketserver.ThreadingTCPServer):
    """Answers each request on each connection, and counts them."""

    daemon_threads = True
    request_queue_size = 50

    def __init__(self, answer: Callable[[int], bytes]) -> None:
        self.answer = answer
        self.asked = 0
        self.closes_after: int | None = None
        self.lock = threading.Lock()
        super().__init__(("127.0.0.1", 0), Handler)

    @property
    def target(self) -> Target:
        return Target(self.server_address[1], request("GET", "/"))


class Handler(socketserver.StreamRequestHandler):
    """One connection."""

    server: Answering

    def handle(self) -> None:
        while True:
            while (line := self.rfile.readline()) not in (b"\r\n", b""):
                pass
            if not line:
                return
            with self.server.lock:
                number = self.server.asked = self.server.asked + 1
            answer = self.server.answer(number)
            # In two parts: the client must not take the first for all.
            self.wfile.write(answer[:30])
            self.wfile.write(answer[30:])
            if not answer or number == self.server.closes_after:
                return


@pytest.fixture
def serve() -> Iterator[Callable[[Callable[[int], bytes]], Answering]]:
    """Return a function that starts a server."""
    started: list[Answering] = []

    def start(answer: Callable[[int], bytes]) -> Answering:
        started.append(Answering(answer))
        threading.Thread(target=started[-1].serve_forever, args=(0.01,), daemon=True).start()
        return started[-1]

    yield start
    for server in started:
        server.shutdown()
        server.server_close()


OK = b"HTTP/1.1 200 OK\r\nContent-Length: 20\r\n\r\n" + b"x" * 20


def test_a_closed_loop_counts_what_each_server_has_answered(serve: Callable[..., Answering]) -> None:
    servers = [serve(lambda _: OK) for _ in range(2)]

    counts = closed_loop([server.target for server in servers], connections=3, seconds=0.2)

    assert counts == [server.asked for server in servers]
    assert min(counts) >= 3


def test_a_closed_loop_asks_each_server_as_often_as_it_was_told(serve: Callable[..., Answering]) -> None:
    servers = [serve(lambda _: OK) for _ in range(2)]

    counts = closed_loop([server.target for server in servers], connections=4, seconds=60, limit=50)

    assert counts == [50, 50] == [server.asked for server in servers]


def test_a_server_that_is_done_may_close_while_others_are_asked(serve: Callable[..., Answering]) -> None:
    def slowly(_: int) -> bytes:
        time.sleep(0.02)
        return OK

    done, slow = serve(lambda _: OK), serve(slowly)
    done.closes_after = 4

    assert closed_loop([done.target, slow.target], connections=1, seconds=60, limit=4) == [4, 4]


@pytest.mark.parametrize(
    "answer",
    [b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\n\r\n", b"HTTP/1.1 200 OK\r\n\r\n", b""],
    ids=["another status", "no length", "nothing"],
)
def test_a_wrong_answer_ends_the_run(serve: Callable[..., Answering], answer: bytes) -> None:
    server = serve(lambda number: OK if number < 5 else answer)

    with pytest.raises(BenchmarkError, match="was answered"):
        closed_loop([server.target], connections=1, seconds=60)


def test_a_stall_counts_for_every_request_that_was_due_meanwhile(serve: Callable[..., Answering]) -> None:
    def stall_once(number: int) -> bytes:
        if number == 1:
            time.sleep(0.5)
        return OK

    latencies = open_loop(serve(stall_once).target, rate=100, connections=1, seconds=1)

    # One connection: half of the requests were due while it stalled, and waited for 0.25 s on average.
    assert len(latencies) == 100
    assert sum(latency > 0.1 for latency in latencies) >= 40


def test_cpu_time_counts_threads_that_have_ended() -> None:
    code = """
import threading, time
def burn():
    while time.thread_time() < 0.2: pass
for _ in range(2):
    thread = threading.Thread(target=burn); thread.start(); thread.join()
print("done", flush=True); input()
"""
    with subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout
        process.stdout.readline()
        used = time.clock_gettime(cpu_clock(process.pid))
        process.communicate(b"\n")

    assert used >= 0.4


@pytest.fixture
def sink() -> Iterator[HTTPConnection]:
    """Start a sink, and return a connection to it."""
    (port,) = available([0])
    with subprocess.Popen([sys.executable, ROOT / "benchmarks" / "sink.py", str(port)]) as process:
        connection = HTTPConnection("127.0.0.1", port, timeout=30)
        while process.poll() is None:
            try:
                connection.connect()
            except ConnectionRefusedError:
                time.sleep(0.01)
            else:
                break
        yield connection
        connection.close()
        process.kill()


def test_the_sink_counts_the_server_spans_of_each_service(sink: HTTPConnection) -> None:
    kinds = (Span.SPAN_KIND_SERVER, Span.SPAN_KIND_INTERNAL, Span.SPAN_KIND_SERVER)
    spans = ScopeSpans(spans=[Span(name="one", kind=kind) for kind in kinds])
    export = ExportTraceServiceRequest(resource_spans=[ResourceSpans(scope_spans=[spans])]).SerializeToString()

    def ask(method: str, path: str, body: bytes | None = None) -> bytes:
        sink.request(method, path, body)
        return sink.getresponse().read()

    for service in (1, 1, 2):
        ask("POST", f"/{service}/v1/traces", export)

    assert [ask("GET", f"/{service}") for service in (1, 2, 3, 1)] == [b"4", b"2", b"0", b"4"]


@pytest.fixture(scope="session")
def stage(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    """Install the environment of the benchmark if need be, and generate a service."""
    subprocess.run(["make", "-C", ROOT, str(telemetry.PYTHON.parent.parent.relative_to(ROOT) / ".ready")], check=True)
    folder = tmp_path_factory.mktemp("stage")
    with Stage(telemetry.generated(folder / "service"), telemetry.PYTHON, folder) as ready:
        yield ready


@pytest.mark.ci
@pytest.mark.parametrize("routes", [0, 20])
@pytest.mark.parametrize("app", APPS, ids=lambda app: app.name)
def test_each_application_serves_what_is_measured(stage: Stage, app: App, routes: int) -> None:
    with Server(app.with_routes(routes) if routes else app, stage) as server:
        before = server.cpu_ns()
        item = json.loads(server.ask("POST", ITEMS, measure.ITEM))
        paths = [ITEMS, f"{ITEMS}/{item['id']}"]
        if routes:
            paths.append(f"{server.app.last_route}?size=1000")
        targets = [server.target(request("GET", path)) for path in paths]
        targets.append(server.target(request("POST", ITEMS, json.dumps(measure.ITEM).encode()), status=201))

        counts = closed_loop(targets, connections=2, seconds=60, limit=10)

        assert counts == [10] * len(targets)
        assert server.cpu_ns() > before
        assert server.resident_bytes() > MIB
        if routes:
            assert len(json.loads(server.ask("GET", paths[-1]))["name"]) == 1000
    # One line a request, and a few of the server's own; none without telemetry.
    lines = int(server.written.partition(":")[0])
    assert lines == 0 if app in (BARE, ROUTES_ONLY) else lines >= server.asked + sum(counts)


@pytest.mark.ci
@pytest.mark.parametrize("app", [SERVICE_ALL, USUAL_ALL], ids=lambda app: app.name)
def test_every_request_of_a_server_that_samples_all_has_its_span(stage: Stage, app: App) -> None:
    with Server(app, stage) as server:
        for _ in range(5):
            server.ask("GET", ITEMS)
        deadline = time.monotonic() + measure.SPANS_SECONDS
        while server.spans() < server.asked and time.monotonic() < deadline:
            time.sleep(0.1)

        assert server.spans() == server.asked
