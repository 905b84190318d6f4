"""How a service begins, drains and ends: by signals, and whatever hangs or fails meanwhile."""

import json
import re
import signal
import socket
import ssl
import struct
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from app.core.config import Settings
from app.core.lifecycle import exit_seconds
from tests.support import Service, wait_for

Start = Callable[..., Service]
Serve = Callable[..., Service]

ITEMS = "/api/v1/items"
LIVE = "/health/live"
READY = "/health/ready"
STARTUP = "/health/startup"

# Nothing on disk, no drain, and little patience.
QUICK = {
    "STORAGE_URL": "memory://",
    "DRAIN_SECONDS": "0",
    "GRACEFUL_SHUTDOWN_SECONDS": "1",
    "TELEMETRY_FLUSH_SECONDS": "0.2",
}
# Only another signal ends this one before a test gives up.
SLOW = {**QUICK, "DRAIN_SECONDS": "300", "GRACEFUL_SHUTDOWN_SECONDS": "300"}


@pytest.fixture
def serve(start: Start) -> Serve:
    """Starts a service that can misbehave, and waits until it is ready."""

    def serve(**settings: str) -> Service:
        service = start(module="tests.misbehaving", **QUICK | settings)
        service.wait_until(READY, 200)
        return service

    return serve


def client_of(service: Service) -> httpx.Client:
    """A client with patience."""
    return httpx.Client(base_url=service.url, timeout=60, verify=ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT))


@contextmanager
def under_way(service: Service, path: str) -> Iterator[Future[httpx.Response]]:
    """Have one more request under way; what comes of it is known when the block is left."""
    before = in_progress(service)
    with client_of(service) as client, ThreadPoolExecutor(1) as pool:
        answer = pool.submit(client.get, path)
        wait_for(lambda: in_progress(service) > before)
        yield answer


def metric(service: Service, series: str) -> float:
    """The value of one series."""
    text = httpx.get(service.metrics_url, timeout=30).text
    (value,) = re.findall(rf"^{re.escape(series)} (\S+)$", text, re.MULTILINE)
    return float(value)


def in_progress(service: Service) -> float:
    return metric(service, "http_requests_in_progress")


def listens(service: Service) -> bool:
    try:
        socket.create_connection(("127.0.0.1", service.port), timeout=1).close()
    except ConnectionError:
        return False
    return True


def bound(**settings: str) -> float:
    """How long the end of a service may take, in seconds."""
    return exit_seconds(Settings.model_validate({name.lower(): value for name, value in {**QUICK, **settings}.items()}))


