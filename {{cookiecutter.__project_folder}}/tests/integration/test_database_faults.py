"""What clients see of a service whose database fails, and how the service comes back by itself.

Each test has a real server and torments it, while clients create and read all the time.
"""

import asyncio
import json
import os
import re
import signal
import ssl
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, ExitStack, contextmanager
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple, Self
from urllib.parse import quote
from uuid import uuid4

import asyncpg
import httpx
import pytest

from app.core.config import Settings, SettingsError, connect_storage
from app.storage.sql import SqlItems
from tests.postgres import Postgres, run_sql
from tests.support import Service, wait_for

pytestmark = pytest.mark.postgres

Start = Callable[..., Service]
Fault = Callable[[Postgres], AbstractContextManager[None]]

ITEMS = "/api/v1/items"
LIVE = "/health/live"
READY = "/health/ready"
STARTUP = "/health/startup"

# It has characters that a URL must escape, so both spellings could leak.
PASSWORD = "s3cret/of@the:service"  # noqa: S105 - it opens nothing but a server that lives for one test

SETTINGS = {
    "ENVIRONMENT": "production",
    "DATABASE_POOL_SIZE": "4",
    "DATABASE_POOL_TIMEOUT_SECONDS": "0.5",
    "DATABASE_CONNECT_TIMEOUT_SECONDS": "0.5",
    "DATABASE_STATEMENT_TIMEOUT_SECONDS": "0.5",
    "BREAKER_FAILURES": "3",
    "BREAKER_OPEN_SECONDS": "1",
    "HEALTH_CHECK_CACHE_SECONDS": "0.2",
    "REQUEST_TIMEOUT_SECONDS": "3",
    "DRAIN_SECONDS": "0",
    "GRACEFUL_SHUTDOWN_SECONDS": "1",
}
BREAKER_OFF = {"BREAKER_FAILURES": "1000"}

# In seconds, with one more for what a busy machine adds: the deadline of a request;
LONGEST_ANSWER = 3 + 1
# the breaker's pause, and before it a call that began during the fault;
LONGEST_RECOVERY = 1 + 1 + 1
# how long readiness may tell of the past, and check again;
HEALTH_CACHE = 0.2 + 1
# requests in flight, and connections to be closed.
LONGEST_END = 1 + 1 + 1


class Answer(NamedTuple):
    """What a client got; status 0 where that was no response."""

    path: str
    began: float
    seconds: float
    status: int
    retry_after: str | None
    text: str


class Traffic:
    """Clients of a service that create, read and ask for liveness until the end of a `with` block."""

    def __init__(self, service: Service) -> None:
        self.answers: list[Answer] = []
        self.created: dict[str, str] = {}
        self._client = client_of(service)
        self._over = threading.Event()
        actions = (self._create, self._create, self._read, self._read, self._live)
        self._threads = [threading.Thread(target=self._repeat, args=(action,)) for action in actions]

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        for thread in self._threads:
            thread.join()
        self._client.close()

    def count(self, status: int) -> int:
        """How many answers had this status so far."""
        return sum(answer.status == status for answer in self.answers)

    def goes_well(self, within: float = 10) -> float:
        """Wait until 20 answers in a row are successes; how long that took."""
        began = time.monotonic()

        def all_succeed() -> bool:
            last = [answer for answer in self.answers if answer.path != LIVE][-20:]
            return len(last) == 20 and all(answer.began > began and answer.status < 300 for answer in last)

        wait_for(all_succeed, timeout=within)
        return time.monotonic() - began

    def _repeat(self, action: Callable[[], None]) -> None:
        while not self._over.wait(0.01):
            action()

    def _create(self) -> None:
        name = uuid4().hex
        answer = self._ask("POST", ITEMS, json={"name": name})
        if answer.status == 201:
            self.created[json.loads(answer.text)["id"]] = name

    def _read(self) -> None:
        self._ask("GET", ITEMS)
        for item_id in list(self.created)[-1:]:
            self._ask("GET", f"{ITEMS}/{item_id}")

    def _live(self) -> None:
        self._ask("GET", LIVE)

    def _ask(self, method: str, path: str, **arguments: Any) -> Answer:
        answer = ask(self._client, method, path, **arguments)
        self.answers.append(answer)
        return answer


