"""`make jenkinsfile-lint` tells what a controller says of the Jenkinsfile, and what it needs to ask one."""

import json
import threading
from base64 import b64decode
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import Any, ClassVar
from urllib.parse import parse_qs

import pytest

from tools import jenkins


class Controller(BaseHTTPRequestHandler):
    """Answers as the plugin pipeline-model-definition does: 200 whatever it found, in one of two forms of errors."""

    answer: ClassVar[bytes]
    status: ClassVar[int]
    asked: ClassVar[dict[str, Any]]
    crumb: ClassVar[str]

    def do_GET(self) -> None:
        """Give a crumb for this session, where forgery is prevented."""
        self.send_response(200 if self.crumb else 404)
        self.send_header("Set-Cookie", "JSESSIONID=one; Path=/jenkins")
        self.end_headers()
        if self.crumb:
            self.wfile.write(json.dumps({"crumbRequestField": "Jenkins-Crumb", "crumb": self.crumb}).encode())

    def do_POST(self) -> None:
        if self.crumb and (self.headers["Jenkins-Crumb"], self.headers["Cookie"]) != (self.crumb, "JSESSIONID=one"):
            self.send_error(403, "No valid crumb was included in the request")
            return
        body = self.rfile.read(int(self.headers["Content-Length"])).decode()
        user = b64decode(self.headers["Authorization"].removeprefix("Basic ")).decode()
        Controller.asked = {"path": self.path, "user": user, "form": parse_qs(body, strict_parsing=True)}
        self.send_response(self.status)
        self.end_headers()
        self.wfile.write(self.answer)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base class's name
        """Say nothing."""


@pytest.fixture
def controller(monkeypatch: pytest.MonkeyPatch) -> Iterator[type[Controller]]:
    with HTTPServer(("127.0.0.1", 0), Controller) as server:
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        monkeypatch.setenv("JENKINS_URL", f"http://127.0.0.1:{server.server_port}/jenkins/")
        monkeypatch.setenv("JENKINS_USER", "admin")
        monkeypatch.setenv("JENKINS_TOKEN", "a-token")
        Controller.status, Controller.crumb = 200, "of this session"
        yield Controller
        server.shutdown()


def test_a_jenkinsfile_that_the_controller_takes_passes(
    controller: type[Controller], capsys: pytest.CaptureFixture[str]
) -> None:
    controller.answer = json.dumps({"status": "ok", "data": {"result": "success"}}).encode()

    assert jenkins.main() == 0
    assert "would run ci-cd/jenkins/Jenkinsfile" in capsys.readouterr().out
    assert controller.asked == {
        "path": "/jenkins/pipeline-model-converter/validateJenkinsfile",
        "user": "admin:a-token",
        "form": {"jenkinsfile": [jenkins.JENKINSFILE.read_text(encoding="utf-8")]},
    }


def test_a_controller_that_gives_no_crumbs_is_asked_without(controller: type[Controller]) -> None:
    controller.answer = json.dumps({"status": "ok", "data": {"result": "success"}}).encode()
    controller.crumb = ""

    assert jenkins.main() == 0


@pytest.mark.parametrize(
    ("errors", "told"),
    [
        ([{"error": 'Unknown stage section "step" @ line 3'}], ['Unknown stage section "step" @ line 3']),
        ([{"error": ["No agent @ line 1", "No steps @ line 5"]}], ["No agent @ line 1", "No steps @ line 5"]),
    ],
)
def test_each_complaint_of_the_controller_is_told(
    errors: list[Any], told: list[str], controller: type[Controller], capsys: pytest.CaptureFixture[str]
) -> None:
    controller.answer = json.dumps({"status": "ok", "data": {"result": "failure", "errors": errors}}).encode()

    assert jenkins.main() == 1
    assert capsys.readouterr().err.splitlines() == told


@pytest.mark.parametrize(
    ("status", "answer", "code"),
    [
        (200, b"{}", 1),
        (200, b'{"status": "ok", "data": {"result": "later"}}', 1),
        (200, b"<html>not Jenkins</html>", 2),
        (403, b"no permission", 2),
    ],
)
def test_what_is_no_verdict_never_passes(
    status: int, answer: bytes, code: int, controller: type[Controller], capsys: pytest.CaptureFixture[str]
) -> None:
    controller.status, controller.answer = status, answer

    assert jenkins.main() == code
    assert "verdict" in capsys.readouterr().err


@pytest.mark.parametrize("missing", ["JENKINS_URL", "JENKINS_USER", "JENKINS_TOKEN"])
def test_without_a_controller_it_says_what_it_needs(
    missing: str, controller: type[Controller], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv(missing)

    assert jenkins.main() == 2
    assert missing in capsys.readouterr().err
