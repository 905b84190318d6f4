"""The generated service as a process that never outlives the demo."""

import json
import os
import subprocess
import threading
import time
import tomllib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from http import HTTPStatus
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Self

from demo.client import Client, NoAnswerError
from demo.failure import DemoError
from demo.inbox import Inbox

# What a program needs of the shell it was started in. Of the rest, anything may be a setting of the service.
INHERITED = ("HOME", "LANG", "LC_ALL", "LD_LIBRARY_PATH", "PATH", "TMPDIR", "TZ")

# Besides ports and endpoint: every request is traced, spans leave at once rather than every 5 s, nobody waits long.
SETTINGS = {
    "OTEL_TRACES_SAMPLER": "parentbased_traceidratio",
    "OTEL_TRACES_SAMPLER_ARG": "1",
    "OTEL_BSP_SCHEDULE_DELAY": "200",
    "DRAIN_SECONDS": "1",
}

# Longer than drain, requests in flight and both flushes may take together.
STOP_SECONDS = 30.0


@dataclass(frozen=True)
class LogLine:
    """A line of the service's output, and what it says where it is JSON."""

    text: str
    fields: Mapping[str, Any]


def default_ports(project: Path) -> tuple[int, int]:
    """Return the ports of the API and of the metrics that the generated service has by default."""
    facts = tomllib.loads((project / "app" / "service.toml").read_text(encoding="utf-8"))
    return facts["ports"]["http"], facts["ports"]["metrics"]


class Service:
    """`python -m app`, from entering to leaving.

    Args:
        python: the interpreter of its environment.
        project: its folder.
        http_port: where it serves.
        metrics_port: where it is scraped.
        collector: the base URL of the OTLP receiver.
    """

    def __init__(self, python: Path, project: Path, http_port: int, metrics_port: int, collector: str) -> None:
        self._command = [str(python), "-m", "app"]
        self._project = project
        inherited = {name: os.environ[name] for name in INHERITED if name in os.environ}
        self._environment = inherited | {
            **SETTINGS,
            "HTTP_PORT": str(http_port),
            "METRICS_PORT": str(metrics_port),
            "OTEL_EXPORTER_OTLP_ENDPOINT": collector,
        }
        self.api = Client(http_port)
        self.metrics = Client(metrics_port)
        self.log: Inbox[LogLine] = Inbox(capacity=1000)

    def __enter__(self) -> Self:
        """Start the process."""
        self._process = subprocess.Popen(
            self._command,
            cwd=self._project,
            env=self._environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            encoding="utf-8",
            errors="replace",
            # The terminal sends Ctrl-C to every process of the session; when this one stops is for the demo to say.
            start_new_session=True,
        )
        self._reader = threading.Thread(
            target=self._read, args=(self._process.stdout,), name="service-log", daemon=True
        )
        self._reader.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Stop the process, whatever happened."""
        self.stop()

    @property
    def pid(self) -> int:
        """The id of the process."""
        return self._process.pid

    def wait_until_ready(self, timeout: float) -> None:
        """Wait until readiness says that requests are welcome.

        Raises:
            DemoError: the process ended, or was not ready in time.
        """
        deadline = time.monotonic() + timeout
        while (status := self._readiness()) != HTTPStatus.OK:
            if self._process.poll() is not None:
                raise DemoError(f"the service ended with exit code {self._process.returncode} at its start")
            if time.monotonic() > deadline:
                raise DemoError(f"the service was not ready within {timeout:g} s; readiness: {status or 'no answer'}")
            time.sleep(0.05)

    def _readiness(self) -> int | None:
        try:
            return self.api.send("GET", "/health/ready").status
        except NoAnswerError:
            return None

    def find(self, wanted: Callable[[Mapping[str, Any]], bool], timeout: float) -> LogLine | None:
        """Return the first log line whose fields are wanted, waiting for it."""
        return self.log.first(lambda line: wanted(line.fields), timeout)

    def last_lines(self, number: int) -> list[str]:
        """Return the end of the log."""
        # A process that has ended may have left lines that are still to be read.
        if self._process.poll() is not None:
            self._reader.join(timeout=1)
        return [line.text for line in self.log.all()[-number:]]

    def wait(self) -> int:
        """Wait until the process ends by itself; its exit code."""
        return self._process.wait()

    def stop(self) -> int:
        """Stop the process as Kubernetes does, and return its exit code.

        Raises:
            DemoError: it had to be killed.
        """
        self._process.terminate()
        try:
            code = self._process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            raise DemoError(f"the service did not stop within {STOP_SECONDS:g} s of SIGTERM and was killed") from None
        finally:
            # Only after a time-out or a second Ctrl-C is there something left to kill.
            self._process.kill()
            self._process.wait()
        self._reader.join(timeout=1)
        return code

    def _read(self, output: IO[str]) -> None:
        with output as lines:
            for line in lines:
                self.log.put(_parsed(line.rstrip("\n")))
        self.log.close()


def _parsed(text: str) -> LogLine:
    try:
        fields = json.loads(text)
    except ValueError:
        fields = None
    return LogLine(text, fields if isinstance(fields, dict) else {})