def client_of(service: Service, connections: int = 10) -> httpx.Client:
    """A client of a service, which waits longer than any answer may take."""
    return httpx.Client(
        base_url=service.url,
        timeout=2 * LONGEST_ANSWER,
        limits=httpx.Limits(max_connections=connections),
        # The default would read all certificates of the system, for plain HTTP.
        verify=ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT),
    )


def ask(client: httpx.Client, method: str, path: str, **arguments: Any) -> Answer:
    """What comes of a request."""
    began = time.monotonic()
    try:
        response = client.request(method, path, **arguments)
    except httpx.TransportError as error:
        return Answer(path, began, time.monotonic() - began, 0, None, repr(error))
    retry_after = response.headers.get("Retry-After")
    return Answer(path, began, time.monotonic() - began, response.status_code, retry_after, response.text)


def admin(server: Postgres, *statements: str, database: str = "postgres") -> None:
    """Do something to the server as its administrator."""
    asyncio.run(run_sql(server.url(database), *statements))


SESSIONS = "FROM pg_stat_activity WHERE usename = 'service'"
LOCKED_OUT = "wait_event_type = 'Lock'"
DISCONNECT = f"SELECT pg_terminate_backend(pid) {SESSIONS}"


@pytest.fixture
def environment(server: Postgres) -> dict[str, str]:
    """Settings of a service with an empty database of its own, which outlives a crash."""
    admin(
        server,
        f"CREATE ROLE service LOGIN PASSWORD '{PASSWORD}'",
        "CREATE DATABASE shop OWNER service",
        "ALTER DATABASE shop SET synchronous_commit = on",
    )
    url = server.url("shop", user="service", password=quote(PASSWORD, safe=""))
    return {**SETTINGS, "STORAGE_URL": url}


@pytest.fixture
def migrated(environment: dict[str, str]) -> dict[str, str]:
    """The same, with the schema in place."""

    async def migrate() -> None:
        store = SqlItems(environment["STORAGE_URL"], Settings.model_validate({}), migrate_at_start=True)
        await store.open()
        await store.close()

    asyncio.run(migrate())
    return environment


@pytest.fixture
def serve(start: Start, migrated: dict[str, str]) -> Callable[..., Service]:
    """Starts a service with some settings of its own, and waits until it is ready."""

    def serve(**settings: str) -> Service:
        service = start(**migrated | settings)
        service.wait_until(READY, 200)
        return service

    return serve


def metric(service: Service, series: str) -> float:
    """The value of one series."""
    (value,) = re.findall(rf"^{re.escape(series)} (\S+)$", service._client.get(service.metrics_url).text, re.MULTILINE)
    return float(value)


def unready(service: Service) -> str:
    """Why it is not ready; nothing if it is."""
    answer = service._client.get(READY)
    problem = answer.json().get("problem", "")
    assert answer.status_code == (503 if problem else 200)
    return str(problem)


def breaker_state(service: Service) -> float:
    return metric(service, 'circuit_breaker_state{name="storage"}')


def stored(service: Service) -> list[tuple[str, str]]:
    """Id and name of all items, page by page."""
    found = []
    with client_of(service) as client:
        cursor: dict[str, str] = {}
        while True:
            page = client.get(ITEMS, params={"limit": "100", **cursor}).raise_for_status().json()
            found += [(item["id"], item["name"]) for item in page["items"]]
            if not page["next_cursor"]:
                return found
            cursor = {"cursor": page["next_cursor"]}


def assert_answers_were_in_order(traffic: Traffic) -> None:
    """Nobody got anything but success, or an excuse in time that says when to come back; the process was alive."""
    for answer in traffic.answers:
        assert answer.status in {200, 201, 503, 504}, answer
        assert answer.seconds < LONGEST_ANSWER, answer
        assert answer.status != 503 or answer.retry_after, answer
    liveness = [answer for answer in traffic.answers if answer.path == LIVE]
    assert {answer.status for answer in liveness} == {200}
    assert max(answer.seconds for answer in liveness) < 1


