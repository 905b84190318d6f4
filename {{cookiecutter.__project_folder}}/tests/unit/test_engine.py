"""How the database is connected to, and what its errors mean."""

import asyncio
import sqlite3
from collections.abc import AsyncIterator, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from sqlalchemy import NullPool, text
from sqlalchemy.exc import DatabaseError, DBAPIError, IntegrityError, ProgrammingError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError

from app.core.config import FACTS, Settings
from app.storage import ConnectionLostError, ItemData, OutdatedError, PoolExhaustedError, UnavailableError
from app.storage.engine import MissingColumnError, connect, connect_for_migrations, errors_translated
from app.storage.sql import SqlItems

PASSWORD = "hunter2"  # noqa: S105 - of nobody


class DriverError(Exception):
    """An error of PostgreSQL's driver, as SQLAlchemy hands it on."""

    def __init__(self, sqlstate: str | None) -> None:
        super().__init__("what the server said")
        self.sqlstate = sqlstate


def of_server(sqlstate: str | None, *, broken: bool = False, kind: type[DBAPIError] = DBAPIError) -> DBAPIError:
    """An error of the server with this code, which may have broken the connection."""
    return kind("SELECT 1", None, DriverError(sqlstate), connection_invalidated=broken)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """Where the database of a test lies."""
    return tmp_path / "items.db"


@pytest.fixture
async def store(file: Path, settings: Settings) -> AsyncIterator[SqlItems]:
    """A store that nobody has migrated yet, and that waits for nothing."""
    hasty = {"database_pool_size": 1, "database_pool_timeout_seconds": 0.01, "database_statement_timeout_seconds": 0.01}
    store = SqlItems(f"sqlite:///{file}", settings.model_copy(update=hasty), migrate_at_start=False)
    yield store
    await store.close()


@pytest.mark.parametrize(
    ("error", "meaning", "message"),
    [
        (of_server(None, broken=True), ConnectionLostError, "the connection to the database broke"),
        (of_server("57P01", broken=True), ConnectionLostError, "the connection to the database broke"),
        # A known reason counts for more: another connection would not help.
        (of_server("25006", broken=True), UnavailableError, "the database is read-only"),
        (of_server("25006"), UnavailableError, "the database is read-only"),
        (of_server("28P01"), UnavailableError, "the database refuses the password"),
        (of_server("3D000"), UnavailableError, "the database does not exist"),
        (of_server("40001"), UnavailableError, "a conflict with another transaction"),
        (of_server("40P01"), UnavailableError, "a deadlock with another transaction"),
        (of_server("53100"), UnavailableError, "the database's disk is full"),
        (of_server("53300"), UnavailableError, "the database has too many connections"),
        (of_server("55P03"), UnavailableError, "a lock was not to be had in time"),
        (of_server("57014"), UnavailableError, "the database took too long"),
        (of_server("57P03"), UnavailableError, "the database is starting up or shutting down"),
        (of_server("08006"), UnavailableError, "the database cannot serve (SQLSTATE 08006)"),
        (of_server("28000"), UnavailableError, "the database cannot serve (SQLSTATE 28000)"),
        (of_server("53200"), UnavailableError, "the database cannot serve (SQLSTATE 53200)"),
        (of_server("58030"), UnavailableError, "the database cannot serve (SQLSTATE 58030)"),
        (of_server("42P01", kind=ProgrammingError), MissingColumnError, "what the server said"),
        (of_server("42703", kind=ProgrammingError), MissingColumnError, "what the server said"),
        (PoolTimeoutError("QueuePool limit"), PoolExhaustedError, "all connections are in use"),
        (TimeoutError(), UnavailableError, "the database does not answer"),
        (ConnectionRefusedError(111, "Connect call failed"), UnavailableError, "the database cannot be reached"),
    ],
    ids=lambda value: value if isinstance(value, str) else getattr(value, "__name__", type(value).__name__),
)
def test_an_error_says_what_keeps_the_database_from_serving(
    error: Exception, meaning: type[Exception], message: str
) -> None:
    with pytest.raises(meaning) as raised, errors_translated():
        raise error

    # Exactly this type: one that is more special would be told or tried again differently.
    assert (type(raised.value), str(raised.value)) == (meaning, message)
    assert raised.value.__cause__ is error


