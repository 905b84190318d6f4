"""Who is told what: Alertmanager itself decides, with the configuration of a generated service."""

import base64
import email
import email.policy
import json
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from queue import Empty, SimpleQueue
from socketserver import StreamRequestHandler, ThreadingTCPServer
from threading import Thread
from typing import Any, NamedTuple

import components
import httpx
import pytest
import yaml
from conftest import Bake
from waiting import wait_for

from demo.ports import available

pytestmark = pytest.mark.ci

TEAM, JOB = "platform", "sre-demo-api"
PATIENCE_SECONDS = 20

# Times to be told: the tests run at any.
ALWAYS: dict[str, Any] = {}
NEVER = {"years": ["2000"]}


class Posted(NamedTuple):
    """What somebody was sent."""

    path: str
    body: Any


class Receiver:
    """Keeps what is posted to it."""

    def __init__(self) -> None:
        posted = self._posted = SimpleQueue[Posted]()

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                posted.put(Posted(self.path, json.loads(body)))
                self.send_response(200)
                self.end_headers()
                # What Slack says.
                self.wfile.write(b"ok")

            def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the name is inherited
                """Log nothing."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        Thread(target=self._server.serve_forever, daemon=True).start()

    def next(self) -> Posted:
        """What comes next; fails when nothing comes."""
        try:
            return self._posted.get(timeout=PATIENCE_SECONDS)
        except Empty:
            pytest.fail("nobody was told anything")

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    """Somebody who is told."""
    receiver = Receiver()
    yield receiver
    receiver.close()


def amtool(*arguments: str | Path) -> str:
    """What Alertmanager's own tool prints."""
    command = [components.build("alertmanager") / "amtool", *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def configuration(project: Path) -> Path:
    """The file as it was generated."""
    return project / "observability" / "alertmanager" / "alertmanager.yml"


def route(project: Path, **labels: str) -> str:
    """Who is told of an alert with these labels."""
    given = [f'{name}="{value}"' for name, value in labels.items()]
    return amtool("config", "routes", "test", f"--config.file={configuration(project)}", *given).strip()


@pytest.mark.parametrize(
    ("severity", "team", "name", "told"),
    [
        ("page", TEAM, "AvailabilityErrorBudgetBurn", "page"),
        ("page", TEAM, "ServiceMetricsAbsent", "page"),
        ("page", TEAM, "NoInstanceReady", "page"),
        ("ticket", TEAM, "AvailabilityErrorBudgetBurn", "ticket"),
        ("ticket", TEAM, "DependencyDown", "ticket"),
        ("ticket", TEAM, "StackTargetDown", "ticket"),
        # Better a ticket than silence.
        ("critical", TEAM, "DependencyDown", "ticket"),
        ("none", TEAM, "Watchdog", "heartbeat"),
        ("none", TEAM, "Informative", "nobody"),
        ("page", "others", "AvailabilityErrorBudgetBurn", "unclaimed"),
        ("ticket", "others", "DependencyDown", "unclaimed"),
        ("none", "others", "Watchdog", "heartbeat"),
        ("none", "others", "Informative", "nobody"),
        ("page", "", "AvailabilityErrorBudgetBurn", "unclaimed"),
    ],
)
def test_who_is_told_follows_from_severity_and_team(
    severity: str, team: str, name: str, told: str, default_project: Path
) -> None:
    assert route(default_project, alertname=name, severity=severity, team=team, job=JOB) == told


@pytest.mark.parametrize("team", ["null", "1e3", "on", "007", "t" * 39])
def test_a_team_with_an_unusual_name_is_told(team: str, bake: Bake) -> None:
    project = bake(team=team)

    assert route(project, alertname="DependencyDown", severity="ticket", team=team) == "ticket"
    assert route(project, alertname="DependencyDown", severity="ticket", team="x") == "unclaimed"


class Alertmanager:
    """A started one, which serves once it is ready.

    Args:
        config: its configuration.
        folder: where it keeps what it needs.
    """

    def __init__(self, config: Mapping[str, Any], folder: Path) -> None:
        file = folder / "alertmanager.yml"
        file.write_text(yaml.safe_dump(dict(config)), encoding="utf-8")
        (port,) = available([0])
        self.url = f"http://127.0.0.1:{port}"
        self.log = folder / "log"
        with self.log.open("w") as log:
            self._process = subprocess.Popen(
                [
                    components.build("alertmanager") / "alertmanager",
                    f"--config.file={file}",
                    f"--storage.path={folder / 'data'}",
                    "--cluster.listen-address=",
                    f"--web.listen-address={self.url.removeprefix('http://')}",
                    "--web.external-url=http://localhost:9093",
                    "--web.route-prefix=/",
                ],
                stderr=log,
                stdout=log,
            )

    def is_ready(self) -> bool:
        try:
            return httpx.get(f"{self.url}/-/ready").is_success
        except httpx.TransportError:
            return False

    def wait_for(self, what: Callable[[], Any], otherwise: str) -> Any:
        """What is there at last; fails when it does not come, or cannot any more."""

        def look() -> Any:
            assert self._process.poll() is None, f"it ended with {self._process.returncode}\n{self.tail()}"
            return what()

        return wait_for(look, lambda: f"{otherwise}\n{self.tail()}", PATIENCE_SECONDS)

    def tail(self) -> str:
        return self.log.read_text(encoding="utf-8")[-3000:]

    def send(self, *alerts: Mapping[str, str], resolved: bool = False) -> None:
        """Send alerts with these labels, and annotations as the rules have them."""
        now = datetime.now(UTC)
        sent = [
            {
                "labels": {"team": TEAM, "job": JOB, **labels},
                "annotations": ANNOTATIONS,
                "startsAt": (now - timedelta(minutes=12)).isoformat(),
                "endsAt": (now - timedelta(seconds=1) if resolved else now + timedelta(hours=1)).isoformat(),
                "generatorURL": "http://localhost:9090/graph?g0.expr=up",
            }
            for labels in alerts
        ]
        httpx.post(f"{self.url}/api/v2/alerts", json=sent).raise_for_status()

    def suppressed(self) -> list[dict[str, str]]:
        """The labels of what nobody is told, because another alert explains it or it is not the time."""
        groups = httpx.get(f"{self.url}/api/v2/alerts/groups").json()
        return [
            one["labels"]
            for group in groups
            for one in group["alerts"]
            if one["status"]["inhibitedBy"] or one["status"]["mutedBy"]
        ]

    def metric(self, series: str) -> float:
        """The value of one of its own series."""
        text = httpx.get(f"{self.url}/metrics").text
        return float(text.partition(f"\n{series} ")[2].partition("\n")[0] or 0)

    def close(self) -> None:
        self._process.send_signal(signal.SIGTERM)
        assert self._process.wait(PATIENCE_SECONDS) == 0, self.tail()


ANNOTATIONS = {
    "summary": "sre-demo-api fails 2 % of its requests",
    "description": "The error budget of 30 days is spent in two days at this rate.",
    "runbook_url": "https://github.com/example-org/sre-demo-api/blob/main/docs/runbooks/a.md",
    "dashboard_url": "http://localhost:3000/d/slo-error-budget",
}

Start = Callable[..., Alertmanager]


@pytest.fixture
def start(default_project: Path, receiver: Receiver, tmp_path: Path) -> Iterator[Start]:
    """Return a function that starts Alertmanager with the service's configuration, impatient, and this receiver."""

    def run(
        inbox: str = receiver.url,
        hours: Mapping[str, Any] = ALWAYS,
        routes: Mapping[str, str] | None = None,
        smarthost: str = "",
    ) -> Alertmanager:
        source = configuration(default_project)
        text = source.read_text(encoding="utf-8").replace("http://alert-inbox:8000", inbox)
        text = text.replace("/run/secrets", str(tmp_path / "secrets"))
        text = re.sub(r"(group_wait|group_interval): \w+", r"\1: 1s", text)
        config = yaml.safe_load(text)
        config["templates"] = [str(source.parent / "templates" / "*.tmpl")]
        config["time_intervals"][0]["time_intervals"] = [dict(hours)]
        for claimed in config["route"]["routes"][-1]["routes"]:
            claimed["receiver"] = (routes or {}).get(claimed["receiver"], claimed["receiver"])
        receivers = {one["name"]: one for one in config["receivers"]}
        receivers["pagerduty"]["pagerduty_configs"][0]["url"] = f"{receiver.url}/pagerduty"
        if smarthost:
            # Its password would not be sent without TLS to any other machine.
            receivers["email"]["email_configs"][0] |= {"smarthost": smarthost, "require_tls": False}
        running = Alertmanager(config, tmp_path)
        stack.callback(running.close)
        running.wait_for(running.is_ready, "it does not serve")
        return running

    with ExitStack() as stack:
        yield run


def labels(**given: str) -> dict[str, str]:
    return given


PAGE = labels(alertname="AvailabilityErrorBudgetBurn", severity="page", slo="availability")
ABSENT = labels(alertname="ServiceMetricsAbsent", severity="page")
TARGET = labels(alertname="StackTargetDown", severity="ticket")
CAUSE = labels(alertname="DependencyDown", severity="ticket")
SLO_TICKET = labels(alertname="AvailabilityErrorBudgetBurn", severity="ticket", slo="availability")


@pytest.mark.parametrize(
    ("source", "silenced", "told"),
    [
        pytest.param(PAGE, SLO_TICKET, SLO_TICKET | {"slo": "latency"}, id="a page, the ticket of the same objective"),
        pytest.param(PAGE, SLO_TICKET, SLO_TICKET | {"job": "other"}, id="a page, not another service's ticket"),
        pytest.param(ABSENT, CAUSE, CAUSE | {"job": "other"}, id="absent metrics, the causes that need them"),
        pytest.param(ABSENT, CAUSE, CAUSE | {"slo": "availability"}, id="absent metrics, not what was lost before"),
        pytest.param(ABSENT, TARGET, TARGET | {"job": "loki"}, id="absent metrics, the same seen by the stack"),
        pytest.param(TARGET, CAUSE, CAUSE | {"job": "other"}, id="a target that is down, the causes that need it"),
        pytest.param(TARGET | {"job": "loki"}, CAUSE | {"job": "loki"}, CAUSE, id="a target, not the others"),
    ],
)
def test_an_alert_silences_what_it_explains_and_nothing_else(
    source: dict[str, str], silenced: dict[str, str], told: dict[str, str], start: Start, receiver: Receiver
) -> None:
    alertmanager = start()
    alertmanager.send(source)
    # They are in one group: whoever is told of one would be told of the other.
    assert silenced["alertname"] == told["alertname"]
    alertmanager.send(silenced, told)

    expected = {"team": TEAM, "job": JOB}
    seen = []
    while expected | told not in seen:
        seen += [alert["labels"] for alert in receiver.next().body["alerts"]]

    assert expected | silenced not in seen


@pytest.mark.parametrize(
    ("source", "told"),
    [
        (labels(alertname="SomethingElse", severity="page"), CAUSE),
        (PAGE, CAUSE),
        (PAGE | {"job": ""}, SLO_TICKET | {"job": ""}),
        (ABSENT | {"job": ""}, CAUSE | {"job": ""}),
        # Neither explains the other: both are told.
        (TARGET, TARGET | {"instance": "another"}),
    ],
    ids=str,
)
def test_what_two_alerts_both_lack_makes_neither_explain_the_other(
    source: dict[str, str], told: dict[str, str], start: Start, receiver: Receiver
) -> None:
    alertmanager = start()
    alertmanager.send(source)
    alertmanager.send(told)

    expected = {name: value for name, value in ({"team": TEAM, "job": JOB} | told).items() if value}
    while expected not in [alert["labels"] for alert in receiver.next().body["alerts"]]:
        pass


def test_a_ticket_is_told_once_the_page_that_silenced_it_is_over(start: Start, receiver: Receiver) -> None:
    alertmanager = start()
    alertmanager.send(PAGE)
    alertmanager.send(SLO_TICKET)
    assert receiver.next().body["receiver"] == "page"
    alertmanager.wait_for(alertmanager.suppressed, "the ticket is not silenced")

    alertmanager.send(PAGE, resolved=True)

    told = {(body["receiver"], body["status"]) for body in (receiver.next().body, receiver.next().body)}
    assert told == {("page", "resolved"), ("ticket", "firing")}


def test_outside_working_hours_pages_are_told_and_tickets_wait(start: Start, receiver: Receiver) -> None:
    alertmanager = start(hours=NEVER)
    alertmanager.send(CAUSE, ABSENT | {"job": "other"})

    assert receiver.next().body["receiver"] == "page"
    assert alertmanager.wait_for(alertmanager.suppressed, "the ticket does not wait") == [
        {"team": TEAM, "job": JOB, **CAUSE}
    ]


def test_tickets_are_for_working_hours(default_project: Path) -> None:
    config = yaml.safe_load(configuration(default_project).read_text(encoding="utf-8"))

    (hours,) = config["time_intervals"]
    (claimed,) = [one for one in config["route"]["routes"] if "routes" in one]
    restricted = {tuple(one["matchers"]): one.get("active_time_intervals") for one in claimed["routes"]}
    assert restricted == {('severity="page"',): None, ('severity="ticket"',): [hours["name"]]}
    assert hours["time_intervals"] == [
        {
            "weekdays": ["monday:friday"],
            "times": [{"start_time": "09:00", "end_time": "17:00"}],
            "location": "UTC",
        }
    ]


def test_a_heartbeat_goes_to_the_address_in_its_file(start: Start, receiver: Receiver, tmp_path: Path) -> None:
    alertmanager = start()
    secrets = tmp_path / "secrets"
    secrets.mkdir()
    # Read for each notification: no restart.
    (secrets / "heartbeat_url").write_text(f"{receiver.url}/beat\n", encoding="utf-8")

    alertmanager.send(labels(alertname="Watchdog", severity="none"))

    assert receiver.next().path == "/beat"


def test_secrets_that_are_missing_cost_their_own_receivers_only(start: Start, receiver: Receiver) -> None:
    alertmanager = start(routes={"ticket": "slack"})
    alertmanager.send(labels(alertname="Watchdog", severity="none"))
    alertmanager.send(CAUSE)

    def failures() -> list[float]:
        series = "alertmanager_notifications_failed_total"
        return [
            alertmanager.metric(f'{series}{{integration="{name}",reason="other"}}') for name in ("webhook", "slack")
        ]

    alertmanager.wait_for(lambda: all(failures()), "nothing failed")
    alertmanager.send(ABSENT)
    assert receiver.next().body["receiver"] == "page"


def test_every_secret_is_a_file_and_the_tree_holds_none(default_project: Path) -> None:
    config = yaml.safe_load(configuration(default_project).read_text(encoding="utf-8"))
    integrations = [
        one
        for entry in config["receivers"]
        for kind, several in entry.items()
        if kind.endswith("_configs")
        for one in several
    ]
    known = {"routing_key", "service_key", "api_url", "app_token", "auth_password", "url"}
    stated = {one[name] for one in integrations for name in known & set(one)}
    files = {value for one in integrations for name, value in one.items() if name.endswith("_file")}

    assert stated == {"http://alert-inbox:8000/"}
    assert files == {
        f"/run/secrets/{name}"
        for name in ("heartbeat_url", "pagerduty_routing_key", "slack_api_url", "smtp_password", "webhook_url")
    }
    held = {path.name: path.read_text() for path in (configuration(default_project).parent / "secrets").iterdir()}
    assert held == {"heartbeat_url": "http://alert-inbox:8000/heartbeat\n"}
    compose = yaml.safe_load((default_project / "docker-compose.yml").read_text(encoding="utf-8"))
    assert {
        "type": "bind",
        "source": "${ALERTMANAGER_SECRETS:-./observability/alertmanager/secrets}",
        "target": "/run/secrets",
        "read_only": True,
    } in compose["services"]["alertmanager"]["volumes"]


TEXT = """\
sre-demo-api fails 2 % of its requests
The error budget of 30 days is spent in two days at this rate.
Since: <time>, for 12m <seconds>
Runbook: https://github.com/example-org/sre-demo-api/blob/main/docs/runbooks/a.md
Dashboard: http://localhost:3000/d/slo-error-budget
Query: http://localhost:9090/graph?g0.expr=up
Labels: alertname=ServiceMetricsAbsent, job=sre-demo-api, severity=page, team=platform

All of them: http://localhost:9093/#/alerts?receiver=<receiver>
"""


def timeless(text: str) -> str:
    """The text without what is another each time."""
    text = re.sub(r"\d{4}-\d\d-\d\d \d\d:\d\d UTC", "<time>", text)
    return re.sub(r"(for|after) (\d+m) [\d.]+s", r"\1 \2 <seconds>", text)


def test_pagerduty_is_told_what_to_do_and_where_to_look(start: Start, receiver: Receiver, tmp_path: Path) -> None:
    alertmanager = start(routes={"page": "pagerduty"})
    (tmp_path / "secrets").mkdir()
    (tmp_path / "secrets" / "pagerduty_routing_key").write_text("the key\n", encoding="utf-8")

    alertmanager.send(ABSENT)

    event = receiver.next().body
    assert (event["routing_key"], event["event_action"]) == ("the key", "trigger")
    payload = event["payload"]
    assert payload["summary"] == "PAGE: sre-demo-api fails 2 % of its requests"
    assert (payload["severity"], payload["class"], payload["component"]) == ("critical", ABSENT["alertname"], JOB)
    assert timeless(payload["custom_details"]["text"]) == TEXT.replace("<receiver>", "pagerduty")
    assert event["links"] == [
        {"text": "Runbook", "href": ANNOTATIONS["runbook_url"]},
        {"text": "Dashboard", "href": ANNOTATIONS["dashboard_url"]},
    ]


def test_slack_is_told_what_to_do_and_where_to_look(start: Start, receiver: Receiver, tmp_path: Path) -> None:
    alertmanager = start(routes={"page": "slack"})
    (tmp_path / "secrets").mkdir()
    (tmp_path / "secrets" / "slack_api_url").write_text(f"{receiver.url}/slack\n", encoding="utf-8")

    alertmanager.send(ABSENT)
    (told,) = receiver.next().body["attachments"]
    assert (told["title"], told["color"]) == ("PAGE: sre-demo-api fails 2 % of its requests", "danger")
    assert told["title_link"] == ANNOTATIONS["runbook_url"]
    assert timeless(told["text"]) == TEXT.replace("<receiver>", "slack")

    alertmanager.send(ABSENT, resolved=True)
    (told,) = receiver.next().body["attachments"]
    assert (told["title"], told["color"]) == ("RESOLVED: sre-demo-api fails 2 % of its requests", "good")
    assert "\nResolved: <time>, after 11m <seconds>\n" in timeless(told["text"])


class Mail(StreamRequestHandler):
    """Takes one message, from whoever gives a password; keeps both in the server's queue."""

    def handle(self) -> None:
        self.say("220 here")
        login, text = "", ""
        for line in self.rfile:
            word, _, rest = line.decode().strip().partition(" ")
            match word.upper():
                case "EHLO":
                    self.say("250-here\r\n250 AUTH PLAIN")
                case "AUTH":
                    login = base64.b64decode(rest.partition(" ")[2]).decode()
                    self.say("235 welcome")
                case "DATA":
                    self.say("354 go on")
                    text = b"".join(iter(self.rfile.readline, b".\r\n")).decode()
                    self.say("250 taken")
                case "QUIT":
                    self.say("221 bye")
                    self.server.got.put((login, text))  # type: ignore[attr-defined]
                    return
                case _:
                    self.say("250 fine")

    def say(self, text: str) -> None:
        self.wfile.write(f"{text}\r\n".encode())


@pytest.fixture
def mailbox() -> Iterator[tuple[str, "SimpleQueue[tuple[str, str]]"]]:
    """A mail server: its address, and who logged in with what, and the message."""
    got = SimpleQueue[tuple[str, str]]()
    with ThreadingTCPServer(("127.0.0.1", 0), Mail) as server:
        server.got = got  # type: ignore[attr-defined]
        Thread(target=server.serve_forever, daemon=True).start()
        yield f"127.0.0.1:{server.server_address[1]}", got
        server.shutdown()


def test_a_mail_says_what_to_do_and_where_to_look(
    start: Start, mailbox: tuple[str, "SimpleQueue[tuple[str, str]]"], tmp_path: Path
) -> None:
    address, got = mailbox
    alertmanager = start(routes={"page": "email"}, smarthost=address)
    (tmp_path / "secrets").mkdir()
    (tmp_path / "secrets" / "smtp_password").write_text("the password\n", encoding="utf-8")

    alertmanager.send(ABSENT)

    login, raw = got.get(timeout=PATIENCE_SECONDS)
    assert login.split("\0") == ["", "alertmanager@example.com", "the password"]
    message = email.message_from_string(raw, policy=email.policy.default)
    assert message["Subject"] == "PAGE: sre-demo-api fails 2 % of its requests"
    body = message.get_body()
    assert body
    assert timeless(body.get_content().replace("\r\n", "\n")).rstrip() == TEXT.replace("<receiver>", "email").rstrip()


@pytest.fixture
def inbox(default_project: Path) -> Iterator[tuple[str, "subprocess.Popen[str]"]]:
    """The service of the compose file that prints what it gets: its address, and the process."""
    (port,) = available([0])
    command = [sys.executable, str(default_project / "observability" / "alert-inbox" / "inbox.py")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env={"HTTP_PORT": str(port)}) as process:
        yield f"http://127.0.0.1:{port}", process
        process.terminate()
        assert process.wait(PATIENCE_SECONDS) == 0


def test_the_inbox_prints_what_to_do_and_where_to_look(
    inbox: tuple[str, "subprocess.Popen[str]"], start: Start, tmp_path: Path
) -> None:
    address, process = inbox
    alertmanager = start(inbox=address)
    (tmp_path / "secrets").mkdir()
    (tmp_path / "secrets" / "heartbeat_url").write_text(f"{address}/heartbeat\n", encoding="utf-8")
    assert process.stdout
    printed = (line.split(" ", 2)[2] for line in process.stdout)

    alertmanager.send(ABSENT)
    assert [next(printed) for _ in range(4)] == [
        "PAGE ServiceMetricsAbsent: sre-demo-api fails 2 % of its requests (to page)\n",
        "    description: The error budget of 30 days is spent in two days at this rate.\n",
        f"    runbook: {ANNOTATIONS['runbook_url']}\n",
        f"    dashboard: {ANNOTATIONS['dashboard_url']}\n",
    ]

    alertmanager.send(ABSENT, resolved=True)
    assert next(printed).startswith("RESOLVED ServiceMetricsAbsent: ")
    assert [next(printed)[:8] for _ in range(3)] == ["    desc", "    runb", "    dash"]

    alertmanager.send(labels(alertname="Watchdog", severity="none"))
    assert next(printed) == "heartbeat\n"


def test_the_inbox_refuses_what_is_no_notification_and_serves_on(
    inbox: tuple[str, "subprocess.Popen[str]"], default_project: Path
) -> None:
    address, _ = inbox
    # The health check of the service's image, whose container this is.
    check = "import sys; from app.core.probe import health; sys.exit(health([]))"
    environment = {"HTTP_PORT": address.rpartition(":")[2]}

    def is_healthy() -> bool:
        command = [sys.executable, "-B", "-c", check]
        return subprocess.run(command, cwd=default_project, env=environment, check=False).returncode == 0

    wait_for(is_healthy, "the inbox does not serve", PATIENCE_SECONDS)
    for body in (b"", b"{", b"[]", b'{"alerts": [1]}', b"\xff"):
        assert httpx.post(address, content=body).status_code == 400
    assert is_healthy()