def assert_nothing_was_lost_or_doubled(service: Service, traffic: Traffic) -> None:
    found = stored(service)
    assert traffic.created.items() <= set(found)
    assert [name for name, times in Counter(name for _, name in found).items() if times > 1] == []


def assert_ends_well(service: Service) -> list[dict[str, Any]]:
    """SIGTERM ends it in time, with nothing on stderr; its log lines."""
    began = time.monotonic()
    code, lines, err = service.end(signal.SIGTERM)
    assert (code, err) == (0, "")
    assert time.monotonic() - began < LONGEST_END
    return lines


def breaker_changes(lines: list[dict[str, Any]]) -> list[str]:
    return [line["after"] for line in lines if line["event"] == "circuit breaker changed"]


def stopped(how: signal.Signals) -> Fault:
    @contextmanager
    def fault(server: Postgres) -> Iterator[None]:
        server.stop(how)
        yield
        server.start()

    return fault


@contextmanager
def frozen(server: Postgres) -> Iterator[None]:
    server.freeze()
    yield
    server.thaw()


def locked(*tables: str) -> Fault:
    """Somebody else's transaction keeps everybody from the tables."""

    @contextmanager
    def fault(server: Postgres) -> Iterator[None]:
        with asyncio.Runner() as runner:
            session = runner.run(asyncpg.connect(server.url("shop")))
            try:
                runner.run(session.execute(f"BEGIN; LOCK TABLE {', '.join(tables)} IN ACCESS EXCLUSIVE MODE"))
                yield
            finally:
                runner.run(session.close())

    return fault


def altered(change: str, back: str) -> Fault:
    """The administrator changes something, which new connections meet, and ends those that there are."""

    @contextmanager
    def fault(server: Postgres) -> Iterator[None]:
        admin(server, change, DISCONNECT)
        yield
        admin(server, back)

    return fault


read_only = altered(
    "ALTER DATABASE shop SET default_transaction_read_only = on",
    "ALTER DATABASE shop RESET default_transaction_read_only",
)
without_password = altered(
    "ALTER ROLE service PASSWORD 'another'",
    f"ALTER ROLE service PASSWORD '{PASSWORD}'",
)
without_connections = altered("ALTER ROLE service CONNECTION LIMIT 0", "ALTER ROLE service CONNECTION LIMIT -1")


@contextmanager
def full_disk(server: Postgres) -> Iterator[None]:
    """What the server says when a table cannot grow; to fill a disk takes more rights than a test has."""
    admin(
        server,
        "CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS "
        "$$BEGIN RAISE 'could not extend file' USING ERRCODE = 'disk_full'; END$$",
        "CREATE TRIGGER full_disk BEFORE INSERT ON items FOR EACH ROW EXECUTE FUNCTION refuse()",
        database="shop",
    )
    yield
    admin(server, "DROP FUNCTION refuse CASCADE", database="shop")


@pytest.mark.parametrize(
    ("fault", "problem"),
    [
        pytest.param(stopped(signal.SIGINT), "cannot be reached", id="stopped"),
        pytest.param(stopped(signal.SIGQUIT), "cannot be reached", id="crashed"),
        pytest.param(frozen, "does not answer|no answer within", id="frozen"),
        pytest.param(locked("items", "alembic_version"), "took too long", id="locked"),
        pytest.param(without_connections, "too many connections", id="connections exhausted"),
        pytest.param(without_password, "refuses the password", id="password changed"),
    ],
)
def test_an_outage_costs_clients_quick_refusals_and_nothing_else(
    server: Postgres, serve: Start, fault: Fault, problem: str
) -> None:
    service = serve()

    with Traffic(service) as traffic:
        traffic.goes_well()
        with fault(server):
            wait_for(lambda: re.search(problem, unready(service)))
            wait_for(lambda: breaker_state(service) == 2)
            refused = traffic.count(503)
            wait_for(lambda: traffic.count(503) >= refused + 20)
        traffic.goes_well(LONGEST_RECOVERY)
        service.wait_until(READY, 200, timeout=HEALTH_CACHE)

    assert_answers_were_in_order(traffic)
    assert_nothing_was_lost_or_doubled(service, traffic)
    assert breaker_state(service) == 0
    changes = breaker_changes(assert_ends_well(service))
    assert (changes[0], changes[-1]) == ("open", "closed")


