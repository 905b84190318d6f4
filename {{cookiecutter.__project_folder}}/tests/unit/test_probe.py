"""`python -m app health`: the check that a container's engine runs inside it."""

import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest

from app.__main__ import main
from app.core import probe
from app.core.config import FACTS
from tests.support import ROOT

PASS = b'HTTP/1.1 200 OK\r\nContent-Length: 17\r\n\r\n{"status":"pass"}'
FAIL = b'HTTP/1.1 503 Service Unavailable\r\n\r\n{"status":"fail","problem":"draining"}'


@contextmanager
def server(answer: Callable[[socket.socket], object], host: str = "127.0.0.1") -> Iterator[int]:
    """A server for one connection, which it answers so; the port it is on."""
    with socket.create_server((host, 0), family=socket.AF_INET6 if ":" in host else socket.AF_INET) as listener:

        def serve() -> None:
            connection, _ = listener.accept()
            with connection:
                requests.append(connection.recv(1000))
                answer(connection)

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        yield listener.getsockname()[1]
        thread.join(10)


requests: list[bytes] = []


@pytest.fixture(autouse=True)
def _nobodys_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    requests.clear()
    monkeypatch.delenv("HTTP_HOST", raising=False)
    monkeypatch.delenv("HTTP_PORT", raising=False)


@pytest.mark.parametrize(
    ("arguments", "path"),
    [([], "ready"), (["ready"], "ready"), (["live"], "live"), (["startup"], "startup")],
)
def test_it_passes_when_the_probe_does(
    arguments: list[str], path: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with server(lambda connection: connection.sendall(PASS)) as port:
        monkeypatch.setenv("HTTP_PORT", str(port))

        assert main(["health", *arguments]) == 0

    assert requests[0].startswith(f"GET /health/{path} HTTP/1.1\r\nHost: ".encode())
    assert capsys.readouterr() == ("", "")


def test_it_fails_with_the_reason_that_the_service_gives(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with server(lambda connection: connection.sendall(FAIL)) as port:
        monkeypatch.setenv("HTTP_PORT", str(port))

        assert main(["health"]) == 1

    assert capsys.readouterr().err == 'ready: 503 {"status":"fail","problem":"draining"}\n'


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (lambda connection: connection.sendall(b"SSH-2.0-OpenSSH_10.0\r\n"), "no HTTP: 'SSH-2.0"),
        (lambda _: None, "no HTTP: ''"),
        (lambda _: time.sleep(0.5), "timed out"),
    ],
    ids=["another protocol", "no answer", "silence"],
)
def test_it_fails_when_what_listens_is_not_the_service(
    answer: Callable[[socket.socket], object], reason: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with server(answer) as port:
        monkeypatch.setenv("HTTP_PORT", str(port))

        assert reason in str(probe.problem("live", timeout=0.2))


def test_a_trickle_of_bytes_does_not_extend_its_time(monkeypatch: pytest.MonkeyPatch) -> None:
    def trickle(connection: socket.socket) -> None:
        for byte in PASS * 20:
            try:
                connection.sendall(bytes([byte]))
            except OSError:
                return
            time.sleep(0.02)

    with server(trickle) as port:
        monkeypatch.setenv("HTTP_PORT", str(port))
        before = time.monotonic()

        assert "timed out" in str(probe.problem("ready", timeout=0.3))
        assert time.monotonic() - before < 2


def test_it_fails_when_nothing_listens(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        monkeypatch.setenv("HTTP_PORT", str(listener.getsockname()[1]))

    assert "refused" in str(probe.problem("ready"))


@pytest.mark.parametrize(
    ("listens_on", "setting"),
    [("127.0.0.1", ""), ("127.0.0.1", "0.0.0.0"), ("127.0.0.1", "localhost"), ("::1", "::")],  # noqa: S104
)
def test_it_calls_the_address_that_the_service_listens_on(
    listens_on: str, setting: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with server(lambda connection: connection.sendall(PASS), host=listens_on) as port:
        monkeypatch.setenv("HTTP_PORT", str(port))
        monkeypatch.setenv("HTTP_HOST", setting)

        assert probe.problem("ready") is None


def test_the_port_is_that_of_the_facts_unless_the_environment_has_one(monkeypatch: pytest.MonkeyPatch) -> None:
    called = []

    def connect(address: tuple[str, int], timeout: float) -> socket.socket:
        called.append(address)
        raise ConnectionRefusedError

    monkeypatch.setattr("socket.create_connection", connect)

    assert probe.problem("ready") == "ConnectionRefusedError"
    assert called == [("127.0.0.1", FACTS.ports.http)]


def test_a_port_that_is_none_is_a_reason_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTP_PORT", "http")

    assert "'http'" in str(probe.problem("ready"))


@pytest.mark.parametrize("arguments", [["dead"], ["ready", "live"], ["--help"]])
def test_it_knows_three_probes(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["health", *arguments]) == 2
    assert capsys.readouterr().err == "usage: python -m app health [live|ready|startup]\n"


def test_it_is_in_the_help(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["--help"])

    assert "health" in capsys.readouterr().out


def test_it_loads_nothing_of_the_framework() -> None:
    code = "import sys; from app.__main__ import main; main(['health']); print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)  # noqa: S603

    assert not {"argparse", "asyncio", "fastapi", "http.client", "pydantic", "structlog"} & {*done.stdout.split()}
