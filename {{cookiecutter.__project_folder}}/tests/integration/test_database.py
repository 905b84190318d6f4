"""The service as a process with a database of its own: prepared at start or before, refused where it cannot work."""

import asyncio
import signal
import sqlite3
import ssl
from collections.abc import Callable
from pathlib import Path

import httpx
import pytest
from sqlalchemy import text

from app.__main__ import main
from app.core.config import Settings, SettingsError, load_settings
from app.storage.engine import connect
from tests.postgres import Postgres
from tests.support import Service

Start = Callable[..., Service]


def test_the_embedded_database_is_migrated_at_start_and_keeps_what_it_got(start: Start) -> None:
    ids = []
    for _ in range(2):
        service = start(DRAIN_SECONDS="0")
        service.wait_until("/health/ready", 200)
        ids.append(httpx.post(f"{service.url}/api/v1/items", json={"name": "kept"}).json()["id"])
        found = httpx.get(f"{service.url}/api/v1/items").json()["items"]
        assert service.end(signal.SIGTERM)[0] == 0

    assert [item["id"] for item in found] == ids


def test_a_schema_that_cannot_be_migrated_is_told(start: Start, tmp_path: Path) -> None:
    (tmp_path / "items.db").write_text("This is no database, and longer than a header of one would be. " * 20)

    code, lines, err = start("migrate", STORAGE_URL=f"sqlite:///{tmp_path}/items.db").end()

    assert (code, err) == (1, "")
    assert lines[-1]["event"] == "the schema could not be brought up to date"
    assert "file is not a database" in lines[-1]["exception"]


@pytest.mark.parametrize("command", [(), ("migrate",)], ids=["serve", "migrate"])
def test_a_database_file_that_cannot_be_written_is_told_and_nothing_starts(
    start: Start, tmp_path: Path, command: tuple[str, ...]
) -> None:
    code, lines, err = start(*command, STORAGE_URL=f"sqlite:///{tmp_path}/missing/items.db").end()

    assert (code, lines) == (2, [])
    assert "STORAGE_URL: [Errno 2] No such file or directory" in err
    assert "Traceback" not in err


def test_migrate_brings_the_schema_up_that_production_waits_for(start: Start, tmp_path: Path) -> None:
    production = {
        "ENVIRONMENT": "production",
        "STORAGE_URL": f"sqlite:///{tmp_path}/items.db",
        "DRAIN_SECONDS": "0",
        "HEALTH_CHECK_CACHE_SECONDS": "0",
    }
    service = start(**production)
    service.wait_until("/health/live", 200)
    ready = httpx.get(f"{service.url}/health/ready")
    assert (ready.status_code, ready.json()["problem"]) == (
        503,
        "storage: the schema is at nothing, this version needs 0001",
    )

    code, lines, _ = start("migrate", **production).end()

    assert (code, lines[-1]["event"]) == (0, "the schema is up to date")
    with sqlite3.connect(tmp_path / "items.db") as database:
        assert database.execute("SELECT count(*) FROM items").fetchone() == (0,)
    database.close()
    service.wait_until("/health/ready", 200)
    assert service.end(signal.SIGTERM)[0] == 0


@pytest.mark.parametrize("url", ["sqlite://host:port/items", "sqlite://", "sqlite:///:memory:", "sqlite://u:p@h/x"])
def test_a_storage_url_that_only_the_backend_finds_wrong_is_told_the_same_way(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], url: str
) -> None:
    monkeypatch.setenv("STORAGE_URL", url)

    assert main([]) == 2
    assert "STORAGE_URL" in capsys.readouterr().err


@pytest.mark.parametrize("environment", ["staging", "production"])
def test_a_server_that_anybody_reaches_needs_a_storage_of_its_own(
    monkeypatch: pytest.MonkeyPatch, environment: str
) -> None:
    monkeypatch.setenv("ENVIRONMENT", environment)
    with pytest.raises(SettingsError, match="STORAGE_URL"):
        load_settings()

    monkeypatch.setenv("STORAGE_URL", "memory://")
    assert load_settings().embeds_storage is False


@pytest.mark.postgres
def test_a_connection_is_encrypted_and_the_server_verified_where_the_url_says_so(
    server: Postgres, settings: Settings
) -> None:
    async def encrypted(parameters: str) -> bool:
        engine = connect(f"{server.url()}?{parameters}", settings)
        try:
            async with engine.connect() as connection:
                query = text("SELECT ssl FROM pg_stat_ssl WHERE pid = pg_backend_pid()")
                return bool((await connection.execute(query)).scalar_one())
        finally:
            await engine.dispose()

    certificate, key = server.certificate("right")
    server.stop()
    server.start(ssl="on", ssl_cert_file=str(certificate), ssl_key_file=str(key))

    assert asyncio.run(encrypted(f"sslmode=verify-full&sslrootcert={certificate}"))
    assert not asyncio.run(encrypted("sslmode=disable"))
    wrong, _ = server.certificate("wrong")
    with pytest.raises(ssl.SSLCertVerificationError):
        asyncio.run(encrypted(f"sslmode=verify-full&sslrootcert={wrong}"))