@pytest.mark.parametrize(
    "fault",
    [
        pytest.param(locked("items"), id="table locked"),
        pytest.param(read_only, id="read-only"),
        pytest.param(full_disk, id="disk full"),
    ],
)
def test_what_keeps_a_healthy_server_from_one_kind_of_work_costs_only_that(
    server: Postgres, serve: Start, fault: Fault
) -> None:
    service = serve()

    with Traffic(service) as traffic:
        traffic.goes_well()
        with fault(server):
            refused = traffic.count(503)
            wait_for(lambda: traffic.count(503) >= refused + 20)
            # Other replicas fare no better: taken out, they would not even answer what still works.
            assert unready(service) == ""
        traffic.goes_well(LONGEST_RECOVERY)

    assert_answers_were_in_order(traffic)
    assert_nothing_was_lost_or_doubled(service, traffic)
    assert_ends_well(service)


def test_a_restart_is_over_for_clients_when_it_is_over(server: Postgres, serve: Start) -> None:
    service = serve()

    with Traffic(service) as traffic:
        for _ in range(3):
            traffic.goes_well()
            server.stop()
            server.start()
            traffic.goes_well(LONGEST_RECOVERY)

    assert_answers_were_in_order(traffic)
    assert_nothing_was_lost_or_doubled(service, traffic)
    assert_ends_well(service)


def test_a_service_that_starts_without_its_database_waits_for_it(
    server: Postgres, start: Start, migrated: dict[str, str]
) -> None:
    server.stop()
    service = start(**migrated)
    service.wait_until(STARTUP, 200)

    with Traffic(service) as traffic:
        assert "cannot be reached" in unready(service)
        wait_for(lambda: traffic.count(503) >= 20)
        server.start()
        traffic.goes_well(LONGEST_RECOVERY)
        service.wait_until(READY, 200, timeout=HEALTH_CACHE)

    assert_answers_were_in_order(traffic)
    assert_ends_well(service)


def test_a_service_that_is_ahead_of_its_schema_has_not_started_until_it_is_migrated(
    start: Start, environment: dict[str, str]
) -> None:
    service = start(**environment)
    service.wait_until(LIVE, 200)

    with Traffic(service) as traffic:
        for probe in (STARTUP, READY):
            answer = service._client.get(probe)
            assert (answer.status_code, answer.json()["problem"]) == (
                503,
                "storage: the schema is at nothing, this version needs 0001",
            )
        wait_for(lambda: traffic.count(503) >= 20)
        assert start("migrate", **environment).end()[0] == 0
        traffic.goes_well(LONGEST_RECOVERY)
        for probe in (STARTUP, READY):
            service.wait_until(probe, 200, timeout=HEALTH_CACHE)

    assert_answers_were_in_order(traffic)
    assert_ends_well(service)


@contextmanager
def asked_at_once(service: Service, times: int, method: str, path: str, **arguments: Any) -> Iterator[list[Answer]]:
    """Send so many requests at the same time; when the block is left, the list has their answers."""
    answers: list[Answer] = []
    with client_of(service, times) as client, ThreadPoolExecutor(times) as pool:
        futures = [pool.submit(ask, client, method, path, **arguments) for _ in range(times)]
        yield answers
        answers += [future.result() for future in futures]


def statuses(answers: list[Answer]) -> set[int]:
    return {answer.status for answer in answers}


def test_connections_that_a_restart_closed_are_replaced_before_anything_is_sent_on_them(
    server: Postgres, serve: Start
) -> None:
    service = serve(RETRY_ATTEMPTS="1", DATABASE_STATEMENT_TIMEOUT_SECONDS="2")
    fill_pool(server, service, 4)

    found = []
    for _ in range(5):
        server.stop()
        server.start()
        for method, body in (("POST", {"name": "x"}), ("GET", None)):
            with asked_at_once(service, 4, method, ITEMS, json=body) as answers:
                pass
            found += answers

    assert Counter(answer.status for answer in found) == {200: 20, 201: 20}
    assert_ends_well(service)


@pytest.mark.parametrize(
    ("method", "attempts", "status"),
    [("GET", "2", 200), ("GET", "1", 503), ("POST", "2", 503)],
    ids=["a read is made again", "not where that is switched off", "a change is never made again"],
)
def test_of_what_was_under_way_on_a_broken_connection(
    server: Postgres, serve: Start, method: str, attempts: str, status: int
) -> None:
    service = serve(RETRY_ATTEMPTS=attempts, DATABASE_STATEMENT_TIMEOUT_SECONDS="5")
    body = {"name": "x"} if method == "POST" else None

    with ExitStack() as lock:
        lock.enter_context(locked("items")(server))
        # More than the failures that open the breaker.
        with asked_at_once(service, 4, method, ITEMS, json=body) as answers:
            wait_for(lambda: len(sessions(server, LOCKED_OUT)) == 4)
            admin(server, DISCONNECT)
            lock.close()

    assert statuses(answers) == {status}
    wait_for(lambda: breaker_state(service) < 2)
    assert stored(service) == []
    assert_ends_well(service)


def sessions(server: Postgres, condition: str = "true") -> list[int]:
    """The server's processes that serve the service."""

    async def query() -> list[int]:
        connection = await asyncpg.connect(server.url())
        try:
            rows = await connection.fetch(f"SELECT pid {SESSIONS} AND {condition}")
        finally:
            await connection.close()
        return [row["pid"] for row in rows]

    return asyncio.run(query())


def fill_pool(server: Postgres, service: Service, connections: int) -> None:
    """Let the service have so many connections."""
    with ExitStack() as lock:
        lock.enter_context(locked("items")(server))
        with asked_at_once(service, connections, "GET", ITEMS) as answers:
            wait_for(lambda: len(sessions(server, LOCKED_OUT)) == connections)
            lock.close()
    assert statuses(answers) == {200}


def test_connections_that_fell_silent_cost_one_request_together(server: Postgres, serve: Start) -> None:
    service = serve(DATABASE_STATEMENT_TIMEOUT_SECONDS="1")
    fill_pool(server, service, 4)

    silent = sessions(server)
    for pid in silent:
        os.kill(pid, signal.SIGSTOP)
    answers = [ask(service._client, "GET", ITEMS) for _ in range(5)]
    for pid in silent:
        os.kill(pid, signal.SIGCONT)

    # Those of the pool, and the one that readiness asks by.
    assert len(silent) == 5
    assert [answer.status for answer in answers] == [503, 200, 200, 200, 200]
    # What the server is given to cancel the statement and to answer, and what a busy machine adds.
    assert answers[0].seconds < 1 + 0.5 + 1
    assert_ends_well(service)


@pytest.mark.parametrize(("breaker", "quick"), [({}, True), (BREAKER_OFF, False)], ids=["on", "off"])
def test_the_breaker_makes_refusals_quick_while_nothing_answers(
    server: Postgres, serve: Start, breaker: dict[str, str], quick: bool
) -> None:
    service = serve(**breaker)

    with frozen(server):
        with asked_at_once(service, 4, "GET", ITEMS) as first:
            pass
        with asked_at_once(service, 40, "GET", ITEMS) as burst:
            pass

    assert statuses([*first, *burst]) == {503}
    assert (median(answer.seconds for answer in burst) < 0.25) is quick
    assert_ends_well(service)


