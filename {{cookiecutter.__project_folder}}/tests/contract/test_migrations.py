"""The schema: made by migrations alone, forward and back, and known to readiness."""

from collections.abc import Callable
from pathlib import Path

import pytest
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, inspect, text
from structlog.testing import capture_logs

from app.storage.sql import Revisions, SchemaError, SqlItems, alembic_config, metadata


@pytest.fixture
def store(tmp_path: Path) -> SqlItems:
    """A store whose database is empty."""
    return SqlItems(f"sqlite:///{tmp_path}/items.db")


async def run(store: SqlItems, step: Callable[[Config], None]) -> set[str]:
    """Run one Alembic command; the tables afterwards, Alembic's own aside."""

    def tables(connection: Connection) -> set[str]:
        step(alembic_config(connection))
        return set(inspect(connection).get_table_names()) - {"alembic_version"}

    async with store.engine.begin() as connection:
        return await connection.run_sync(tables)


async def test_each_migration_goes_forward_back_and_forward_again(store: SqlItems) -> None:
    revisions = [script.revision for script in ScriptDirectory.from_config(alembic_config()).walk_revisions()][::-1]
    before: set[str] = set()
    for revision in revisions:
        after = await run(store, lambda config, to=revision: command.upgrade(config, to))  # type: ignore[misc]
        assert await run(store, lambda config: command.downgrade(config, "-1")) == before
        assert await run(store, lambda config, to=revision: command.upgrade(config, to)) == after  # type: ignore[misc]
        before = after
    assert before == {"items"}
    await store.close()


async def test_the_migrated_schema_is_the_one_the_code_describes(store: SqlItems) -> None:
    await store.migrate()

    async with store.engine.connect() as connection:
        differences = await connection.run_sync(
            lambda sync: compare_metadata(MigrationContext.configure(sync, opts={"compare_type": True}), metadata)
        )
    assert differences == []
    await store.close()


async def test_a_missing_schema_is_not_ready_and_a_newer_one_is(store: SqlItems) -> None:
    with pytest.raises(SchemaError, match="at nothing, this version needs"):
        await store.check()

    await store.migrate()
    await store.check()

    async with store.engine.begin() as connection:
        await connection.execute(text("UPDATE alembic_version SET version_num = 'made-by-a-later-version'"))
    await store.check()
    await store.close()


def test_an_older_schema_is_not_enough() -> None:
    revisions = Revisions()
    revisions.older = {"0000"}

    with pytest.raises(SchemaError, match="at 0000"):
        revisions.require("0000")


async def test_migrating_twice_does_nothing_more(store: SqlItems) -> None:
    with capture_logs() as logs:
        await store.migrate()
        await store.migrate()

    assert [line["event"] for line in logs] == ["schema migrated"]
    await store.check()
    await store.close()
