"""The schema: made by migrations alone, forward and back, by one process at a time, and known to readiness."""

import asyncio
import os
import shutil
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import asyncpg
import pytest
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, inspect, text
from sqlalchemy.exc import DBAPIError
from structlog.testing import capture_logs

from app.core.config import Settings
from app.storage import ItemData, OutdatedError, schema
from app.storage.engine import connect_for_migrations
from app.storage.schema import alembic_config, upgrade
from app.storage.sql import SqlItems, metadata
from tests.support import ROOT, Service

POSTGRESQL = pytest.param("postgresql", marks=pytest.mark.postgres)

on_each_database = pytest.mark.parametrize("stored_in", ["sqlite", POSTGRESQL], indirect=True)
on_postgresql = pytest.mark.parametrize("stored_in", [POSTGRESQL], indirect=True)

NEXT_REVISION = '''"""What a later version needs."""

from alembic import op

revision = "next"
down_revision = "{head}"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Forward."""
    op.execute("ALTER TABLE items ADD COLUMN colour TEXT")
    op.execute("{statement}")


def downgrade() -> None:
    """Back."""
    op.execute("ALTER TABLE items DROP COLUMN colour")
'''


def store_of(stored_in: Settings) -> SqlItems:
    """A store that is migrated by nobody but the test."""
    return SqlItems(stored_in.storage_url.get_secret_value(), stored_in, migrate_at_start=False)


@pytest.fixture
async def store(stored_in: Settings) -> AsyncIterator[SqlItems]:
    """A store whose database is empty."""
    store = store_of(stored_in)
    yield store
    await store.close()


