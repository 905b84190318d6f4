"""SQL statements as spans of the request they serve, on every database."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from datetime import UTC, datetime
from pathlib import Path
from uuid import uuid4

import pytest
from opentelemetry import trace
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind, StatusCode
from sqlalchemy import bindparam, insert, make_url, text, update
from sqlalchemy.exc import DBAPIError

from app.core.config import Settings
from app.core.telemetry import Telemetry
from app.core.tracing import Tracing
from app.main import create_app
from app.storage import ItemData, ItemNotFoundError
from app.storage.sql import SqlItems, items
from tests.support import client_of


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=pytest.mark.postgres)])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """Where an empty database is."""
    found: str = (
        request.getfixturevalue("database_url") if request.param == "postgresql" else f"sqlite:///{tmp_path}/items.db"
    )
    return found


@pytest.fixture
def settings(url: str, settings: Settings) -> Settings:
    """Waiting is not what is tested here: a slow machine must not fail it."""
    limits = {f"database_{what}_timeout_seconds": 60 for what in ("connect", "pool", "statement")}
    limits |= {"request_timeout_seconds": 60, "health_check_timeout_seconds": 30}
    return Settings.model_validate(settings.model_dump() | limits | {"storage_url": url})


@pytest.fixture
def tracing(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> Tracing:
    """What `serve` makes the process's own."""
    tracing = Tracing(settings, lambda _: None)
    monkeypatch.setattr(trace, "_TRACER_PROVIDER", tracing.provider)
    return tracing


@pytest.fixture
def spans(tracing: Tracing) -> InMemorySpanExporter:
    exporter = InMemorySpanExporter()
    tracing.provider.add_span_processor(SimpleSpanProcessor(exporter))
    return exporter


@pytest.fixture
async def store(url: str, settings: Settings, tracing: Tracing) -> AsyncIterator[SqlItems]:
    """An empty store, which has asked its database already what SQLAlchemy asks once."""
    store = SqlItems(url, settings, migrate_at_start=True)
    await store.open()
    await store.check()
    yield store
    await store.close()


def statements(spans: InMemorySpanExporter) -> list[ReadableSpan]:
    """The spans of statements, with what else ended in between left out."""
    return [span for span in spans.get_finished_spans() if span.kind == SpanKind.CLIENT]


def attributes(span: ReadableSpan) -> dict[str, object]:
    return dict(span.attributes or {})


async def test_each_statement_is_a_child_without_the_values(
    store: SqlItems, url: str, tracing: Tracing, spans: InMemorySpanExporter
) -> None:
    with tracing.tracer.start_as_current_span("request") as request:
        item = await store.create(ItemData("my secret name"))
        await store.page(limit=10)
        await store.get(item.id)
        await store.replace(item.id, ItemData("my other secret"))
        await store.delete(item.id)

    found = statements(spans)
    assert [span.name for span in found] == [
        f"{verb} items" for verb in ("INSERT", "SELECT", "SELECT", "UPDATE", "DELETE")
    ]
    parsed = make_url(url)
    where = {"server.address": parsed.host, "server.port": parsed.port} if parsed.host else {}
    for span in found:
        shown = attributes(span)
        query = str(shown.pop("db.query.text"))
        verb, _, table = span.name.partition(" ")
        assert query.startswith(verb)
        assert shown == {
            "db.system.name": parsed.get_backend_name(),
            "db.namespace": parsed.database,
            "db.operation.name": verb,
            "db.collection.name": table,
            "db.query.summary": span.name,
            **where,
        }
        assert span.parent == request.get_span_context()
        assert span.status.status_code == StatusCode.UNSET
        assert "secret" not in span.to_json()
        assert str(item.id) not in span.to_json()


