"""What a failing collector costs the requests of a service: one beside it whose collector is well is asked in turn."""

import argparse
import os
import platform
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager
from datetime import UTC, datetime
from http import HTTPStatus
from http.client import HTTPConnection
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

import components  # noqa: E402
from collector import Collector, build  # noqa: E402

from demo.ports import LOOPBACK, available  # noqa: E402
from demo.service import Service  # noqa: E402
from demo.workspace import Environment, generate  # noqa: E402

PAGE = ROOT / "docs" / "collector-faults.md"
PATH = "/api/v1/items"
WARM_UP, SLICES, REQUESTS = 2, 20, 150
TICK = 1 / os.sysconf("SC_CLK_TCK")

HEALTHY: dict[str, Any] = {"memory_limiter": {"check_interval": "1s", "limit_mib": 512}}
STARVED: dict[str, Any] = {"memory_limiter": {"check_interval": "100ms", "limit_mib": 1}}

# Of a server that stands for a collector: seconds until it answers, and the status.
BAD = {
    "well": (0.0, 200),
    "never answers": (3600.0, 200),
    "answers after 1 s": (1.0, 200),
    "503, Retry-After: 1": (0.0, 503),
}


class Result(NamedTuple):
    """One fault: the ratios to the healthy service, and what else was seen."""

    fault: str
    p50: float
    p99: float
    cpu: float
    memory: float
    exit_seconds: float
    lost: int


def main(arguments: list[str] | None = None) -> int:
    """Measure, print the page, and write it when that is asked for."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--write", action="store_true", help=f"also write {PAGE.relative_to(ROOT)}")
    parser.add_argument("--date", default=f"{datetime.now(UTC):%Y-%m-%d}", help="the date to state (default: today)")
    parser.add_argument("--serve", nargs=2, metavar=("BEHAVIOUR", "PORT"), help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.serve:
        serve(options.serve[0], int(options.serve[1]))
    results = []
    for result in measure():
        results.append(result)
        print(result, file=sys.stderr)
    text = page(results, options.date)
    print(text, end="")
    if options.write:
        PAGE.write_text(text, encoding="utf-8")
    return 0


def measure() -> Iterator[Result]:
    """Yield what each fault costs."""
    with TemporaryDirectory() as temporary, ExitStack() as stack:
        folder = Path(temporary)
        project = generate(folder)
        environment = Environment(project, ROOT / ".cache")
        environment.install(lambda _: None)
        sink = stack.enter_context(bad("well"))
        binary = build()

        def collector(name: str) -> Collector:
            (folder / name).mkdir()
            return stack.enter_context(Collector(binary, folder / name, sink))

        well = collector("well").start(**HEALTHY)
        starved = collector("starved").start(**STARVED)
        mortal = collector("mortal").start(**HEALTHY)

        def die_and_return(number: int) -> None:
            # Four slices of ten without it.
            match number % 10:
                case 3:
                    mortal.kill()
                case 7:
                    mortal.start(**HEALTHY)

        faults: dict[str, tuple[str, Callable[[int], None]]] = {
            "none (the method's own error)": (well.endpoint, idle),
            "no collector configured": ("", idle),
            "refuses connections": (f"http://{LOOPBACK}:1", idle),
            **{name: (stack.enter_context(bad(name)), idle) for name in list(BAD)[1:]},
            "memory limiter refuses": (starved.endpoint, idle),
            "killed, started again": (mortal.endpoint, die_and_return),
        }
        for name, (endpoint, before) in faults.items():
            with (
                running(environment.python, project, well.endpoint) as other,
                running(environment.python, project, endpoint) as service,
            ):
                yield compare(name, other, service, before)


def idle(_: int) -> None:
    """Do nothing before a slice."""


@contextmanager
def running(python: Path, project: Path, endpoint: str) -> Iterator[Service]:
    """Run a service that traces every request and sends its spans every 200 ms."""
    http_port, metrics_port = available((0, 0))
    with Service(python, project, http_port, metrics_port, endpoint) as service:
        service.wait_until_ready(60)
        yield service


def compare(fault: str, well: Service, ill: Service, before: Callable[[int], None]) -> Result:
    """Ask both in turn, one request each, so that whatever slows the machine down slows both."""
    services = (well, ill)
    times: tuple[list[float], list[float]] = ([], [])
    cpu = [0.0, 0.0]
    for number in range(-WARM_UP, SLICES):
        if number == 0:
            times, cpu = ([], []), [cpu_seconds(each) for each in services]
        before(number)
        with closing(connect(well)) as first, closing(connect(ill)) as second:
            for turn in range(REQUESTS):
                for which in (0, 1) if turn % 2 else (1, 0):
                    times[which].append(ask((first, second)[which]))
    used = [cpu_seconds(each) - so_far for each, so_far in zip(services, cpu, strict=True)]
    memory = [resident_mib(each) for each in services]
    lost = dropped(ill)
    began = time.monotonic()
    code = ill.stop()
    exit_seconds = time.monotonic() - began
    if code:
        raise SystemExit(f"{fault}: exit code {code}")
    p50, p99 = (percentile(times[1], quantile) / percentile(times[0], quantile) for quantile in (50, 99))
    return Result(fault, p50, p99, used[1] / used[0], memory[1] - memory[0], exit_seconds, lost)


def connect(service: Service) -> HTTPConnection:
    """A connection that is kept alive."""
    host, port = service.api.url.removeprefix("http://").split(":")
    return HTTPConnection(host, int(port), timeout=30)


def ask(connection: HTTPConnection) -> float:
    """Make one request; how many seconds until it was answered."""
    began = time.perf_counter()
    connection.request("GET", PATH)
    response = connection.getresponse()
    response.read()
    seconds = time.perf_counter() - began
    if response.status != HTTPStatus.OK:
        raise SystemExit(f"{PATH} was answered with {response.status}")
    return seconds


def percentile(seconds: list[float], quantile: int) -> float:
    """The quantile, in percent, of some times."""
    return statistics.quantiles(seconds, n=100)[quantile - 1]


def cpu_seconds(service: Service) -> float:
    """Seconds of processor time a service has used, all its threads together (proc(5))."""
    fields = Path(f"/proc/{service.pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) * TICK


def resident_mib(service: Service) -> float:
    """Resident memory (proc(5))."""
    pages = int(Path(f"/proc/{service.pid}/statm").read_text().split()[1])
    return pages * resource.getpagesize() / 2**20


def dropped(service: Service) -> int:
    """How many spans the service says were lost."""
    lines = service.metrics.send("GET", "/metrics").body.splitlines()
    return next(
        int(float(line.split()[1])) for line in lines if line.startswith('telemetry_dropped_total{signal="spans"}')
    )


@contextmanager
def bad(behaviour: str) -> Iterator[str]:
    """Run a server in a process of its own, so that its work is in nobody's time."""
    (port,) = available((0,))
    command = [sys.executable, __file__, "--serve", behaviour, str(port)]
    with subprocess.Popen(command) as process:
        deadline = time.monotonic() + 30
        while time.monotonic() < deadline:
            try:
                HTTPConnection(LOOPBACK, port).connect()
            except OSError:
                time.sleep(0.05)
            else:
                break
        yield f"http://{LOOPBACK}:{port}"
        process.kill()