@pytest.mark.parametrize(
    "error",
    [
        of_server("23505", kind=IntegrityError),
        of_server("42601", kind=ProgrammingError),
        of_server("XX000"),
        of_server(None),
        ZeroDivisionError(),
    ],
    ids=repr,
)
def test_a_bug_stays_what_it_is(error: Exception) -> None:
    with pytest.raises(type(error)) as raised, errors_translated():
        raise error

    assert raised.value is error


async def test_a_locked_file_is_not_waited_for_longer_than_a_statement_may_take(store: SqlItems, file: Path) -> None:
    await store.migrate()

    with closing(sqlite3.connect(file)) as other:
        other.execute("BEGIN EXCLUSIVE")
        with pytest.raises(UnavailableError, match="SQLITE_BUSY"):
            await store.create(ItemData("x"))

    await store.create(ItemData("x"))


async def test_a_file_that_can_only_be_read_serves_reads(store: SqlItems, file: Path, settings: Settings) -> None:
    await store.migrate()
    item = await store.create(ItemData("x"))
    # The mode of the connection, since no mode of a file stops root.
    readonly = SqlItems(f"sqlite:///file:{file}?mode=ro&uri=true", settings, migrate_at_start=False)

    assert await readonly.get(item.id) == item
    with pytest.raises(UnavailableError, match="SQLITE_READONLY"):
        await readonly.delete(item.id)

    await readonly.close()


async def test_a_file_that_is_no_database_is_no_passing_trouble(settings: Settings) -> None:
    store = SqlItems(f"sqlite:///{__file__}", settings, migrate_at_start=False)

    with pytest.raises(DatabaseError, match="not a database"):
        await store.check()

    await store.close()


async def test_a_connection_that_is_not_to_be_had_is_not_waited_for_and_readiness_does_not_need_it(
    store: SqlItems,
) -> None:
    await store.migrate()
    await store.check()
    async with store.engine.connect():
        with pytest.raises(PoolExhaustedError, match="all connections are in use"):
            await store.page(limit=1)
        await store.check()


async def test_a_missing_table_is_a_bug_only_where_the_schema_is_up_to_date(store: SqlItems) -> None:
    with pytest.raises(OutdatedError):
        await store.get(uuid4())

    await store.migrate()
    async with store.engine.connect() as connection:
        await connection.execute(text("DROP TABLE items"))
    with pytest.raises(MissingColumnError) as raised:
        await store.get(uuid4())
    assert not isinstance(raised.value, UnavailableError)


LIMITS = {
    "database_pool_size": 7,
    "database_pool_timeout_seconds": 0.5,
    "database_connect_timeout_seconds": 3.0,
    "database_statement_timeout_seconds": 1.5,
}

# How each driver is told of them.
TOLD: dict[str, dict[str, Any]] = {
    f"postgresql://user:{PASSWORD}@host/items": {
        "timeout": 3.0,
        # The server cancels a statement itself, before a silent one is given up.
        "command_timeout": 2.0,
        "server_settings": {"application_name": FACTS.service.name, "statement_timeout": "1500"},
    },
    "sqlite:///{folder}/items.db": {"timeout": 1.5},
}


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """What a driver was told by keyword when it should connect, which it refuses."""
    arguments: dict[str, Any] = {}

    def connect(*_: Any, **given: Any) -> None:
        arguments.update(given)
        raise ConnectionRefusedError

    monkeypatch.setattr("asyncpg.connect", connect)
    monkeypatch.setattr("aiosqlite.connect", connect)
    return arguments


@pytest.mark.parametrize("url", TOLD)
async def test_limits_reach_the_driver(url: str, told: dict[str, Any], tmp_path: Path, settings: Settings) -> None:
    engine = connect(url.format(folder=tmp_path), settings.model_copy(update=LIMITS))

    with pytest.raises(ConnectionRefusedError):
        await engine.connect()

    assert {name: told.get(name) for name in TOLD[url]} == TOLD[url]
    pool: Any = engine.pool
    assert (pool.size(), pool.timeout(), pool._max_overflow) == (7, 0.5, 0)


