"""Items in an SQL database, by SQLAlchemy: the only module that knows SQL."""

import asyncio
from collections.abc import Sequence
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any
from uuid import UUID, uuid4

import structlog
from prometheus_client import CollectorRegistry
from sqlalchemy import (
    BigInteger,
    Column,
    DateTime,
    Dialect,
    Executable,
    Index,
    Integer,
    MetaData,
    Row,
    String,
    Table,
    Text,
    TypeDecorator,
    Uuid,
    delete,
    insert,
    select,
    tuple_,
    update,
)
from sqlalchemy.exc import NotSupportedError

from app.core.config import Settings
from app.storage import Item, ItemData, ItemNotFoundError, Items, Position, VersionConflictError
from app.storage.engine import (
    MissingColumnError,
    connect,
    connect_for_migrations,
    errors_translated,
    show_pool,
)
from app.storage.schema import Revisions, current_revision, upgrade

log = structlog.get_logger()

# How long the end of the process may wait for connections to be closed.
_CLOSE_SECONDS = 1.0


class UtcDateTime(TypeDecorator[datetime]):
    """A time with a zone on every database; SQLite stores none, so it is UTC there."""

    impl = DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:  # noqa: ARG002
        return value.astimezone(UTC) if value else None

    def process_result_value(self, value: datetime | None, dialect: Dialect) -> datetime | None:  # noqa: ARG002
        return value.replace(tzinfo=UTC) if value and value.tzinfo is None else value


metadata = MetaData()

items = Table(
    "items",
    metadata,
    Column("id", Uuid, primary_key=True),
    Column("name", String(100), nullable=False),
    Column("description", Text),
    # Hundredths: exact in every database, SQLite included, which has no decimals.
    Column("price_hundredths", BigInteger),
    # Entity tags are made of it: a migration that changes what is shown of items raises it.
    Column("version", Integer, nullable=False),
    Column("created_at", UtcDateTime, nullable=False),
    Column("updated_at", UtcDateTime, nullable=False),
    Index("ix_items_created_at_id", "created_at", "id"),
)


class SqlItems(Items):
    """Items in the database behind a URL.

    Args:
        url: where it is.
        settings: pool and timeouts.
        migrate_at_start: whether `open` brings the schema up to date.

    Raises:
        ValueError: the URL is no database URL.
        OSError: the URL names a file that cannot be written.
    """

    def __init__(self, url: str, settings: Settings, *, migrate_at_start: bool) -> None:
        self.engine = connect(url, settings)
        # If readiness waited for a connection behind the requests, a busy service would look like one without database.
        self._checks = connect(url, settings.model_copy(update={"database_pool_size": 1}))
        self._is_warm = False
        self._url = url
        self._migrate_at_start = migrate_at_start
        self._revisions = Revisions()

    def observe(self, registry: CollectorRegistry) -> None:
        show_pool(self.engine, registry)

    async def open(self) -> None:
        if self._migrate_at_start:
            await self.migrate()

    async def close(self) -> None:
        try:
            async with asyncio.timeout(_CLOSE_SECONDS):
                await self.engine.dispose()
                await self._checks.dispose()
        except TimeoutError:
            log.warning("the database did not answer while connections were closed")

    async def migrate(self) -> None:
        """Bring the schema up to what this code needs."""
        engine = connect_for_migrations(self._url)
        try:
            async with engine.begin() as connection:
                await connection.run_sync(upgrade)
        finally:
            await engine.dispose()

    async def check(self) -> None:
        with errors_translated():
            async with self._checks.connect() as connection:
                current = await connection.run_sync(current_revision)
            if not self._is_warm:
                # The first request must not wait for a connection, and for what SQLAlchemy asks once.
                async with self.engine.connect():
                    self._is_warm = True
        self._revisions.require(current)

    async def create(self, data: ItemData) -> Item:
        now = datetime.now(UTC)
        item = Item(id=uuid4(), data=data, version=1, created_at=now, updated_at=now)
        row = {"id": item.id, "version": item.version, "created_at": now, "updated_at": now, **_columns(data)}
        await self._execute(insert(items).values(row))
        return item

    async def page(self, *, limit: int, after: Position | None = None) -> list[Item]:
        query = select(items).order_by(items.c.created_at, items.c.id).limit(limit)
        if after:
            query = query.where(tuple_(items.c.created_at, items.c.id) > tuple_(*after, types=_POSITION_TYPES))
        return [_item(row) for row in await self._execute(query)]

    async def get(self, item_id: UUID) -> Item:
        rows = await self._execute(select(items).where(items.c.id == item_id))
        if not rows:
            raise ItemNotFoundError(item_id)
        return _item(rows[0])

    async def replace(self, item_id: UUID, data: ItemData, *, version: int | None = None) -> Item:
        change = (
            update(items)
            .where(items.c.id == item_id)
            .values(version=items.c.version + 1, updated_at=datetime.now(UTC), **_columns(data))
            .returning(items)
        )
        return _item(await self._change(change, item_id, version))

    async def delete(self, item_id: UUID, *, version: int | None = None) -> None:
        await self._change(delete(items).where(items.c.id == item_id).returning(items), item_id, version)

    async def _change(self, change: Any, item_id: UUID, version: int | None) -> Row[Any]:
        if version is not None:
            change = change.where(items.c.version == version)
        rows = await self._execute(change)
        if rows:
            return rows[0]
        await self.get(item_id)
        raise VersionConflictError(item_id)

    async def _execute(self, statement: Executable) -> Sequence[Row[Any]]:
        """Run one statement, which is a transaction of its own; its rows, if it has any."""
        try:
            return await self._send(statement)
        except NotSupportedError:
            # A migration changed the type of a column, so the server refuses what was prepared before: nothing was
            # done, and the driver prepares it anew.
            return await self._send(statement)
        except MissingColumnError:
            # Before a migration has run this is no bug, and says so.
            await self.check()
            raise

    async def _send(self, statement: Executable) -> Sequence[Row[Any]]:
        with errors_translated():
            async with self.engine.connect() as connection:
                result = await connection.execute(statement)
                return result.all() if result.returns_rows else ()


_POSITION_TYPES = (items.c.created_at.type, items.c.id.type)


def _columns(data: ItemData) -> dict[str, Any]:
    price = None if data.price is None else int(data.price.scaleb(2))
    return {"name": data.name, "description": data.description, "price_hundredths": price}


def _item(row: Row[Any]) -> Item:
    price = None if row.price_hundredths is None else Decimal(row.price_hundredths).scaleb(-2)
    return Item(
        id=row.id,
        data=ItemData(name=row.name, description=row.description, price=price),
        version=row.version,
        created_at=row.created_at,
        updated_at=row.updated_at,
    )
