"""The schema of the database: which revisions this code knows, and how it is brought up to date by Alembic."""

import logging
from pathlib import Path

import structlog
from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, text

from app.storage import OutdatedError

log = structlog.get_logger()

# It says the same lines at every look at the schema, and readiness looks often.
logging.getLogger("alembic").setLevel(logging.WARNING)

MIGRATIONS = Path(__file__).resolve().parents[2] / "migrations"

# The name of the lock that whoever migrates holds: any number that nobody else uses in this database.
_LOCK = 0x6974656D73  # "items"

# How long a change may wait for a table that others use, in PostgreSQL's notation.
LOCK_TIMEOUT = "5s"


def alembic_config(connection: Connection | None = None) -> Config:
    """Alembic's configuration, here rather than in an ini file because the path depends on where the code lies."""
    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS))
    config.attributes["connection"] = connection
    return config


def take_turn(connection: Connection) -> None:
    """Begin a transaction that no other process migrates beside: whoever comes second waits here.

    A change that another session's lock holds up for too long fails, rather than have all requests queue up behind it.
    """
    if connection.dialect.name == "postgresql":
        connection.execute(text("SELECT pg_advisory_xact_lock(:lock)"), {"lock": _LOCK})
        connection.execute(text(f"SET LOCAL lock_timeout = '{LOCK_TIMEOUT}'"))
    else:
        # Without it, Python's driver begins no transaction before a change of the schema (sqlite3, "Transaction
        # control"): one that fails would be left half done.
        connection.execute(text("BEGIN IMMEDIATE"))


def upgrade(connection: Connection) -> None:
    """Bring the schema up to date within the transaction of this connection; who came second finds nothing to do."""
    take_turn(connection)
    before = current_revision(connection)
    command.upgrade(alembic_config(connection), "head")
    after = current_revision(connection)
    if before != after:
        log.info("schema migrated", before=before, after=after)


def current_revision(connection: Connection) -> str | None:
    """The revision the schema is at; None where nothing was migrated yet."""
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
            OutdatedError: the schema is older than the code.
        """
        if current is None or current in self.older:
            raise OutdatedError(f"the schema is at {current or 'nothing'}, this version needs {self.head}")
