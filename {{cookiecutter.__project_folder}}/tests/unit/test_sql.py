"""What only the SQL backend can get wrong; the rest is in the contract of all backends."""

from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from uuid import UUID, uuid4

import pytest
from sqlalchemy import insert
from sqlalchemy.exc import IntegrityError
from sqlalchemy.schema import DropIndex

from app.core.config import Settings
from app.storage.sql import SqlItems, items


@pytest.fixture
async def store(tmp_path: Path, settings: Settings) -> AsyncIterator[SqlItems]:
    """An empty store."""
    store = SqlItems(f"sqlite:///{tmp_path}/items.db", settings, migrate_at_start=True)
    await store.open()
    yield store
    await store.close()


async def test_pages_are_in_order_of_creation_and_id_whatever_the_order_of_the_rows(store: SqlItems) -> None:
    now = datetime.now(UTC)
    rows = [
        {"id": UUID(int=number), "name": str(number), "version": 1, "created_at": moment, "updated_at": moment}
        for number in (3, 2, 1, 6, 5, 4)
        if (moment := now - timedelta(seconds=number // 4))
    ]
    async with store.engine.begin() as connection:
        # The index has an order of its own, which is not promised.
        await connection.execute(DropIndex(next(iter(items.indexes))))
        await connection.execute(insert(items), rows)

    assert [item.data.name for item in await store.page(limit=10)] == ["4", "5", "6", "1", "2", "3"]


async def test_an_error_of_the_database_does_not_repeat_what_a_client_sent(store: SqlItems) -> None:
    row = {"id": uuid4(), "name": "my password", "version": None, "created_at": None, "updated_at": None}

    with pytest.raises(IntegrityError) as error:
        async with store.engine.begin() as connection:
            await connection.execute(insert(items), row)

    assert "my password" not in str(error.value)
