"""The servers that are compared, each a process on one core, and what they cost it.

Core 0 of those this process may use is the servers'; all else (load, log readers, the OTLP sink) stays on the other.
"""

import ctypes
import http.client
import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from load import BenchmarkError, Target

HERE = Path(__file__).resolve().parent
APPS = HERE / "apps"
HOST = "127.0.0.1"
ITEMS = "/api/v1/items"

# All that the servers get of this process's environment: anything else may be a setting of one of them.
_INHERITED = ("HOME", "LANG", "LC_ALL", "PATH", "TMPDIR")

START_SECONDS = 60.0
STOP_SECONDS = 20.0


@contextmanager
def on_core(core: int) -> Iterator[None]:
    """Let this process, and those it starts meanwhile, run on one core only."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {core})
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def cores() -> tuple[int, int]:
    """The core of the servers and the core of everything else.

    Raises:
        BenchmarkError: there is only one.
    """
    available = sorted(os.sched_getaffinity(0))
    if len(available) < 2:  # noqa: PLR2004 - see the title of this module
        raise BenchmarkError("two cores are needed: one for the servers, one for the load")
    return available[0], available[1]


@dataclass(frozen=True)
class App:
    """One side of a comparison.

    Args:
        name: how tables call it.
        arguments: of the interpreter; `{port}` stands for the port.
        environment: its settings.
    """

    name: str
    arguments: tuple[str, ...]
    environment: Mapping[str, str] = field(default_factory=dict)

    @property
    def routes(self) -> int:
        """How many routes it has besides its own."""
        return int(self.environment.get("THING_ROUTES", 0))

    @property
    def last_route(self) -> str:
        """A path of the route that was registered last, and is the last to be found."""
        return f"/api/v1/things-{self.routes // 5 - 1}/1"

    def with_routes(self, number: int) -> Self:
        """The same with more routes, a multiple of five."""
        arguments = (str(APPS / "service.py"),) if self.arguments == _AS_SHIPPED else self.arguments
        return replace(self, arguments=arguments, environment={**self.environment, "THING_ROUTES": str(number)})


_AS_SHIPPED = ("-m", "app")


def _uvicorn(module: str) -> tuple[str, ...]:
    return ("-m", "uvicorn", f"{module}:app", "--host", HOST, "--port", "{port}", "--no-access-log")


def _sampled(ratio: float) -> dict[str, str]:
    return {"OTEL_TRACES_SAMPLER": "parentbased_traceidratio", "OTEL_TRACES_SAMPLER_ARG": str(ratio)}


BARE = App("bare FastAPI", _uvicorn("bare"))
ROUTES_ONLY = App("the service's routes only", (str(APPS / "plain.py"),))
SERVICE_NONE = App("service, 0 %", _AS_SHIPPED, _sampled(0.0))
SERVICE = App("service, 10 %", _AS_SHIPPED, _sampled(0.1))
SERVICE_ALL = App("service, 100 %", _AS_SHIPPED, _sampled(1.0))
USUAL = App("usual stack, 10 %", _uvicorn("usual"), _sampled(0.1))
USUAL_ALL = App("usual stack, 100 %", _uvicorn("usual"), _sampled(1.0))


class Server:
    """A process that serves while it is entered.

    Args:
        app: what it runs.
        stage: where it runs.
    """

    def __init__(self, app: App, stage: "Stage") -> None:
        self.app = app
        self.port, self.metrics_port = stage.port(), stage.port()
        self.asked = 0
        self._stage = stage
        inherited = {name: os.environ[name] for name in _INHERITED if name in os.environ}
        self._environment = (
            inherited
            | {
                "ENVIRONMENT": "production",
                "STORAGE_URL": "memory://",
                "HTTP_PORT": str(self.port),
                "METRICS_PORT": str(self.metrics_port),
                "DRAIN_SECONDS": "0",
                "OTEL_EXPORTER_OTLP_ENDPOINT": f"http://{HOST}:{stage.sink_port}/{self.port}",
                # A hash seed decides how long dictionaries' chains are: by chance, one side would be faster.
                "PYTHONHASHSEED": "0",
                "PYTHONPATH": os.pathsep.join((str(stage.service), str(APPS))),
            }
            | dict(app.environment)
        )

    def __enter__(self) -> Self:
        """Start, and wait for the first answer."""
        command = [str(self._stage.python), *(word.format(port=self.port) for word in self.app.arguments)]
        self.began = time.perf_counter()
        with on_core(self._stage.server_core):
            self._process = subprocess.Popen(
                command,
                cwd=self._stage.service,
                env=self._environment,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=self._stage.errors,
            )
        # As in a container, somebody reads what is written to stdout, a pipe. This one keeps count and the last line.
        self._reader = subprocess.Popen(
            ["awk", 'END { print NR ": " $0 }'], stdin=self._process.stdout, stdout=subprocess.PIPE, text=True
        )
        if self._process.stdout:
            self._process.stdout.close()
        try:
            answered = self._answers()
        except BaseException:
            self.stop()
            raise
        if not answered:
            self.stop()
            raise BenchmarkError(f"{self.app.name} did not start; it said:\n{self.written}\n{self._stage.said()}")
        self.start_seconds = time.perf_counter() - self.began
        self._clock = cpu_clock(self._process.pid)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Stop."""
        self.stop()

    def stop(self) -> None:
        """Stop; `written` then tells how many lines were written to stdout, and the last one."""
        self._process.terminate()
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(STOP_SECONDS)
        self._process.kill()
        self._process.wait()
        self.written, _ = self._reader.communicate()

    def cpu_ns(self) -> int:
        """CPU time of the process until now, all threads included, in ns."""
        return time.clock_gettime_ns(self._clock)

    def resident_bytes(self) -> int:
        """Resident memory."""
        pages = Path(f"/proc/{self._process.pid}/statm").read_text(encoding="ascii").split()[1]
        return int(pages) * os.sysconf("SC_PAGE_SIZE")

    def target(self, request: bytes, status: int = 200) -> Target:
        """A request to this server, for load."""
        return Target(self.port, request, status)

    def ask(self, method: str, path: str, content: Any = None, port: int | None = None) -> str:
        """Send one request; the body of the answer.

        Raises:
            BenchmarkError: the status is no success.
            OSError: nobody answers.
        """
        connection = http.client.HTTPConnection(HOST, port or self.port, timeout=30)
        try:
            headers = {} if content is None else {"Content-Type": "application/json"}
            connection.request(method, path, None if content is None else json.dumps(content), headers)
            answer = connection.getresponse()
            if port is None:
                self.asked += 1
            text = answer.read().decode()
        finally:
            connection.close()
        if answer.status >= 400:  # noqa: PLR2004 - errors begin there (RFC 9110, section 15)
            raise BenchmarkError(f"{self.app.name}: {method} {path} was answered {answer.status}: {text[:500]}")
        return text

    def spans(self) -> int:
        """How many server spans the sink has received from here."""
        return int(self.ask("GET", f"/{self.port}", port=self._stage.sink_port))

    def dropped_spans(self) -> int:
        """How many spans the service says it has lost."""
        for line in self.ask("GET", "/metrics", port=self.metrics_port).splitlines():
            if line.startswith('telemetry_dropped_total{signal="spans"}'):
                return int(float(line.split()[-1]))
        raise BenchmarkError("the service has no telemetry_dropped_total for spans")

    def _answers(self) -> bool:
        """Wait for the first answer; whether there was one."""
        end = time.monotonic() + START_SECONDS
        while self._process.poll() is None and time.monotonic() < end:
            with suppress(ConnectionRefusedError):
                self.ask("GET", ITEMS)
                return True
            time.sleep(0.001)
        return False


