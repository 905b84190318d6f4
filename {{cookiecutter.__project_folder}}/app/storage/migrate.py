"""`python -m app migrate`: bring the schema up to date, before a roll-out of the version that needs it."""

import asyncio

import structlog

from app.core.config import Settings, connect_storage
from app.core.logging_config import configure_logging
from app.storage import Items
from app.storage.sql import SqlItems

log = structlog.get_logger()


def migrate(settings: Settings) -> int:
    """Bring the schema up, and say so; the exit code: 1 if it failed.

    Raises:
        SettingsError: `STORAGE_URL` is wrong.
    """
    items = connect_storage(settings)
    logs = configure_logging(settings)
    try:
        asyncio.run(_migrate(items))
        log.info("the schema is up to date")
    except Exception:
        log.exception("the schema could not be brought up to date")
        return 1
    else:
        return 0
    finally:
        logs.close(settings.telemetry_flush_seconds)


async def _migrate(items: Items) -> None:
    try:
        if isinstance(items, SqlItems):
            await items.migrate()
    finally:
        await items.close()
