"""A real PostgreSQL for tests: the server behind `TEST_POSTGRES_URL`, or one of our own that tests may also torment.

Our own is made by `initdb` in a temporary folder, runs as an unprivileged user, and listens on the loopback only.
"""

import asyncio
import os
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from uuid import uuid4

import asyncpg
import pytest
from sqlalchemy import make_url

from tests.support import free_port

PASSWORD = "secret-of-the-tests"  # noqa: S105 - it opens nothing but a server that lives for one test run

# root may not run PostgreSQL; the user of Debian's package, or the one that owns nothing, may.
_USERS = ("postgres", "nobody")

_OPTIONS = {
    "listen_addresses": "127.0.0.1",
    # Nothing has to survive a loss of power.
    "fsync": "off",
    "synchronous_commit": "off",
    "full_page_writes": "off",
    "shared_buffers": "16MB",
    "max_connections": "40",
}


def binaries() -> Path:
    """The folder of the server's programs: PATH's, else the newest of Debian's."""
    if initdb := shutil.which("initdb"):
        return Path(initdb).resolve().parent
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"), key=lambda path: int(path.parts[-3]))
    if not found:
        pytest.fail(
            "PostgreSQL is not installed, and these tests need it: `apt-get install postgresql`, or set "
            "TEST_POSTGRES_URL, for example to postgresql://user:password@localhost/postgres",
            pytrace=False,
        )
    return found[-1].parent


class Postgres:
    """A server of our own.

    Args:
        folder: an empty folder for its data, which all users can reach.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._data = folder / "data"
        self._log = folder / "log"
        self._user: dict[str, Any] = {}
        if hasattr(os, "geteuid") and os.geteuid() == 0:
            name = next(user for user in _USERS if _exists(user))
            shutil.chown(folder, name)
            self._user = {"user": name, "group": _group_of(name), "extra_groups": []}
        self.port = free_port()
        self._process: subprocess.Popen[bytes] | None = None
        password = folder / "password"
        password.write_text(PASSWORD)
        password.chmod(0o644)
        self._run(
            "initdb",
            f"--pgdata={self._data}",
            "--username=postgres",
            f"--pwfile={password}",
            "--auth=scram-sha-256",
            "--encoding=UTF8",
            "--no-locale",
            "--no-sync",
        )

    def url(self, database: str = "postgres", *, user: str = "postgres", password: str = PASSWORD) -> str:
        """How to connect to a database of it."""
        return f"postgresql://{user}:{password}@127.0.0.1:{self.port}/{database}"

    def start(self, **options: str) -> None:
        """Start it, and wait until it serves.

        Args:
            options: settings of the server that differ from ours.
        """
        assert self._process is None
        settings = [f"--{name}={value}" for name, value in {**_OPTIONS, "port": str(self.port), **options}.items()]
        command = [str(binaries() / "postgres"), "-D", str(self._data), "-k", str(self._folder), *settings]
        with self._log.open("ab") as log:
            # A process group of its own, so that all its processes can be frozen.
            self._process = subprocess.Popen(  # noqa: S603 - the server found above
                command, stdout=log, stderr=log, start_new_session=True, **self._user
            )
        asyncio.run(self._wait())

    def certificate(self, name: str) -> tuple[Path, Path]:
        """Make a certificate that signs itself, for 127.0.0.1; it and its key."""
        certificate, key = self._folder / f"{name}.pem", self._folder / f"{name}.key"
        command = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=127.0.0.1"]
        names = ["-addext", "subjectAltName=IP:127.0.0.1", "-keyout", str(key), "-out", str(certificate)]
        subprocess.run([*command, *names], check=True, capture_output=True, **self._user)  # noqa: S603 - fixed words
        return certificate, key

    def stop(self, how: signal.Signals = signal.SIGINT) -> None:
        """Stop it. SIGINT is a fast shutdown, SIGQUIT an immediate one, as after a crash (PostgreSQL manual, 19.5)."""
        if self._process is not None:
            self._process.send_signal(how)
            self._process.wait(30)
            self._process = None

    def freeze(self) -> None:
        """Let all its processes stand still: connections stay open, and nothing answers."""
        self._signal(signal.SIGSTOP)

    def thaw(self) -> None:
        """Let them go on."""
        self._signal(signal.SIGCONT)

    def close(self) -> None:
        """End it, frozen or not."""
        if self._process is not None:
            self.thaw()
            self.stop(signal.SIGQUIT)

    def _signal(self, number: signal.Signals) -> None:
        assert self._process is not None
        # Server processes make themselves leaders of groups of their own.
        for pid in (*_children(self._process.pid), self._process.pid):
            with_suppressed_kill(pid, number)

    async def _wait(self) -> None:
        for _ in range(300):
            try:
                connection = await asyncpg.connect(self.url(), timeout=5)
            except (OSError, asyncpg.CannotConnectNowError):
                await asyncio.sleep(0.1)
            else:
                await connection.close()
                return
        pytest.fail(f"PostgreSQL did not start:\n{self._log.read_text()}", pytrace=False)

    def _run(self, program: str, *arguments: str) -> None:
        done = subprocess.run(  # noqa: S603 - the server's own programs
            [binaries() / program, *arguments], capture_output=True, text=True, check=False, **self._user
        )
        if done.returncode:
            pytest.fail(f"{program} failed:\n{done.stderr}", pytrace=False)


def with_suppressed_kill(pid: int, number: signal.Signals) -> None:
    """Send a signal to a process that may have ended meanwhile."""
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        return


def _children(pid: int) -> list[int]:
    found = subprocess.run(  # noqa: S603
        ["ps", "-o", "pid=", "--ppid", str(pid)],  # noqa: S607 - found as the system finds it
        capture_output=True,
        text=True,
        check=False,
    )
    return [int(word) for word in found.stdout.split()]


def _exists(user: str) -> bool:
    import pwd

    return any(entry.pw_name == user for entry in pwd.getpwall())


def _group_of(user: str) -> int:
    import pwd

    return pwd.getpwnam(user).pw_gid


@contextmanager
def own_server() -> Iterator[Postgres]:
    """A running server of our own; it and its data are gone afterwards."""
    with tempfile.TemporaryDirectory(prefix="postgres-", ignore_cleanup_errors=True) as name:
        folder = Path(name)
        folder.chmod(0o755)
        server = Postgres(folder)
        try:
            server.start()
            yield server
        finally:
            server.close()


async def run_sql(url: str, *statements: str) -> None:
    """Run statements, each in a transaction of its own."""
    connection = await asyncpg.connect(url)
    try:
        for statement in statements:
            await connection.execute(statement)
    finally:
        await connection.close()


@pytest.fixture(scope="session")
def postgres_url() -> Iterator[str]:
    """The URL of a server where databases may be made: `TEST_POSTGRES_URL`, else a server of our own."""
    if given := os.environ.get("TEST_POSTGRES_URL"):
        yield given
        return
    with own_server() as server:
        yield server.url()


@pytest.fixture
def database_url(postgres_url: str) -> Iterator[str]:
    """The URL of an empty database, for one test alone."""
    name = f"test_{uuid4().hex}"
    asyncio.run(run_sql(postgres_url, f"CREATE DATABASE {name}"))
    yield make_url(postgres_url).set(database=name).render_as_string(hide_password=False)
    asyncio.run(run_sql(postgres_url, f"DROP DATABASE {name} WITH (FORCE)"))


@pytest.fixture
def server() -> Iterator[Postgres]:
    """A server of our own for one test alone, which may do with it what it likes."""
    with own_server() as running:
        yield running
