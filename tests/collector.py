"""The real OpenTelemetry Collector: built once from `tools/otel-collector`, and a process that tests may torment."""

import fcntl
import hashlib
import os
import random
import subprocess
import time
from pathlib import Path
from typing import Any, Self

import needs
import pytest
import yaml
from conftest import ROOT

from demo.client import Client, NoAnswerError
from demo.ports import LOOPBACK, available

TOOL = ROOT / "tools" / "otel-collector"
BUILDER = "go.opentelemetry.io/collector/cmd/builder"
CACHE = ROOT / ".cache" / "otel-collector"

OK = 200


def build() -> Path:
    """Return the Collector of the manifest, built unless it is in the cache: minutes the first time, then nothing."""
    go = needs.go()
    if go is None:
        pytest.fail(f"Go for the OpenTelemetry Collector: {needs.NO_GO}", pytrace=False)
    pinned = [TOOL / name for name in ("manifest.yaml", "go.mod", "go.sum")]
    folder = CACHE / hashlib.sha256(b"".join(path.read_bytes() for path in pinned)).hexdigest()[:16]
    binary = folder / "build" / "otelcol"
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "lock").open("w") as turn:
        fcntl.flock(turn, fcntl.LOCK_EX)
        if not binary.exists():
            _go(go, "build", "-o", str(folder / "builder"), BUILDER, cwd=TOOL)
            _go(folder / "builder", f"--config={TOOL / 'manifest.yaml'}", cwd=folder, go=go)
    return binary


def _go(command: Path, *arguments: str, cwd: Path, go: Path | None = None) -> None:
    """Run Go, or a program that runs it, without the flags of the person who tests."""
    path = f"{(go or command).parent}{os.pathsep}{os.environ['PATH']}"
    environment = os.environ | {"PATH": path, "CGO_ENABLED": "0", "GOFLAGS": "-buildvcs=false", "GOWORK": "off"}
    done = subprocess.run([command, *arguments], cwd=cwd, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.fail(f"{command.name} {' '.join(arguments)}\n{done.stderr[-5000:]}", pytrace=False)


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
