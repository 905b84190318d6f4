"""`python -m app`: start the service, bring its schema up, or list its settings."""

import argparse
import asyncio
import sys

import structlog

from app.core.config import FACTS, Settings, SettingsError, connect_storage, load_settings, settings_table
from app.core.logging_config import configure_logging
from app.storage import Items


def main(arguments: list[str] | None = None) -> int:
    """Run one command; the exit code of the process, 2 for a command line or environment that is wrong."""
    parser = argparse.ArgumentParser(
        prog="python -m app",
        description=f"{FACTS.service.title}. Configured by environment variables only: see `python -m app settings`.",
    )
    parser.add_argument(
        "command",
        nargs="?",
        default="serve",
        choices=("serve", "migrate", "settings"),
        help="serve requests (the default), bring the schema of STORAGE_URL up to date, or list the settings",
    )
    command = parser.parse_args(arguments).command
    if command == "settings":
        sys.stdout.write(settings_table())
        return 0
    try:
        settings = load_settings()
        if command == "migrate":
            return migrate(settings)
        # Imported late: a wrong environment is answered, and a schema migrated, without loading the framework.
        from app.core.lifecycle import serve
        from app.main import create_app

        return serve(settings, create_app)
    except SettingsError as error:
        sys.stderr.write(f"{error}\n")
        return 2


def migrate(settings: Settings) -> int:
    """Bring the schema up, and say so; where there is none, that is soon done. The exit code: 1 if it failed."""
    items = connect_storage(settings)
    logs = configure_logging(settings, dropped=lambda: None)
    try:
        asyncio.run(_migrate(items))
        structlog.get_logger().info("the schema is up to date")
    except Exception:  # noqa: BLE001 - whatever it was, it is logged with its traceback
        structlog.get_logger().exception("the schema could not be brought up to date")
        return 1
    else:
        return 0
    finally:
        logs.close(settings.telemetry_flush_seconds)


async def _migrate(items: Items) -> None:
    try:
        await items.open(migrate=True)
    finally:
        await items.close()


if __name__ == "__main__":
    sys.exit(main())
