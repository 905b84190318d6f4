"""Spans for SQL statements: children of the request they serve, by the database semantic conventions.

Nothing is told of statements outside a sampled trace: probes and migrations leave no spans. Parameters are the clients'
data and in no span; they are not in the text of a statement either, which SQLAlchemy writes with placeholders.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from weakref import WeakKeyDictionary

from opentelemetry import trace
from opentelemetry.trace import Span, SpanKind, StatusCode, Tracer
from sqlalchemy import URL, ClauseElement, Compiled, FromClause, Table, TextClause, event
from sqlalchemy.engine.interfaces import DBAPICursor
from sqlalchemy.ext.asyncio import AsyncEngine


def trace_statements(engine: AsyncEngine, url: URL) -> None:
    """Make each statement of an engine a span.

    Args:
        engine: the engine.
        url: where its database is.
    """
    tracer = trace.get_tracer("app.storage")
    where = _where(url)
    dialect = engine.sync_engine.dialect

    # Of the events that SQLAlchemy has for this, these cost least where nothing is told, and see the end of a statement
    # however it ends.
    @event.listens_for(engine.sync_engine, "do_execute")
    def execute(cursor: DBAPICursor, statement: str, parameters: Any, context: Any) -> bool:
        """Execute a statement within a span; false leaves it to SQLAlchemy."""
        if not _is_told():
            return False
        with _span(tracer, where | _what(statement, context.compiled)):
            dialect.do_execute(cursor, statement, parameters, context)
        return True

    @event.listens_for(engine.sync_engine, "do_executemany")
    def execute_many(cursor: DBAPICursor, statement: str, parameters: Any, context: Any) -> bool:
        """Likewise, with many sets of parameters."""
        if not _is_told():
            return False
        batch = {"db.operation.batch.size": len(parameters)}
        with _span(tracer, where | batch | _what(statement, context.compiled)):
            dialect.do_executemany(cursor, statement, parameters, context)
        return True


def _is_told() -> bool:
    return trace.get_current_span().get_span_context().trace_flags.sampled


@contextmanager
def _span(tracer: Tracer, attributes: dict[str, str | int]) -> Iterator[None]:
    span = tracer.start_span(str(attributes["db.query.summary"]), kind=SpanKind.CLIENT, attributes=attributes)
    try:
        yield
    except BaseException as error:
        _tell(span, error)
        raise
    finally:
        span.end()


def _where(url: URL) -> dict[str, str | int]:
    known = {
        "db.system.name": url.get_backend_name(),
        "db.namespace": url.database,
        "server.address": url.host,
        "server.port": url.port,
    }
    return {name: value for name, value in known.items() if value is not None}


# A statement that was compiled is kept by SQLAlchemy, and what it is about costs more to find out than a span.
_known: WeakKeyDictionary[Compiled, dict[str, str | int]] = WeakKeyDictionary()


def _what(statement: str, compiled: Compiled | None) -> dict[str, str | int]:
    if compiled is None:
        return _described(statement, None)
    if compiled not in _known:
        _known[compiled] = _described(statement, compiled.statement)
    return _known[compiled]


def _described(statement: str, expression: ClauseElement | None) -> dict[str, str | int]:
    operation = statement.split(maxsplit=1)[0].upper()
    table = _table(expression)
    what: dict[str, str | int] = {
        "db.operation.name": operation,
        "db.query.summary": f"{operation} {table}" if table else operation,
    }
    if table:
        what["db.collection.name"] = table
    if expression is not None and not isinstance(expression, TextClause):
        # Who writes SQL by hand may have put values into it.
        what["db.query.text"] = statement
    return what


def _table(expression: Any) -> str | None:
    """The one table that an expression is about."""
    table: FromClause | None = getattr(expression, "table", None)
    if table is None and hasattr(expression, "get_final_froms"):
        tables = expression.get_final_froms()
        table = tables[0] if len(tables) == 1 else None
    return table.name if isinstance(table, Table) else None


def _tell(span: Span, error: BaseException) -> None:
    kind = f"{type(error).__module__}.{type(error).__qualname__}"
    code = getattr(error, "sqlstate", None) or getattr(error, "sqlite_errorname", None)
    if code:
        span.set_attribute("db.response.status_code", code)
    span.set_attribute("error.type", code or kind)
    span.set_status(StatusCode.ERROR)
    # Without its message, in which databases repeat values.
    span.add_event("exception", {"exception.type": kind})
