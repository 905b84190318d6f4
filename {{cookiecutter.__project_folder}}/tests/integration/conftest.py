"""The fixtures of PostgreSQL, for the tests of this folder."""

from tests.postgres import database_url, postgres_url, server

__all__ = ["database_url", "postgres_url", "server"]