@pytest.fixture
def release(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Adds a revision, with a statement of the test's own, to those that the code knows from then on."""

    def release(statement: str) -> None:
        head = ScriptDirectory.from_config(alembic_config()).get_current_head()
        migrations = shutil.copytree(schema.MIGRATIONS, tmp_path / "migrations")
        (migrations / "versions" / "next.py").write_text(NEXT_REVISION.format(head=head, statement=statement))
        monkeypatch.setattr(schema, "MIGRATIONS", migrations)

    return release


async def on(stored_in: Settings, step: Callable[[Connection], object]) -> set[str]:
    """Do something with a connection, as one transaction; the tables afterwards, Alembic's own aside."""

    def tables(connection: Connection) -> set[str]:
        step(connection)
        return set(inspect(connection).get_table_names()) - {"alembic_version"}

    engine = connect_for_migrations(stored_in.storage_url.get_secret_value())
    async with engine.begin() as connection:
        found = await connection.run_sync(tables)
    await engine.dispose()
    return found


async def columns(stored_in: Settings) -> set[str]:
    """The columns of the items' table."""
    found: set[str] = set()
    await on(stored_in, lambda sync: found.update(column["name"] for column in inspect(sync).get_columns("items")))
    return found


@on_each_database
async def test_each_migration_goes_forward_back_and_forward_again(stored_in: Settings) -> None:
    async def run(step: Callable[[Config, str], None], revision: str) -> set[str]:
        return await on(stored_in, lambda connection: step(alembic_config(connection), revision))

    revisions = [script.revision for script in ScriptDirectory.from_config(alembic_config()).walk_revisions()][::-1]
    before: set[str] = set()
    for revision in revisions:
        after = await run(command.upgrade, revision)
        assert await run(command.downgrade, "-1") == before
        assert await run(command.upgrade, revision) == after
        before = after
    assert before == {"items"}


@on_each_database
async def test_the_migrated_schema_is_the_one_the_code_describes(store: SqlItems, stored_in: Settings) -> None:
    differences: list[object] = []
    await store.migrate()

    await on(stored_in, lambda sync: differences.extend(compare_metadata(MigrationContext.configure(sync), metadata)))

    assert differences == []


@on_each_database
async def test_only_an_older_schema_or_none_is_not_ready(
    store: SqlItems, stored_in: Settings, release: Callable[[str], None]
) -> None:
    with pytest.raises(OutdatedError, match="at nothing, this version needs"):
        await store.check()

    await store.migrate()
    await store.check()

    release("SELECT 1")
    newer = store_of(stored_in)
    with pytest.raises(OutdatedError, match=r"at \d+, this version needs next"):
        await newer.check()

    await newer.migrate()
    await newer.check()
    # The version before it goes on while a roll-out replaces it.
    await store.check()
    await newer.close()


@on_each_database
async def test_migrating_twice_does_nothing_more(store: SqlItems) -> None:
    with capture_logs() as logs:
        await store.migrate()
        await store.migrate()

    assert [line["event"] for line in logs] == ["schema migrated"]
    await store.check()


@on_each_database
async def test_a_migration_that_fails_half_way_changes_nothing(
    store: SqlItems, stored_in: Settings, release: Callable[[str], None]
) -> None:
    await store.migrate()
    before = await columns(stored_in)
    release("SELECT nonsense")

    with pytest.raises(DBAPIError, match="nonsense"):
        await store.migrate()

    assert await columns(stored_in) == before
    await store.check()


@on_each_database
async def test_who_migrates_second_waits_for_the_first_and_finds_nothing_to_do(
    store: SqlItems, stored_in: Settings
) -> None:
    engine = connect_for_migrations(stored_in.storage_url.get_secret_value())
    with capture_logs() as logs:
        async with engine.begin() as first:
            await first.run_sync(upgrade)
            second = asyncio.create_task(store.migrate())
            # Long enough to get as far as it can.
            await asyncio.wait([second], timeout=0.2)
            assert not second.done()
        await second
    await engine.dispose()

    assert [line["event"] for line in logs] == ["schema migrated"]
    await store.check()


@pytest.mark.parametrize(
    ("stored_in", "count"),
    [("sqlite", 2), pytest.param("postgresql", 4, marks=pytest.mark.postgres)],
    indirect=["stored_in"],
)
def test_several_processes_may_migrate_at_once(stored_in: Settings, count: int, start: Callable[..., Service]) -> None:
    url = stored_in.storage_url.get_secret_value()

    processes = [start("migrate", ENVIRONMENT="production", STORAGE_URL=url) for _ in range(count)]
    ends = [process.end() for process in processes]

    assert [(code, err) for code, _, err in ends] == [(0, "")] * count
    events = [line["event"] for _, logs, _ in ends for line in logs]
    assert sorted(events) == ["schema migrated", *["the schema is up to date"] * count]


@on_postgresql
async def test_a_migration_takes_as_long_as_it_takes(stored_in: Settings, release: Callable[[str], None]) -> None:
    limits = {"database_statement_timeout_seconds": 0.05, "database_pool_timeout_seconds": 0.05}
    hasty = store_of(stored_in.model_copy(update=limits))
    release("SELECT pg_sleep(0.2)")
    await on(stored_in, lambda sync: sync.execute(text("ALTER ROLE CURRENT_USER SET statement_timeout = '100ms'")))

    try:
        await hasty.migrate()
    finally:
        await on(stored_in, lambda sync: sync.execute(text("ALTER ROLE CURRENT_USER RESET statement_timeout")))

    assert "colour" in await columns(stored_in)
    await hasty.close()


@on_postgresql
async def test_a_running_store_serves_on_while_a_column_is_widened(
    store: SqlItems, release: Callable[[str], None]
) -> None:
    await store.migrate()
    item = await store.create(ItemData("x"))
    await store.get(item.id)
    release("ALTER TABLE items ALTER COLUMN name TYPE VARCHAR(200)")

    await store.migrate()

    # The server refuses what was prepared on this connection before.
    assert await store.get(item.id) == item


@on_postgresql
async def test_a_migration_fails_at_a_lock_rather_than_hold_up_all_requests(
    store: SqlItems, stored_in: Settings, release: Callable[[str], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    await store.migrate()
    before = await columns(stored_in)
    release("SELECT 1")
    monkeypatch.setattr(schema, "LOCK_TIMEOUT", "50ms")
    other = await asyncpg.connect(stored_in.storage_url.get_secret_value())
    try:
        async with other.transaction():
            await other.execute("LOCK TABLE items IN ACCESS SHARE MODE")
            with pytest.raises(DBAPIError, match="lock timeout"):
                async with asyncio.timeout(10):
                    await store.migrate()
    finally:
        await other.close()

    assert await columns(stored_in) == before
    await store.check()


@on_each_database
def test_alembic_works_on_the_command_line_too(stored_in: Settings) -> None:
    environment = os.environ | {"STORAGE_URL": stored_in.storage_url.get_secret_value()}
    for arguments in (["upgrade", "head"], ["check"], ["downgrade", "base"], ["upgrade", "head"]):
        done = subprocess.run(  # noqa: S603 - our own interpreter
            [sys.executable, "-m", "alembic", *arguments],
            cwd=ROOT,
            env=environment,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr
