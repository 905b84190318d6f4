"""`make demo` shows what is really there, says what is not, and leaves nothing running."""

import gzip
import json
import os
import re
import select
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from http.client import HTTPConnection
from pathlib import Path

import pytest
from conftest import ROOT, Run
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)
from opentelemetry.proto.common.v1.common_pb2 import AnyValue, ArrayValue, KeyValue, KeyValueList
from opentelemetry.proto.resource.v1.resource_pb2 import Resource
from opentelemetry.proto.trace.v1.trace_pb2 import ResourceSpans, ScopeSpans, Status
from opentelemetry.proto.trace.v1.trace_pb2 import Span as ProtoSpan

from demo import evidence, ports, service, workspace
from demo.__main__ import main
from demo.evidence import matching
from demo.failure import DemoError
from demo.inbox import Inbox
from demo.otlp_receiver import CONTENT_TYPE, PATH, OtlpReceiver
from demo.screen import wrapped
from demo.service import Service

TRACE_ID = "0af7651916cd43dd8448eb211c80319c"
SPAN_ID = "b7ad6b7169203331"
PARENT_ID = "00f067aa0ba902b7"

# Until the demo waits for Ctrl-C; the first of these tests on a machine also installs the packages.
DEMO_SECONDS = 300.0


def export(name: str = "GET /", parent: str = "") -> bytes:
    """Return what an exporter sends for one span."""
    attributes = {
        "text": AnyValue(string_value="a"),
        "flag": AnyValue(bool_value=True),
        "count": AnyValue(int_value=200),
        "share": AnyValue(double_value=0.5),
        "list": AnyValue(array_value=ArrayValue(values=[AnyValue(string_value="x"), AnyValue(int_value=1)])),
        "map": AnyValue(kvlist_value=KeyValueList(values=[KeyValue(key="k", value=AnyValue(string_value="v"))])),
        "nothing": AnyValue(),
    }
    span = ProtoSpan(
        name=name,
        trace_id=bytes.fromhex(TRACE_ID),
        span_id=bytes.fromhex(SPAN_ID),
        parent_span_id=bytes.fromhex(parent),
        attributes=[KeyValue(key=key, value=value) for key, value in attributes.items()],
        status=Status(code=Status.STATUS_CODE_ERROR),
    )
    resource = Resource(attributes=[KeyValue(key="service.name", value=AnyValue(string_value="shop"))])
    of_resource = ResourceSpans(resource=resource, scope_spans=[ScopeSpans(spans=[span])])
    body: bytes = ExportTraceServiceRequest(resource_spans=[of_resource]).SerializeToString()
    return body


def post(receiver: OtlpReceiver, body: bytes, path: str = PATH, **headers: str) -> tuple[int, bytes]:
    """Send a body to the receiver; header names are written with underscores."""
    connection = HTTPConnection(receiver.endpoint.removeprefix("http://"), timeout=5)
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    connection.request("POST", path, body, {"Content-Type": CONTENT_TYPE} | named)
    response = connection.getresponse()
    answer = response.status, response.read()
    connection.close()
    return answer


@pytest.fixture
def receiver() -> Iterator[OtlpReceiver]:
    with OtlpReceiver() as entered:
        yield entered


@pytest.mark.parametrize("encoding", ["identity", "gzip"])
def test_receiver_takes_spans(receiver: OtlpReceiver, encoding: str) -> None:
    body = gzip.compress(export()) if encoding == "gzip" else export()

    status, answer = post(receiver, body, Content_Encoding=encoding)

    assert status == 200
    assert answer == ExportTraceServiceResponse().SerializeToString()
    (span,) = receiver.spans
    assert (span.name, span.trace_id, span.span_id, span.parent_span_id) == ("GET /", TRACE_ID, SPAN_ID, None)
    assert span.status == "error"
    assert span.resource == {"service.name": "shop"}
    assert span.attributes == {
        "text": "a",
        "flag": True,
        "count": 200,
        "share": 0.5,
        "list": ["x", 1],
        "map": {"k": "v"},
        "nothing": None,
    }


def test_receiver_keeps_the_parent(receiver: OtlpReceiver) -> None:
    post(receiver, export(parent=PARENT_ID))

    assert receiver.spans[0].parent_span_id == PARENT_ID


def test_receiver_takes_many_exports_on_one_connection(receiver: OtlpReceiver) -> None:
    connection = HTTPConnection(receiver.endpoint.removeprefix("http://"), timeout=5)
    for number in range(3):
        connection.request("POST", PATH, export(f"span {number}"), {"Content-Type": CONTENT_TYPE})
        response = connection.getresponse()
        response.read()
        assert response.status == 200
    connection.close()

    assert [span.name for span in receiver.spans] == ["span 0", "span 1", "span 2"]