def test_the_pool_shows_connections_that_statements_hang_on(server: Postgres, serve: Start) -> None:
    service = serve(DATABASE_STATEMENT_TIMEOUT_SECONDS="5")

    with ExitStack() as lock:
        lock.enter_context(locked("items")(server))
        with asked_at_once(service, 3, "GET", ITEMS) as answers:
            wait_for(lambda: metric(service, 'db_pool_connections{state="used"}') == 3)
            assert metric(service, 'db_pool_connections{state="free"}') == 1
            lock.close()

    assert statuses(answers) == {200}
    assert metric(service, 'db_pool_connections{state="used"}') == 0
    assert_ends_well(service)


def test_requests_that_find_all_connections_in_use_are_no_fault_of_the_database(server: Postgres, serve: Start) -> None:
    service = serve(DATABASE_STATEMENT_TIMEOUT_SECONDS="5", DATABASE_POOL_TIMEOUT_SECONDS="0.1")

    with ExitStack() as lock:
        lock.enter_context(locked("items")(server))
        with asked_at_once(service, 4, "GET", ITEMS) as served:
            wait_for(lambda: len(sessions(server, LOCKED_OUT)) == 4)
            # More than the failures that open the breaker, for longer than readiness believes what it saw last.
            refused = [ask(service._client, "GET", ITEMS) for _ in range(10)]
            reasons = unready(service)
            lock.close()

    assert statuses(refused) == {503}
    assert reasons == ""
    assert statuses(served) == {200}
    assert breaker_changes(assert_ends_well(service)) == []


def test_sigterm_ends_the_process_in_time_while_nothing_answers(server: Postgres, serve: Start) -> None:
    service = serve(**BREAKER_OFF, DATABASE_STATEMENT_TIMEOUT_SECONDS="2", DATABASE_POOL_SIZE="20")
    fill_pool(server, service, 20)

    with frozen(server), asked_at_once(service, 4, "POST", ITEMS, json={"name": "x"}):
        wait_for(lambda: metric(service, "http_requests_in_progress") == 4)
        assert_ends_well(service)


def test_a_start_that_waits_for_a_silent_database_ends_when_told_to(
    server: Postgres, start: Start, environment: dict[str, str]
) -> None:
    with frozen(server):
        # It brings the schema up to date at its start, and no limit in time counts for that.
        service = start(**{**environment, "ENVIRONMENT": "development"})
        assert service.process.stdout is not None
        assert "Started server process" in service.process.stdout.readline()
        lines = assert_ends_well(service)

    assert "stopped before it had started" in [line["event"] for line in lines]


def test_the_password_is_told_to_nobody(server: Postgres, start: Start, migrated: dict[str, str], serve: Start) -> None:
    said = []
    service = serve(**BREAKER_OFF, LOG_LEVEL="DEBUG", OTEL_TRACES_SAMPLER="always_on")
    said.append(Path(f"/proc/{service.process.pid}/cmdline").read_text())

    with Traffic(service) as traffic:
        for fault in (stopped(signal.SIGQUIT), frozen, without_password):
            traffic.goes_well()
            with fault(server):
                service.wait_until(READY, 503)
                said.append(service._client.get(READY).text)
    said += [answer.text for answer in traffic.answers]
    said.append(service._client.get(service.metrics_url).text)
    _, lines, err = service.end(signal.SIGTERM)
    said += [*map(str, lines), err]

    with without_password(server):
        for command in ("migrate", "settings"):
            process = start(command, **migrated).process
            said += process.communicate()

    assert any("password authentication failed" in text for text in said)
    assert not any(secret in text for secret in (PASSWORD, quote(PASSWORD, safe="")) for text in said)


@pytest.mark.parametrize("place", ["{}@h:x/d", "u:{} h/d", "u:{}#x@h/d", "u:{}?x@h/d", "u:{}/x@h/d", "u:x@{}:y@h/d"])
def test_a_url_that_is_wrong_is_refused_without_a_word_of_its_password(place: str) -> None:
    settings = Settings.model_validate({"storage_url": f"postgresql://{place.format('s3cret')}"})

    with pytest.raises(SettingsError, match="port is no number") as error:
        connect_storage(settings)

    assert "s3cret" not in str(error.value)
