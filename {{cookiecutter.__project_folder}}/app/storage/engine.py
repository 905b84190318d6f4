"""Connections to the database: made, pooled and given up in bounded time; and what their errors mean."""

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import asyncpg
from prometheus_client import CollectorRegistry, Gauge
from sqlalchemy import URL, NullPool, QueuePool, StaticPool, event, make_url
from sqlalchemy.exc import ArgumentError, DBAPIError, DisconnectionError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine

from app.core.config import FACTS, Settings
from app.storage import ConnectionLostError, PoolExhaustedError, UnavailableError
from app.storage.sql_tracing import trace_statements

# What a URL of PostgreSQL may say beside host, user and database (PostgreSQL manual, 34.1.2, as far as asyncpg has it).
_SSL_MODES = ("disable", "allow", "prefer", "require", "verify-ca", "verify-full")
_SSL_FILES = ("sslrootcert", "sslcert", "sslkey", "sslcrl")
_URL_PARAMETERS = ("sslmode", *_SSL_FILES, "sslpassword", "target_session_attrs", "passfile")

# The server cancels a statement itself; only one that is silent is given up by us, and so much later.
_SILENCE_SECONDS = 0.5

# How long saying goodbye to a server may take, which one that is silent never answers.
_CLOSE_SECONDS = 0.25

# SQLSTATE classes in which the database cannot serve, whatever the statement (PostgreSQL manual, appendix A):
# connection, invalid authorization, insufficient resources, operator intervention, system error.
_UNAVAILABLE_CLASSES = ("08", "28", "53", "57", "58")
_READ_ONLY = "25006"
_UNAVAILABLE = {
    _READ_ONLY: "the database is read-only",
    "28P01": "the database refuses the password",
    "3D000": "the database does not exist",
    "40001": "a conflict with another transaction",
    "40P01": "a deadlock with another transaction",
    "53100": "the database's disk is full",
    "53300": "the database has too many connections",
    "55P03": "a lock was not to be had in time",
    "57014": "the database took too long",
    "57P03": "the database is starting up or shutting down",
}
_NO_SUCH_TABLE_OR_COLUMN = ("42P01", "42703")


class _Connection(asyncpg.Connection):  # type: ignore[misc]
    """A connection that is closed in bounded time: a silent server would be waited for, also by who was cancelled."""

    async def close(self, *, timeout: float | None = None) -> None:  # noqa: ASYNC109 - the name is inherited
        await super().close(timeout=min(_CLOSE_SECONDS, _CLOSE_SECONDS if timeout is None else timeout))


def connect(url: str, settings: Settings) -> AsyncEngine:
    """The engine behind a URL; it connects when it is first used.

    Each statement is a transaction of its own (autocommit), which saves two round trips. What needs more than one runs
    on `engine.execution_options(isolation_level="READ COMMITTED")`, in its `begin()`.

    Raises:
        ValueError: the URL is no database URL.
        OSError: the URL names a file that cannot be written, or read.
    """
    options: dict[str, Any] = {
        "isolation_level": "AUTOCOMMIT",
        "pool_size": settings.database_pool_size,
        "max_overflow": 0,
        "pool_timeout": settings.database_pool_timeout_seconds,
    }
    statement_timeout = settings.database_statement_timeout_seconds
    if url.startswith("sqlite:"):
        engine = _sqlite_engine(url, **options, connect_args={"timeout": statement_timeout})
        trace_statements(engine, engine.url)
        return engine
    arguments = {
        "timeout": settings.database_connect_timeout_seconds,
        "command_timeout": statement_timeout + _SILENCE_SECONDS,
        "server_settings": {
            "application_name": FACTS.service.name,
            # Zero would switch it off.
            "statement_timeout": str(max(1, round(statement_timeout * 1000))),
        },
    }
    engine = _postgresql_engine(url, arguments, **options)
    event.listen(engine.sync_engine, "checkout", _refuse_closed)
    event.listen(engine.sync_engine, "handle_error", _distrust)
    trace_statements(engine, _parsed(url))
    return engine


def connect_for_migrations(url: str) -> AsyncEngine:
    """An engine without pool and without limits in time: a migration takes as long as it takes."""
    if url.startswith("sqlite:"):
        return _sqlite_engine(url, poolclass=NullPool)
    # A limit that the role or the database has would count otherwise. Who waited for a turn has to see what was done.
    arguments = {"server_settings": {"application_name": FACTS.service.name, "statement_timeout": "0"}}
    return _postgresql_engine(url, arguments, poolclass=NullPool, isolation_level="READ COMMITTED")


def _sqlite_engine(url: str, **options: Any) -> AsyncEngine:
    parsed = _parsed(url).set(drivername="sqlite+aiosqlite")
    if parsed.get_dialect().get_pool_class(parsed) is StaticPool:  # type: ignore[attr-defined]
        # Its one connection would run the statements of all requests as one.
        raise ValueError("an SQLite database in memory cannot be shared by requests; use memory://")
    if (database := parsed.database) and not database.startswith("file:"):
        # A folder that is missing or closed to us is told here, not by a driver's thread in its own words.
        Path(database).open("ab").close()
    return _engine(parsed, **options)