@pytest.mark.parametrize(
    ("body", "headers", "status", "reason"),
    [
        (b"{}", {"Content_Type": "application/json"}, 415, b"application/x-protobuf"),
        (export(), {"Content_Encoding": "br"}, 415, b"gzip"),
        (b"plain", {"Content_Encoding": "gzip"}, 400, b"not gzip"),
        (gzip.compress(export())[:-9], {"Content_Encoding": "gzip"}, 400, b"not gzip"),
        (b"\xff\xff\xff", {}, 400, b"ExportTraceServiceRequest"),
        (b"", {"Content_Length": "-1"}, 400, b"Content-Length"),
    ],
)
def test_receiver_refuses_what_is_no_export(
    receiver: OtlpReceiver, body: bytes, headers: dict[str, str], status: int, reason: bytes
) -> None:
    answered, text = post(receiver, body, **headers)

    assert answered == status
    assert reason in text
    assert receiver.spans == []
    assert post(receiver, export())[0] == 200


def test_receiver_knows_one_path(receiver: OtlpReceiver) -> None:
    assert post(receiver, export(), path="/v1/metrics") == (404, b"spans are received at /v1/traces only\n")


def test_receiver_waits_for_a_span_that_is_still_to_come(receiver: OtlpReceiver) -> None:
    sender = threading.Timer(0.2, lambda: (post(receiver, export("other")), post(receiver, export("wanted"))))
    sender.start()

    assert receiver.wait_for(lambda span: span.name == "wanted", timeout=5).name == "wanted"
    sender.join()


def test_receiver_says_what_came_instead(receiver: OtlpReceiver) -> None:
    post(receiver, export("other"))

    with pytest.raises(TimeoutError, match=r"within 0\.1 s; received: other"):
        receiver.wait_for(lambda span: span.name == "wanted", timeout=0.1)


def test_receiver_listens_on_loopback_only_and_frees_its_port() -> None:
    with OtlpReceiver() as receiver:
        host, _, port = receiver.endpoint.removeprefix("http://").partition(":")
        assert host == "127.0.0.1"
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection((host, int(port)), timeout=1)


def test_inbox_keeps_the_latest() -> None:
    inbox: Inbox[int] = Inbox(capacity=2)
    inbox.put(1, 2, 3)

    assert inbox.all() == [2, 3]


def test_nobody_waits_for_a_closed_inbox() -> None:
    inbox: Inbox[int] = Inbox(capacity=2)
    threading.Timer(0.1, inbox.close).start()
    began = time.monotonic()

    assert inbox.first(lambda _: True, timeout=30) is None
    assert time.monotonic() - began < 10


def test_free_ports_are_kept_and_taken_ones_replaced() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken, socket.create_server(("127.0.0.1", 0)) as released:
        port, free = taken.getsockname()[1], released.getsockname()[1]
        released.close()

        first, second, third = ports.available([port, free, port])

    assert second == free
    assert len({port, first, second, third}) == 4


def test_a_sample_is_found_by_all_its_labels() -> None:
    wanted = 'http_requests_total{method="GET",route="/items/{id}",status="200"} 1.0 # {trace_id="a"} 1.0 2.5'
    samples = [
        "# TYPE http_requests counter",
        'http_requests_total{method="GET",route="/items/{id}",status="404"} 1.0',
        'http_requests_created{method="GET",route="/items/{id}",status="200"} 1.0',
        wanted,
    ]

    found = matching("\n".join(samples), "http_requests_total", {"route": "/items/{id}", "status": "200"})

    assert list(found) == [wanted]


def test_wrapped_lines_are_the_line() -> None:
    line = ",".join(f'"key{number}":"value{number}"' for number in range(40)) + ' # {a="b"} 1'

    lines = wrapped(line, width=60)

    assert "".join(lines) == line
    assert max(map(len, lines)) <= 60


def fake_service(folder: Path, code: str) -> Service:
    """Return a service whose `python -m app` is this code, not yet started."""
    (folder / "app.py").write_text(code, encoding="utf-8")
    http_port, metrics_port = ports.available([0, 0])
    return Service(Path(sys.executable), folder, http_port, metrics_port, collector="http://127.0.0.1:1")


def test_the_service_inherits_no_settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("STORAGE_URL", "ENVIRONMENT", "OTEL_SDK_DISABLED", "HTTP_PROXY"):
        monkeypatch.setenv(name, "mine")
    with fake_service(tmp_path, "import json, os; print(json.dumps(dict(os.environ)))") as started:
        line = started.find(lambda fields: "HTTP_PORT" in fields, timeout=10)

    assert line is not None
    assert "mine" not in line.fields.values()


def test_a_service_that_ignores_sigterm_is_killed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(service, "STOP_SECONDS", 0.3)
    code = "import signal, time; signal.signal(15, signal.SIG_IGN); print('{\"up\": 1}', flush=True); time.sleep(60)"
    with pytest.raises(DemoError, match="killed"), fake_service(tmp_path, code) as started:
        assert started.find(lambda fields: "up" in fields, timeout=10)

    assert gone(started.pid)


def test_an_interrupted_installation_is_begun_again(tmp_path: Path) -> None:
    (tmp_path / workspace.REQUIREMENTS).write_text("", encoding="utf-8")
    (tmp_path / "venv-of-another-lock").mkdir()
    environment = workspace.Environment(tmp_path, base=tmp_path)
    (environment.folder / "bin").mkdir(parents=True)
    (environment.folder / "bin" / "python").touch()
    assert not environment.ready

    environment.install(progress=lambda _: None)

    assert environment.ready
    assert subprocess.run([environment.python, "-c", ""], check=False).returncode == 0
    assert not (tmp_path / "venv-of-another-lock").exists()


def test_packages_that_cannot_be_installed_are_said(tmp_path: Path) -> None:
    (tmp_path / workspace.REQUIREMENTS).write_text("no-hash==1\n", encoding="utf-8")
    environment = workspace.Environment(tmp_path, base=tmp_path)

    with pytest.raises(DemoError, match="hash"):
        environment.install(progress=lambda _: None)

    assert not environment.ready


def test_each_demo_has_a_folder_of_its_own(tmp_path: Path) -> None:
    with workspace.claimed_folder(tmp_path) as first:
        (first / "left behind").touch()
        with workspace.claimed_folder(tmp_path) as second:
            assert first != second
    with workspace.claimed_folder(tmp_path) as third:
        assert third == first
        assert list(third.iterdir()) == []


