"""Items in an SQL database, by SQLAlchemy: the only module that knows SQL."""

from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import structlog
from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import (
    BigInteger,
    Column,
    Connection,
    DateTime,
    Dialect,
    Index,
    Integer,
    MetaData,
    Row,
    StaticPool,
    String,
    Table,
    Text,
    TypeDecorator,
    Uuid,
    delete,
    insert,
    make_url,
    select,
    tuple_,
    update,
)
from sqlalchemy.exc import ArgumentError
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine

from app.storage import Item, ItemData, ItemNotFoundError, Items, Position, VersionConflictError

log = structlog.get_logger()

MIGRATIONS = Path(__file__).resolve().parents[2] / "migrations"

_DRIVERS = {"sqlite": "sqlite+aiosqlite"}


class SchemaError(Exception):
    """The schema of the database is older than the code needs."""


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
    Column("version", Integer, nullable=False),
    Column("created_at", UtcDateTime, nullable=False),
    Column("updated_at", UtcDateTime, nullable=False),
    Index("ix_items_created_at_id", "created_at", "id"),
)


class SqlItems(Items):
    """Items in the database behind a URL.

    Raises:
        ValueError: the URL is no database URL.
        OSError: the URL names a file that cannot be written.
    """

    def __init__(self, url: str) -> None:
        try:
            parsed = make_url(url)
            self.engine: AsyncEngine = create_async_engine(
                parsed.set(drivername=_DRIVERS[parsed.drivername.lower()]),
                # Parameters are the clients' data: not for error messages and logs.
                hide_parameters=True,
            )
        except ArgumentError as error:
            raise ValueError(str(error)) from None
        if isinstance(self.engine.pool, StaticPool):
            # Its one connection would run the transactions of all requests as one.
            raise ValueError(  # noqa: TRY004 - it is the URL that is wrong
                "an SQLite database in memory cannot be shared by requests; use memory://"
            )
        if parsed.database and not parsed.database.startswith("file:"):
            # A folder that is missing or closed to us is told here, not by a driver's thread in its own words.
            Path(parsed.database).open("ab").close()
        self._revisions = Revisions()

    async def open(self, *, migrate: bool) -> None:
        if migrate:
            await self.migrate()

    async def close(self) -> None:
        await self.engine.dispose()

    async def migrate(self) -> None:
        """Bring the schema up to what this code needs."""
        async with self.engine.begin() as connection:
            before = await connection.run_sync(_current_revision)
            await connection.run_sync(_upgrade)
            after = await connection.run_sync(_current_revision)
        if before != after:
            log.info("schema migrated", before=before, after=after)

    async def check(self) -> None:
        async with self.engine.connect() as connection:
            current = await connection.run_sync(_current_revision)
        self._revisions.require(current)

    async def create(self, data: ItemData) -> Item:
        now = datetime.now(UTC)
        item = Item(id=uuid4(), data=data, version=1, created_at=now, updated_at=now)
        async with self.engine.begin() as connection:
            await connection.execute(
                insert(items).values(id=item.id, version=item.version, created_at=now, updated_at=now, **_columns(data))
            )
        return item

    async def page(self, *, limit: int, after: Position | None = None) -> list[Item]:
        query = select(items).order_by(items.c.created_at, items.c.id).limit(limit)
        if after:
            query = query.where(tuple_(items.c.created_at, items.c.id) > tuple_(*after, types=_POSITION_TYPES))
        async with self.engine.connect() as connection:
            return [_item(row) for row in await connection.execute(query)]

    async def get(self, item_id: UUID) -> Item:
        async with self.engine.connect() as connection:
            row = (await connection.execute(select(items).where(items.c.id == item_id))).one_or_none()
        if row is None:
            raise ItemNotFoundError(item_id)
        return _item(row)

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
        async with self.engine.begin() as connection:
            row = (await connection.execute(change)).one_or_none()
        if row is not None:
            return row
        await self.get(item_id)
        raise VersionConflictError(item_id)


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


def alembic_config(connection: Connection | None = None) -> Config:
    """Alembic's configuration, here rather than in an ini file because the path depends on where the code lies."""
    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS))
    config.attributes["connection"] = connection
    return config


def _upgrade(connection: Connection) -> None:
    command.upgrade(alembic_config(connection), "head")


def _current_revision(connection: Connection) -> str | None:
    return MigrationContext.configure(connection).get_current_revision()


class Revisions:
    """The schema revisions that this code knows."""

    def __init__(self) -> None:
        script = ScriptDirectory.from_config(alembic_config())
        self.head = script.get_current_head()
        self.older = {revision.revision for revision in script.walk_revisions()} - {self.head}

    def require(self, current: str | None) -> None:
        """Accept the newest revision and any unknown one: that is newer, left by the next version's roll-out.

        Raises:
            SchemaError: the schema is older than the code.
        """
        if current is None or current in self.older:
            raise SchemaError(f"the schema is at {current or 'nothing'}, this version needs {self.head}")
