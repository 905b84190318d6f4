"""How Alembic runs: on the connection it is given, else (`alembic` on the command line) on `STORAGE_URL`'s."""

import asyncio

from alembic import context
from sqlalchemy import Connection

from app.core.config import load_settings
from app.storage.engine import connect_for_migrations
from app.storage.schema import take_turn
from app.storage.sql import metadata


def run(connection: Connection) -> None:
    """Run the wanted migrations in the transaction of the connection."""
    context.configure(connection=connection, target_metadata=metadata, compare_type=True)
    with context.begin_transaction():
        context.run_migrations()


async def connect_and_run() -> None:
    """Run the wanted migrations on a connection of our own."""
    engine = connect_for_migrations(load_settings().storage_url.get_secret_value())
    async with engine.begin() as connection:
        await connection.run_sync(take_turn)
        await connection.run_sync(run)
    await engine.dispose()


given: Connection | None = context.config.attributes.get("connection")
if given is None:
    asyncio.run(connect_and_run())
else:
    run(given)
