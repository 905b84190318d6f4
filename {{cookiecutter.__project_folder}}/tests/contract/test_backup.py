"""The commands of the page on backups, as they stand there, bring back what was stored."""

import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from decimal import Decimal
from pathlib import Path
from textwrap import dedent

import pytest
from sqlalchemy import make_url

from app.core.config import Settings
from app.storage import ItemData, UnavailableError, backends
from tests.postgres import binaries
from tests.support import ROOT, Service

PAGE = ROOT / "docs" / "runbooks" / "backup-and-restore.md"
TOOLS = ("psql", "pg_dump", "pg_restore", "createdb", "dropdb", "curl")

DATA = [
    ItemData("Widget", "for testing", Decimal("9.99")),
    ItemData("🚀" * 100, "line\nbreak\t\\N \\. \U0010ffff", Decimal("9999999999.99")),
    ItemData("nothing but a name"),
    ItemData("empty is not absent", "", Decimal("0.00")),
]

Shell = Callable[[str], str]


def blocks(text: str) -> list[str]:
    """What a text says to type into a shell, in order."""
    return [dedent(block) for _, block in re.findall(r"^( *)```sh[^\n]*\n(.*?)^\1```$", text, re.DOTALL | re.MULTILINE)]


def section(heading: str) -> list[str]:
    """What the page says to type under a heading."""
    _, found, rest = PAGE.read_text(encoding="utf-8").partition(f"\n## {heading}\n")
    commands = blocks(rest.partition("\n## ")[0])
    assert found, f"{PAGE.name} has no such section: {heading}"
    assert commands, f"{PAGE.name} says nothing to type under: {heading}"
    return commands


@pytest.fixture
def shell(stored_in: Settings, tmp_path: Path) -> Shell:
    """Runs commands as somebody would who has prepared everything; what they print."""
    # The tools of our own server are as new as it is; those for another one are up to whoever named it.
    own = [] if os.environ.get("TEST_POSTGRES_URL") else [str(binaries())]
    path = os.pathsep.join([str(Path(sys.executable).parent), *own, os.environ["PATH"]])
    if missing := [tool for tool in TOOLS if not shutil.which(tool, path=path)]:
        pytest.fail(f"{', '.join(missing)} missing: `apt-get install postgresql-client curl`", pytrace=False)
    url = make_url(stored_in.storage_url.get_secret_value())
    environment = os.environ | {
        "PATH": path,
        "PYTHONPATH": str(ROOT),
        "PGHOST": url.host or "",
        "PGPORT": str(url.port or 5432),
        "PGUSER": url.username or "",
        "PGPASSWORD": str(url.password or ""),
        "PGDATABASE": url.database or "",
    }

    def shell(script: str) -> str:
        done = subprocess.run(  # noqa: S603 - our own page
            ["/bin/sh", "-euc", script], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    return shell


def test_every_command_of_the_page_is_one_that_is_tested() -> None:
    tested = [block for heading in ("Before you begin", "Dump", "Restore", "Check") for block in section(heading)]

    for block in blocks(PAGE.read_text(encoding="utf-8")):
        assert block in "".join(tested)


@pytest.mark.postgres
@pytest.mark.parametrize("stored_in", ["postgresql"], indirect=True)
async def test_a_restored_database_holds_what_was_dumped_and_serves(
    stored_in: Settings, shell: Shell, start: Callable[..., Service]
) -> None:
    store = backends.connect(stored_in)
    await store.open()
    dumped = [await store.create(data) for data in DATA]
    dumped[0] = await store.replace(dumped[0].id, ItemData("replaced"))
    for block in (*section("Before you begin"), *section("Dump")):
        shell(block)
    await store.delete(dumped[1].id)
    await store.replace(dumped[2].id, ItemData("replaced after the dump"))
    await store.create(ItemData("created after the dump"))

    make_anew, *restore, migrate = section("Restore")
    shell(make_anew)
    # A service that was left running neither serves nor keeps anything meanwhile.
    with pytest.raises(UnavailableError):
        await store.create(ItemData("lost"))
    for block in restore:
        shell(block)
    assert "schema migrated" not in shell(migrate)

    service = start(ENVIRONMENT="production", STORAGE_URL=stored_in.storage_url.get_secret_value())
    service.wait_until("/health/ready", 200)
    for block in section("Check"):
        assert f" {len(dumped)}\n" in shell(block.replace("http://localhost:8000", service.url))
    service.end(signal.SIGINT)
    await store.check()
    assert await store.page(limit=100) == dumped
    created = await store.create(ItemData("created after the restore"))
    replaced = await store.replace(dumped[1].id, ItemData("replaced after the restore"), version=dumped[1].version)
    assert await store.page(limit=100) == [dumped[0], replaced, *dumped[2:], created]
    await store.close()