async def test_a_statement_that_fails_says_so_once_and_without_values(
    store: SqlItems, url: str, tracing: Tracing, spans: InMemorySpanExporter
) -> None:
    row = {"id": uuid4(), "name": None, "description": "my secret", "version": 1}
    with tracing.tracer.start_as_current_span("request"), pytest.raises(DBAPIError):
        async with store.engine.connect() as connection:
            await connection.execute(insert(items), row)

    (span,) = statements(spans)
    code = "23502" if url.startswith("postgresql") else "SQLITE_CONSTRAINT_NOTNULL"
    assert (attributes(span)["error.type"], attributes(span)["db.response.status_code"]) == (code, code)
    assert (span.status.status_code, [event.name for event in span.events]) == (StatusCode.ERROR, ["exception"])
    assert "secret" not in span.to_json()


async def test_many_rows_at_once_are_one_span(store: SqlItems, tracing: Tracing, spans: InMemorySpanExporter) -> None:
    now = datetime.now(UTC)
    with tracing.tracer.start_as_current_span("request"):
        item = await store.create(ItemData("x"))
        async with store.engine.connect() as connection:
            change = update(items).where(items.c.id == bindparam("which")).values(updated_at=now)
            await connection.execute(change, [{"which": item.id}, {"which": uuid4()}])

    span = statements(spans)[-1]
    assert (span.name, attributes(span)["db.operation.batch.size"]) == ("UPDATE items", 2)


async def test_sql_written_by_hand_is_told_by_its_verb_only(
    store: SqlItems, tracing: Tracing, spans: InMemorySpanExporter
) -> None:
    with tracing.tracer.start_as_current_span("request"):
        async with store.engine.connect() as connection:
            await connection.execute(text("select 'my secret'"))

    (span,) = statements(spans)
    assert span.name == "SELECT"
    assert "secret" not in span.to_json()


async def test_a_statement_that_is_cancelled_ends_its_span(
    store: SqlItems, url: str, tracing: Tracing, spans: InMemorySpanExporter
) -> None:
    if url.startswith("sqlite"):
        slow = "with recursive n(i) as (select 1 union all select i + 1 from n where i < 3000000) select max(i) from n"
    else:
        slow = "select pg_sleep(30)"
    with tracing.tracer.start_as_current_span("request"), pytest.raises(TimeoutError):
        async with asyncio.timeout(0.1), store.engine.connect() as connection:
            await connection.execute(text(slow))

    (span,) = statements(spans)
    assert span.status.status_code == StatusCode.ERROR
    assert str(attributes(span)["error.type"]).endswith("CancelledError")


@pytest.mark.parametrize("parent", ["none", "unsampled"])
async def test_outside_a_sampled_trace_statements_leave_nothing(
    store: SqlItems, spans: InMemorySpanExporter, parent: str
) -> None:
    span = trace.NonRecordingSpan(trace.SpanContext(1, 2, is_remote=True, trace_flags=trace.TraceFlags(0)))
    with trace.use_span(span if parent == "unsampled" else trace.INVALID_SPAN):
        with pytest.raises(ItemNotFoundError):
            await store.get(uuid4())
        await store.check()
        await store.migrate()

    assert spans.get_finished_spans() == ()


@pytest.fixture
def app(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> Iterator[Telemetry]:
    app = create_app(settings)
    monkeypatch.setattr(trace, "_TRACER_PROVIDER", app.tracing.provider)
    yield app
    app.tracing.provider.shutdown()


async def test_the_statements_of_a_request_are_its_children_and_probes_have_none(app: Telemetry) -> None:
    spans = InMemorySpanExporter()
    app.tracing.provider.add_span_processor(SimpleSpanProcessor(spans))
    async with client_of(app) as client:
        await app.fastapi.state.items._items.migrate()
        assert (await client.get("/health/ready")).status_code == 200
        assert spans.get_finished_spans() == ()
        assert (await client.get("/api/v1/items")).status_code == 200

    statement, request = spans.get_finished_spans()
    assert (request.name, request.kind) == ("GET /api/v1/items", SpanKind.SERVER)
    assert (statement.name, statement.parent) == ("SELECT items", request.context)