def serve(behaviour: str, port: int) -> None:
    """Stand for a collector, until killed."""
    seconds, status = BAD[behaviour]

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["Content-Length"]))
            time.sleep(seconds)
            self.send_response(status)
            self.send_header("Retry-After", "1")
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *_: object) -> None:
            """Log nothing."""

    ThreadingHTTPServer((LOOPBACK, port), Handler).serve_forever()


def page(results: list[Result], date: str) -> str:
    """Return the results as a page of the documentation."""
    rows = "\n".join(
        f"| {one.fault} | {one.p50:.2f} | {one.p99:.2f} | {one.cpu:.2f} | {one.memory:+.1f} MiB "
        f"| {one.exit_seconds:.1f} s | {one.lost} |"
        for one in results
    )
    return f"""# What a collector's fault costs

A service whose collector fails, and one whose collector is healthy (the real OpenTelemetry Collector {components.release("otel-collector")}), both with every
request traced, are asked `GET {PATH}` in turn, {SLICES * REQUESTS} times each. `benchmarks/collector_faults.py --write`
measures it, and writes this.

| Fault | p50, ratio | p99, ratio | CPU, ratio | Memory, difference | Exit | Spans lost of {(WARM_UP + SLICES) * REQUESTS} |
|---|---|---|---|---|---|---|
{rows}

The first row compares a healthy service with another: no ratio is more exact than that. An exit has 1 s of drain and at
most 3 s of flush. The spans lost are those counted before it. That each span arrives or is counted, whatever the fault, is
what `tests/integration/test_collector_faults.py` of a service and `tests/test_collector.py` prove at each run.

Measured on {date}: Python {platform.python_version()}, {platform.system()} on {platform.machine()} with
{os.cpu_count()} cores.
"""  # noqa: E501 - a row of a table is one line


if __name__ == "__main__":
    sys.exit(main())
