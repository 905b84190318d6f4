"""The real OpenTelemetry Collector: built once from `tools/otel-collector`, and a process that tests may torment."""

import random
import subprocess
import time
from pathlib import Path
from typing import Any, Self

import components
import pytest
import yaml

from demo.client import Client, NoAnswerError
from demo.ports import LOOPBACK, available

OK = 200


def build() -> Path:
    """Return the Collector of the manifest."""
    return components.build("otel-collector") / "otelcol"


class Collector:
    """A Collector that forwards what it receives, and answers its client only when that has arrived.

    Without a queue of its own it never has the only copy of a span, so that nothing is lost when it is killed.

    Args:
        binary: the program.
        folder: where its configuration and log are put.
        onward: the base URL it forwards to.
    """

    def __init__(self, binary: Path, folder: Path, onward: str) -> None:
        self._binary = binary
        self._folder = folder
        self._onward = onward
        # Below those that the system gives to clients: while it is down, one of them could take its port.
        self._port, health_port = available(random.sample(range(15_000, 32_768), 2))
        self._health = Client(health_port)
        self._process: subprocess.Popen[bytes] | None = None
        self.endpoint = f"http://{LOOPBACK}:{self._port}"

    def start(self, **processors: Any) -> Self:
        """Start it with these processors, and wait until it receives."""
        address = self._health.url.removeprefix("http://")
        config = {
            "extensions": {"health_check": {"endpoint": address}},
            "receivers": {"otlp": {"protocols": {"http": {"endpoint": f"{LOOPBACK}:{self._port}"}}}},
            "processors": processors,
            "exporters": {
                "otlp_http": {
                    "endpoint": self._onward,
                    "sending_queue": {"enabled": False},
                    "retry_on_failure": {"enabled": False},
                }
            },
            "service": {
                "extensions": ["health_check"],
                "telemetry": {"metrics": {"level": "none"}},
                "pipelines": {
                    "traces": {"receivers": ["otlp"], "processors": list(processors), "exporters": ["otlp_http"]}
                },
            },
        }
        path = self._folder / "collector.yaml"
        path.write_text(yaml.safe_dump(config), encoding="utf-8")
        with (self._folder / "collector.log").open("ab") as log:
            self._process = subprocess.Popen([self._binary, f"--config={path}"], stderr=log)
        deadline = time.monotonic() + 60
        while not self._serves():
            if self._process.poll() is not None or time.monotonic() > deadline:
                pytest.fail(f"the Collector does not serve:\n{self.log()[-5000:]}", pytrace=False)
            time.sleep(0.05)
        return self

    def _serves(self) -> bool:
        try:
            return self._health.send("GET", "/").status == OK
        except NoAnswerError:
            return False

    def log(self) -> str:
        """What it said."""
        return (self._folder / "collector.log").read_text(encoding="utf-8")

    def kill(self) -> None:
        """End it as the kernel does when memory is short."""
        if self._process:
            self._process.kill()
            self._process.wait()

    def __enter__(self) -> Self:
        """Give it to a test, which starts it."""
        return self

    def __exit__(self, *_: object) -> None:
        """Let no process outlive the test."""
        self.kill()