def _postgresql_engine(url: str, arguments: dict[str, Any], **options: Any) -> AsyncEngine:
    for name, value in _parsed(url).query.items():
        if name not in _URL_PARAMETERS:
            raise ValueError(f"{name!r} is no parameter of such a URL; known are {', '.join(_URL_PARAMETERS)}")
        if name == "sslmode" and value not in _SSL_MODES:
            raise ValueError(f"sslmode is one of {', '.join(_SSL_MODES)}, not {value!r}")
        if name in _SSL_FILES:
            Path(str(value)).open("rb").close()
    # asyncpg reads the URL itself, as libpq would: SQLAlchemy would pass `sslmode` and others on as what they are not.
    creator = partial(asyncpg.connect, url, connection_class=_Connection, **arguments)
    return _engine("postgresql+asyncpg://", async_creator=creator, **options)


def _engine(url: str | URL, **options: Any) -> AsyncEngine:
    # Parameters are the clients' data: not for error messages and logs.
    return create_async_engine(url, hide_parameters=True, **options)


def _parsed(url: str) -> URL:
    """The parts of a URL.

    Raises:
        ValueError: it has none, or too many.
    """
    try:
        parsed = make_url(url)
        _ = urlsplit(url).port
        if parsed.get_backend_name() == "sqlite":
            parsed.get_dialect()().create_connect_args(parsed)
    except ArgumentError as error:
        raise ValueError(str(error)) from None
    except ValueError:
        # The error repeats what was taken for a port: with a special character in the password, a part of that.
        raise ValueError("its port is no number; special characters of user and password are written as %XX") from None
    return parsed


def _refuse_closed(connection: Any, *_: object) -> None:
    """Let the pool replace a connection that the server closed while it was idle, before anything is sent on it."""
    if connection.driver_connection.is_closed():
        raise DisconnectionError


def _distrust(context: Any) -> None:
    """Give up connections that still look open but are of no more use.

    All of them once one had no answer: else each would cost a request its own timeout. One that can only read: after a
    fail-over it may lead to the old primary, and a session keeps the read-only mode that it began with.
    """
    if isinstance(context.original_exception, TimeoutError):
        context.invalidate_pool_on_disconnect = True
    elif getattr(context.original_exception, "sqlstate", None) == _READ_ONLY:
        context.is_disconnect, context.invalidate_pool_on_disconnect = True, False


def show_pool(engine: AsyncEngine, registry: CollectorRegistry) -> None:
    """Register the metric of how many connections are in use."""
    pool = engine.pool
    assert isinstance(pool, QueuePool)  # noqa: S101 - for mypy; `connect` chose it
    connections = Gauge(
        "db_pool_connections",
        "Connections to the database, by state: used, or free to use.",
        ["state"],
        registry=registry,
    )
    connections.labels("used").set_function(pool.checkedout)
    connections.labels("free").set_function(lambda: pool.size() - pool.checkedout())


class MissingColumnError(Exception):
    """A table or column that the code knows is not there: the schema is older, or the code is wrong."""


@contextmanager
def errors_translated() -> Iterator[None]:
    """Around what talks to the database and nothing else: tell apart whether it cannot serve, or something is wrong.

    Raises:
        ConnectionLostError: the connection broke during or before the statement.
        PoolExhaustedError: other requests have all connections.
        UnavailableError: the database cannot serve.
        MissingColumnError: it lacks a table or column.
    """
    try:
        yield
    except DBAPIError as error:
        meaning = _meaning(error)
        if meaning is None:
            raise
        raise meaning from error
    except PoolTimeoutError as error:
        raise PoolExhaustedError("all connections are in use") from error
    except TimeoutError as error:
        raise UnavailableError("the database does not answer") from error
    except OSError as error:
        raise UnavailableError("the database cannot be reached") from error


def _meaning(error: DBAPIError) -> Exception | None:
    """What an error of a driver means; None for a bug, or bad data."""
    state = getattr(error.orig, "sqlstate", None) or ""
    if state in _UNAVAILABLE:
        return UnavailableError(_UNAVAILABLE[state])
    if error.connection_invalidated:
        return ConnectionLostError("the connection to the database broke")
    if isinstance(error.orig, sqlite3.Error):
        return _meaning_of_sqlite(error.orig)
    if state in _NO_SUCH_TABLE_OR_COLUMN:
        return MissingColumnError(str(error.orig))
    if state.startswith(_UNAVAILABLE_CLASSES):
        return UnavailableError(f"the database cannot serve (SQLSTATE {state})")
    return None


def _meaning_of_sqlite(error: sqlite3.Error) -> Exception | None:
    if not isinstance(error, sqlite3.OperationalError):
        return None
    # A result code of its own have only the troubles of the file; what is wrong with a statement has the general one.
    if error.sqlite_errorcode != sqlite3.SQLITE_ERROR:
        return UnavailableError(f"the database file cannot be used ({error.sqlite_errorname})")
    return MissingColumnError(str(error)) if str(error).startswith("no such ") else None