@pytest.mark.parametrize("url", TOLD)
async def test_migrations_have_neither_limits_nor_a_pool(url: str, told: dict[str, Any], tmp_path: Path) -> None:
    engine = connect_for_migrations(url.format(folder=tmp_path))

    with pytest.raises(ConnectionRefusedError):
        await engine.connect()

    assert not set(told) & {"timeout", "command_timeout"}
    assert told.get("server_settings", {}).get("statement_timeout", "0") == "0"
    assert isinstance(engine.pool, NullPool)


def chain(error: BaseException | None) -> Iterator[BaseException]:
    """An error and those it was raised from."""
    while error:
        yield error
        error = error.__cause__ or (None if error.__suppress_context__ else error.__context__)


@pytest.mark.parametrize(
    ("url", "message"),
    [
        (f"postgresql:user:{PASSWORD}@host/items", "URL"),
        (f"postgresql://user:{PASSWORD}@host:nonsense/items", "port"),
        (f"postgresql://user:{PASSWORD}@host:99999/items", "port"),
        # An @ that is not written %40 moves the rest of the password to where the port is.
        (f"postgresql://user:p@ss:{PASSWORD}@host/items", "port"),
        (f"postgresql://user:{PASSWORD}@host/items?nonsense=1", "nonsense"),
        (f"postgresql://user:{PASSWORD}@host/items?sslmode=nonsense", "sslmode"),
        ("sqlite:items.db", "URL"),
        ("sqlite://", "in memory"),
        ("sqlite:///:memory:", "in memory"),
        ("sqlite://host/items.db", "Invalid SQLite URL"),
    ],
)
def test_a_url_that_makes_no_sense_is_refused_without_its_password(url: str, message: str, settings: Settings) -> None:
    with pytest.raises(ValueError, match=message) as raised:
        connect(url, settings)

    assert [error for error in chain(raised.value) if PASSWORD in f"{error} {error!r}"] == []


@pytest.mark.parametrize(
    ("url", "error"),
    [
        ("sqlite:///{folder}/missing/items.db", FileNotFoundError),
        ("sqlite:///{folder}", IsADirectoryError),
        ("postgresql://host/items?sslmode=verify-full&sslrootcert={folder}/missing.pem", FileNotFoundError),
    ],
)
def test_a_file_that_cannot_be_used_is_refused(
    url: str, error: type[OSError], tmp_path: Path, settings: Settings
) -> None:
    with pytest.raises(error):
        connect(url.format(folder=tmp_path), settings)


@pytest.mark.parametrize(
    ("parameter", "code"),
    [
        # PostgreSQL manual, 55.7, "Message Formats": SSLRequest, and the version of the protocol in a StartupMessage.
        ("sslmode=require", 80877103),
        ("sslmode=disable", 196608),
    ],
)
async def test_the_url_says_whether_connections_are_encrypted(parameter: str, code: int, settings: Settings) -> None:
    first: list[int] = []

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        first.append(int.from_bytes((await reader.readexactly(8))[4:]))
        writer.close()

    async with await asyncio.start_server(answer, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        store = SqlItems(f"postgresql://127.0.0.1:{port}/items?{parameter}", settings, migrate_at_start=False)
        with pytest.raises(UnavailableError):
            await store.check()
        await store.close()

    assert first == [code]


async def test_no_error_tells_the_password(settings: Settings) -> None:
    # Nobody listens on port 1 of the loopback.
    store = SqlItems(f"postgresql://user:{PASSWORD}@127.0.0.1:1/items", settings, migrate_at_start=False)

    with pytest.raises(UnavailableError) as raised:
        await store.check()

    shown = [*chain(raised.value), store, store.engine, store.engine.url]
    assert [thing for thing in shown if PASSWORD in f"{thing} {thing!r}"] == []
    await store.close()
