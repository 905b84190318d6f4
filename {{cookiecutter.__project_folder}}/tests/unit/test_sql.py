"""What only the SQL backend can get wrong; the rest is in the contract of all backends."""

from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from uuid import uuid4

import pytest
from sqlalchemy import insert
from sqlalchemy.exc import IntegrityError

from app.storage.sql import SqlItems, items


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[SqlItems]:
    """An empty store."""
    store = SqlItems(f"sqlite:///{tmp_path}/items.db")
    await store.open(migrate=True)
    yield store
    await store.close()


async def test_pages_are_in_order_of_creation_whatever_the_order_of_the_rows(store: SqlItems) -> None:
    now = datetime.now(UTC)
    rows = [
        {"id": uuid4(), "name": str(age), "version": 1, "created_at": moment, "updated_at": moment}
        for age in range(5)
        if (moment := now - timedelta(seconds=age))
    ]
    async with store.engine.begin() as connection:
        await connection.execute(insert(items), rows)

    assert [item.data.name for item in await store.page(limit=10)] == ["4", "3", "2", "1", "0"]


async def test_an_error_of_the_database_does_not_repeat_what_a_client_sent(store: SqlItems) -> None:
    row = {"id": uuid4(), "name": "my password", "version": None, "created_at": None, "updated_at": None}

    with pytest.raises(IntegrityError) as error:
        async with store.engine.begin() as connection:
            await connection.execute(insert(items), row)

    assert "my password" not in str(error.value)