def complaints(lines: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [line for line in lines if line["level"] in {"WARNING", "ERROR", "CRITICAL"}]


def events(lines: list[dict[str, Any]]) -> list[str]:
    return [line["event"] for line in lines]


def test_while_draining_all_is_served_and_clients_are_told_to_connect_elsewhere(serve: Serve) -> None:
    service = serve(**SLOW)

    with client_of(service) as client:
        before = client.get(ITEMS)
        with under_way(service, "/test/wait") as waiting:
            service.process.send_signal(signal.SIGTERM)
            service.wait_until(READY, 503)
            # The first on the connection from before, the others on new ones.
            answers = [client.get(path) for path in (ITEMS, ITEMS, READY, LIVE, STARTUP, "/test/open")]
    code, lines, err = service.end(signal.SIGTERM)

    assert (before.status_code, before.headers.get("connection")) == (200, None)
    assert [answer.status_code for answer in answers] == [200, 200, 503, 200, 200, 200]
    assert answers[2].json() == {"status": "fail", "problem": "draining"}
    assert waiting.result().status_code == 200
    assert {answer.headers["connection"] for answer in (*answers, waiting.result())} == {"close"}
    assert (code, err, complaints(lines)) == (0, "", [])


def test_sigterm_turns_unready_first_then_stops_listening_then_closes(serve: Serve) -> None:
    service = serve(DRAIN_SECONDS="2", GRACEFUL_SHUTDOWN_SECONDS="60")

    with under_way(service, "/test/wait") as cut_off, socket.create_connection(("127.0.0.1", service.port)) as late:
        began = time.monotonic()
        service.process.send_signal(signal.SIGTERM)
        service.wait_until(READY, 503)
        assert listens(service)
        # The head of one more request is sent before nobody listens any more, and its body after.
        body = b'{"name": "in flight"}'
        head = (
            b"POST /api/v1/items HTTP/1.1\r\nHost: test\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n"
        )
        late.sendall(head % len(body) + body[:5])
        wait_for(lambda: in_progress(service) == 2)
        wait_for(lambda: not listens(service))
        assert time.monotonic() - began >= 2
        late.sendall(body[5:])
        created = late.recv(65536)
        assert service.process.poll() is None
        service.process.send_signal(signal.SIGINT)
    code, lines, err = service.end()

    assert created.startswith(b"HTTP/1.1 201")
    assert cut_off.result().status_code == 503
    assert (code, err) == (0, "")
    told = events(lines)
    assert told.index("draining") < told.index("Shutting down") < told.index("application closed")


@pytest.mark.parametrize(
    "signals", [(signal.SIGINT,), (signal.SIGTERM, signal.SIGTERM), (signal.SIGTERM, signal.SIGINT)]
)
def test_somebody_in_a_hurry_skips_the_drain(start: Start, signals: tuple[signal.Signals, ...]) -> None:
    service = start(**SLOW)
    service.wait_until(READY, 200)

    for number in signals[:-1]:
        service.process.send_signal(number)
        service.wait_until(READY, 503)
    code, lines, err = service.end(signals[-1])

    assert (code, err, complaints(lines)) == (0, "", [])


def test_a_second_sigint_cuts_off_what_is_left(serve: Serve) -> None:
    service = serve(**SLOW)

    with under_way(service, "/test/wait") as answer:
        service.process.send_signal(signal.SIGINT)
        wait_for(lambda: not listens(service))
        code, lines, err = service.end(signal.SIGINT)

    assert answer.result().status_code == 503
    assert (code, err) == (0, "")
    assert "application closed" in events(lines)


def test_a_request_that_never_ends_is_cut_off_and_told_so(serve: Serve) -> None:
    service = serve()

    with under_way(service, "/test/wait") as answer:
        code, lines, err = service.end(signal.SIGTERM, timeout=bound())

    assert (code, err) == (0, "")
    assert answer.result().status_code == 503
    assert answer.result().json()["detail"] == "The service is stopping."
    assert answer.result().headers["connection"] == "close"
    assert [line["event"] for line in complaints(lines)] == [
        "Cancel 1 running task(s), timeout graceful shutdown exceeded",
        "request",
    ]
    assert "application closed" in events(lines)


def test_what_hangs_beyond_all_bounds_is_ended_and_named(serve: Serve) -> None:
    hangs = {path: serve() for path in ("block", "occupy", "persist")}
    with ExitStack() as stack:
        for path, service in hangs.items():
            stack.enter_context(under_way(service, f"/test/{path}"))
        began = time.monotonic()
        for service in hangs.values():
            service.process.send_signal(signal.SIGTERM)
        ends = {path: service.end(timeout=60) for path, service in hangs.items()}

    assert time.monotonic() - began < bound() + 5
    for code, _, err in ends.values():
        assert code == 1
        assert err.startswith("Timeout")
    for path in ("block", "occupy"):
        assert 'misbehaving.py", line' in ends[path][2]
        assert f"in {path}\n" in ends[path][2]


@pytest.mark.parametrize(
    ("how", "complaint"),
    [("fail", "the application failed to close"), ("hang", "the application did not close in time")],
)
def test_an_application_that_does_not_close_is_told_and_left(serve: Serve, how: str, complaint: str) -> None:
    service = serve(TEST_CLOSE=how)

    code, lines, err = service.end(signal.SIGTERM, timeout=bound())

    assert (code, err) == (0, "")
    assert events(complaints(lines)) == [complaint]


def test_a_start_that_fails_is_one_line_with_the_reason(start: Start) -> None:
    code, lines, err = start(module="tests.misbehaving", **QUICK, TEST_OPEN="fail").end()

    assert (code, err) == (3, "")
    (complaint,) = complaints(lines)
    assert complaint["event"] == "the start failed"
    assert complaint["error"] == "RuntimeError: the disk is on fire"
    assert "Traceback" in complaint["exception"]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_start_that_hangs_listens_to_nobody_but_signals(start: Start, number: signal.Signals) -> None:
    service = start(module="tests.misbehaving", **SLOW, TEST_OPEN="hang")
    assert service.process.stdout is not None
    assert json.loads(service.process.stdout.readline())["event"].startswith("Started server process")
    assert not listens(service)

    code, lines, err = service.end(number)

    assert (code, err, complaints(lines)) == (0, "", [])
    assert "stopped before it had started" in events(lines)


@pytest.mark.parametrize(("command", "codes"), [((), (0, 0)), (("serve",), (0, 0)), (("settings",), (130, 143))])
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_during_the_imports_ends_the_process_at_once_and_without_a_word(
    start: Start, tmp_path: Path, number: signal.Signals, command: tuple[str, ...], codes: tuple[int, int]
) -> None:
    # The working directory comes first in the path of `python -m`.
    (tmp_path / "pydantic.py").write_text("import time\nprint('{}', flush=True)\ntime.sleep(60)\n")
    service = start(*command)
    assert service.process.stdout is not None
    assert service.process.stdout.readline() == "{}\n"

    code, lines, err = service.end(number)

    assert (code, lines, err) == (codes[number is signal.SIGTERM], [], "")


@pytest.mark.parametrize("which", ["HTTP_PORT", "METRICS_PORT"])
def test_a_port_in_use_ends_the_start_with_one_clear_line(start: Start, which: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        code, lines, err = start(**QUICK, **{which: str(port)}).end()

    assert (code, err) == (3, "")
    (complaint,) = complaints(lines)
    assert str(port) in json.dumps(complaint)
    assert "address already in use" in json.dumps(complaint).lower()


def test_a_bad_environment_is_told_and_nothing_starts(start: Start) -> None:
    code, lines, err = start(HTTP_PORT="web", STORAGE_URL="nosuch://host").end()

    assert (code, lines) == (2, [])
    assert "HTTP_PORT" in err
    assert "STORAGE_URL" in err
    assert "Traceback" not in err


def test_the_next_process_takes_the_ports_over_at_once(start: Start) -> None:
    first = start(**QUICK)
    first.wait_until(READY, 200)
    ports = {"HTTP_PORT": str(first.port), "METRICS_PORT": str(first.metrics_port)}
    with (
        socket.create_connection(("127.0.0.1", first.port)),
        socket.create_connection(("127.0.0.1", first.metrics_port)),
    ):
        assert first.end(signal.SIGTERM)[0] == 0
        second = start(**QUICK, **ports)
        second.port, second.metrics_port = first.port, first.metrics_port
        second._client.base_url = httpx.URL(first.url)
        second.wait_until(READY, 200)

    assert second.end(signal.SIGTERM)[0] == 0


@pytest.mark.parametrize("reader", ["is gone", "does not read"])
def test_a_reader_of_the_log_that_fails_does_not_keep_the_process(start: Start, reader: str) -> None:
    service = start(**QUICK)
    service.wait_until(READY, 200)
    assert service.process.stdout is not None
    if reader == "is gone":
        service.process.stdout.close()
    # More lines than a pipe holds.
    with httpx.Client(base_url=service.url) as client:
        for _ in range(400):
            client.get(ITEMS)

    service.process.send_signal(signal.SIGTERM)

    assert service.process.wait(timeout=bound()) == 0
    service.process.communicate()


def test_a_thousand_probes_make_one_check_an_interval(serve: Serve) -> None:
    service = serve(HEALTH_CHECK_CACHE_SECONDS="60")

    def probe(_: int) -> set[int]:
        with httpx.Client(base_url=service.url) as client:
            return {client.get(path).status_code for path in (READY, STARTUP, LIVE) for _ in range(34)}

    with ThreadPoolExecutor(10) as pool:
        statuses = set().union(*pool.map(probe, range(10)))

    assert statuses == {200}
    # Those of `wait_until` and all of these.
    assert httpx.get(f"{service.url}/test/count").json() == 1


def test_the_metrics_port_answers_while_the_event_loop_is_blocked_and_shows_it(serve: Serve) -> None:
    service = serve()

    with under_way(service, "/test/block?seconds=2") as answer:
        wait_for(lambda: metric(service, "app_event_loop_lag_seconds") > 1)
        assert not answer.done()

    assert 1 < metric(service, "app_event_loop_lag_seconds") < 60


def test_the_metrics_port_answers_while_requests_are_shed_and_counts_them(serve: Serve) -> None:
    service = serve(MAX_CONCURRENT_REQUESTS="1")

    with under_way(service, "/test/wait"), client_of(service) as client:
        refused = [client.get(ITEMS) for _ in range(3)]
        live = client.get(LIVE)
        assert metric(service, "http_requests_shed_total") == 3
        service.end(signal.SIGINT)

    assert {(answer.status_code, answer.headers["retry-after"]) for answer in refused} == {(503, "1")}
    assert live.status_code == 200


def test_threads_show_in_use_while_they_are(serve: Serve) -> None:
    service = serve()

    def tokens(state: str) -> float:
        return metric(service, f'app_thread_tokens{{state="{state}"}}')

    free = tokens("free")
    with ExitStack() as stack:
        answers = [stack.enter_context(under_way(service, "/test/occupy")) for _ in range(3)]
        wait_for(lambda: (tokens("used"), tokens("free")) == (3, free - 3))
        httpx.get(f"{service.url}/test/open")

    assert [answer.result().status_code for answer in answers] == [200, 200, 200]
    wait_for(lambda: (tokens("used"), tokens("free")) == (0, free))


def test_the_metrics_port_refuses_everything_but_its_path(serve: Serve) -> None:
    service = serve()
    expected = {
        ("GET", "/metrics"): 200,
        ("GET", "/metrics?name[]=app_info"): 200,
        ("HEAD", "/metrics"): 405,
        ("POST", "/metrics"): 405,
        ("DELETE", "/metrics"): 405,
        ("GET", "/"): 404,
        ("POST", "/"): 404,
        ("GET", "/metrics/"): 404,
        ("GET", ITEMS): 404,
        ("GET", LIVE): 404,
    }

    with httpx.Client(base_url=f"http://127.0.0.1:{service.metrics_port}") as client:
        assert {asked: client.request(*asked).status_code for asked in expected} == expected


def test_connections_that_say_nothing_or_leave_cost_the_metrics_port_nothing(serve: Serve) -> None:
    service = serve()

    with ExitStack() as stack:
        began = time.monotonic()
        silent = [stack.enter_context(socket.create_connection(("127.0.0.1", service.metrics_port))) for _ in range(50)]
        assert httpx.get(service.metrics_url).status_code == 200
        assert time.monotonic() - began < 5
        # Half a request, then gone with a reset.
        silent[0].sendall(b"GET /metrics HTTP/1.1\r\nHost: ")
        silent[0].setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        silent[0].close()
    code, lines, err = service.end(signal.SIGTERM)

    assert (code, err, complaints(lines)) == (0, "", [])