def gone(pid: int) -> bool:
    """Return whether a process has ended."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    return False


def stopped_pid(output: str) -> int:
    """Return the process id of the service that the demo said it stopped cleanly."""
    found = re.search(r"Stopping the service \(pid (\d+)\): SIGTERM, 1 s drain \.\.\. exit code 0", output)
    assert found, output
    return int(found[1])


def test_the_demo_shows_what_one_request_left_behind(run: Run, tmp_path: Path) -> None:
    rc = tmp_path / "cookiecutterrc"
    rc.write_text("default_context: {project_name: Mine}\n", encoding="utf-8")

    env = {"PYTHONPATH": str(ROOT), "COOKIECUTTER_CONFIG": str(rc), "STORAGE_URL": "nonsense://"}

    done = run("demo", cwd=tmp_path, env=env)

    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stderr == ""
    assert "\033" not in done.stdout
    assert re.findall(r"^ +(\d{3})  (\w+) .* (demo-\w+-1)$", done.stdout, re.MULTILINE) == [
        ("201", "POST", "demo-create-1"),
        ("200", "GET", "demo-list-1"),
        ("200", "GET", "demo-read-1"),
        ("404", "GET", "demo-missing-1"),
        ("422", "POST", "demo-invalid-1"),
    ]

    parts = dict(re.findall(r"^  ([A-Z][a-z]+(?: [a-z]+)?) +(\S.*(?:\n {3,}.*)*)", done.stdout, re.MULTILINE))
    line = json.loads("".join(row.strip() for row in parts["Log line"].splitlines()))
    assert (line["event"], line["correlation_id"], line["status"]) == ("request", "demo-read-1", 200)
    assert "x-correlation-id: demo-read-1" in parts["Response"]
    assert "http_requests_total" in parts["Metric"]
    assert parts["Metric"].count(f'# {{trace_id="{line["trace_id"]}"}}') == 2
    assert f"trace_id={line['trace_id']} span_id={line['span_id']}" in parts["Span"]
    assert "correlation_id=demo-read-1" in parts["Span"]
    assert (Path(parts["Code"]) / "app" / "service.toml").is_file()
    assert Path(parts["Code"]).name == "sre-demo-api"
    assert gone(stopped_pid(done.stdout))


def test_taken_ports_are_replaced_and_said(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as http, socket.create_server(("127.0.0.1", 0)) as metrics:
        taken = http.getsockname()[1], metrics.getsockname()[1]
        monkeypatch.setattr("demo.__main__.default_ports", lambda _: taken)

        assert main([]) == 0

    output = capsys.readouterr().out
    replaced = re.findall(r"Port (\d+) is taken: using (\d+) in its place\.", output)
    assert [int(port) for port, _ in replaced] == list(taken)
    assert f"API       http://127.0.0.1:{replaced[0][1]}/api/v1/items" in output
    assert f"Metrics   http://127.0.0.1:{replaced[1][1]}/metrics" in output


def test_two_demos_at_once_do_not_meet(run: Run) -> None:
    with ThreadPoolExecutor() as pool:
        both = list(pool.map(lambda _: run("demo", cwd=ROOT), range(2)))

    for done in both:
        assert done.returncode == 0, done.stdout + done.stderr
        assert gone(stopped_pid(done.stdout))
    folders = {folder for done in both for folder in re.findall(r"^  Code +(.+)$", done.stdout, re.MULTILINE)}
    assert len(folders) == 2


def read_until(terminal: int, ends: Callable[[str], bool]) -> str:
    """Return what is printed on a terminal until that is enough or its program has closed it."""
    output, deadline = b"", time.monotonic() + DEMO_SECONDS
    while not ends(output.decode(errors="replace")) and time.monotonic() < deadline:
        if not select.select([terminal], [], [], 1)[0]:
            continue
        try:
            chunk = os.read(terminal, 65536)
        except OSError:  # Linux says so, others send an empty chunk.
            break
        if not chunk:
            break
        output += chunk
    return output.decode(errors="replace").replace("\r\n", "\n")


@pytest.mark.parametrize(
    ("leave", "code"),
    [
        pytest.param(lambda terminal, _: os.write(terminal, b"\x03"), 0, id="ctrl-c"),
        pytest.param(lambda _, demo: demo.terminate(), 128 + signal.SIGTERM, id="sigterm"),
    ],
)
def test_the_demo_runs_on_at_a_terminal(
    environment: dict[str, str], leave: Callable[[int, subprocess.Popen[bytes]], object], code: int
) -> None:
    # Only for a process whose controlling terminal it is does a terminal turn the key into a signal.
    starter = (
        "import fcntl, os, sys, termios; fcntl.ioctl(0, termios.TIOCSCTTY, 0); "
        "os.execv(sys.executable, [sys.executable, '-m', 'demo'])"
    )
    terminal, end = os.openpty()
    demo = subprocess.Popen(
        [sys.executable, "-c", starter],
        cwd=ROOT,
        env=environment | {"NO_COLOR": ""},
        stdin=end,
        stdout=end,
        stderr=end,
        start_new_session=True,
    )
    os.close(end)
    try:
        shown = read_until(terminal, lambda output: "Ctrl-C stops it." in output)
        running = re.search(r"The service runs \(pid (\d+)\)", shown)
        assert running, shown
        pid, api = int(running[1]), re.search(r"API +http://127\.0\.0\.1:(\d+)", shown)
        assert api
        assert demo.poll() is None
        assert not gone(pid)
        socket.create_connection(("127.0.0.1", int(api[1])), timeout=1).close()
        assert "\033[" in shown

        leave(terminal, demo)
        rest = read_until(terminal, lambda _: False)

        assert demo.wait(timeout=60) == code, rest
        assert gone(pid)
        if code == 0:
            assert stopped_pid(rest) == pid
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(("127.0.0.1", int(api[1])), timeout=1)
    finally:
        demo.terminate()
        demo.wait(timeout=60)
        os.close(terminal)


def test_a_service_that_does_not_start_is_explained(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(service.SETTINGS, "LOG_LEVEL", "shout")

    assert main([]) == 1

    captured = capsys.readouterr()
    assert "the service ended with exit code 2 at its start" in captured.err
    assert "LOG_LEVEL" in captured.err
    assert "left behind" not in captured.out


def test_a_missing_span_is_a_failure(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setitem(service.SETTINGS, "OTEL_TRACES_SAMPLER_ARG", "0")
    monkeypatch.setattr(evidence, "SPAN_SECONDS", 1.0)

    assert main([]) == 1

    captured = capsys.readouterr()
    assert "no span with correlation_id demo-read-1 was received" in captured.err
    assert '"correlation_id":"demo-read-1"' in captured.err
    assert "What the request" not in captured.out