class Stage:
    """Where servers run: a service, an interpreter with everything, two cores, and a sink for spans.

    Args:
        service: a generated tree.
        python: the interpreter of the benchmark's environment.
        folder: for what servers write to stderr.
    """

    def __init__(self, service: Path, python: Path, folder: Path) -> None:
        self.service = service
        self.python = python
        self.server_core, self.load_core = cores()
        self._errors_file = folder / "stderr"
        self._next_port = 20_000 + os.getpid() % 10_000

    def __enter__(self) -> Self:
        """Compile byte code, as images do, and start the sink."""
        os.sched_setaffinity(0, {self.load_core})
        compile_all = ["-m", "compileall", "-q", str(self.service / "app"), str(APPS)]
        subprocess.run([self.python, *compile_all], check=True)
        self.errors = self._errors_file.open("wb")
        self.sink_port = self.port()
        self._sink = subprocess.Popen([sys.executable, str(HERE / "sink.py"), str(self.sink_port)])
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Stop the sink."""
        self._sink.kill()
        self._sink.wait()
        self.errors.close()
        os.sched_setaffinity(0, {self.server_core, self.load_core})

    def port(self) -> int:
        """A free port below those that the system gives to clients, of which there are many here."""
        while True:
            self._next_port += 1
            with socket.socket() as listener, suppress(OSError):
                listener.bind((HOST, self._next_port))
                return self._next_port

    def said(self) -> str:
        """The end of what servers wrote to stderr."""
        return self._errors_file.read_text(encoding="utf-8", errors="replace")[-3000:]


def cpu_clock(pid: int) -> int:
    """The CPU-time clock of another process (clock_getcpuclockid(3)): all its threads, those that ended too, in ns."""
    clock = ctypes.c_int()
    failed = ctypes.CDLL(None).clock_getcpuclockid(pid, ctypes.byref(clock))
    if failed:
        raise OSError(failed, os.strerror(failed))
    return clock.value
