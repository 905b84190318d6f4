"""All locks hold the same versions, with hashes, and are what the declarations compile to."""

import re
import shutil
import tomllib
from pathlib import Path

import lock
import pytest
from conftest import FOLDER, ROOT
from lock import DATABASES, DEVELOPMENT_LOCKS, LOCKS, SHARING, STARTS, compile_locks
from trees import PINS, pins


def packages(name: str) -> set[str]:
    return {package for package, _ in pins(name)}


@pytest.mark.parametrize("name", SHARING)
def test_a_lock_holds_the_shared_versions(name: str) -> None:
    assert pins(name) <= pins("constraints.txt")


@pytest.mark.parametrize("name", LOCKS[1:])
def test_a_lock_holds_a_hash_of_each_package(name: str) -> None:
    text = (ROOT / name).read_text(encoding="utf-8")
    locked = PINS.findall(text)

    assert locked
    # Each entry ends in a hash: the last of its lines is the one that no backslash continues.
    assert len(re.findall(r"--hash=sha256:[0-9a-f]{64}$", text, re.MULTILINE)) == len(locked)


def test_the_shared_versions_are_those_of_some_lock() -> None:
    assert set().union(*map(pins, SHARING)) == pins("constraints.txt")


@pytest.mark.parametrize("name", DEVELOPMENT_LOCKS.values())
def test_a_lock_names_the_extras_that_others_ask_for(name: str) -> None:
    # pip before 24 would install the newest version of such a package, and then miss its hash.
    assert "\ncoverage[toml]==" in (ROOT / name).read_text(encoding="utf-8")


def test_a_service_without_a_database_locks_none() -> None:
    with_one, without = (packages(DEVELOPMENT_LOCKS[database, False]) for database in ("postgresql", "none"))

    assert with_one - without == {"aiosqlite", "alembic", "asyncpg", "greenlet", "mako", "sqlalchemy"}
    assert without <= with_one


@pytest.mark.parametrize("database", DATABASES)
def test_a_service_without_load_tests_locks_nothing_for_them(database: str) -> None:
    with_them, without = (packages(DEVELOPMENT_LOCKS[database, load_tests]) for load_tests in (True, False))

    assert {"locust", "gevent", "geventhttpclient"} <= with_them - without
    assert without <= with_them


@pytest.mark.parametrize("name", LOCKS)
def test_a_lock_names_no_registry_and_no_folder(name: str) -> None:
    assert not re.search(r"https?://|--index-url|--find-links|/tmp", (ROOT / name).read_text(encoding="utf-8"))


def test_the_service_supports_the_pythons_the_template_does() -> None:
    ours = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["requires-python"]

    assert f'requires-python = "{ours}"' in (ROOT / FOLDER / "pyproject.toml").read_text(encoding="utf-8")


def test_every_lock_is_refreshed_from_where_its_versions_start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in LOCKS:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, tmp_path / name)
    monkeypatch.setattr(lock, "ROOT", tmp_path)
    monkeypatch.setattr(lock, "_generate", lambda folder, *_: folder / "pyproject.toml")
    monkeypatch.setattr(lock, "_compile", _note_what_is_there)

    lock.refresh()

    found = {name: (tmp_path / name).read_text(encoding="utf-8") for name in LOCKS}
    assert found == {name: "went on" if name in STARTS else "began anew" for name in LOCKS}


def _note_what_is_there(output: Path, *_: str) -> None:
    output.write_text("went on" if output.exists() else "began anew", encoding="utf-8")


@pytest.mark.ci
def test_the_locks_are_what_the_declarations_compile_to(tmp_path: Path) -> None:
    compile_locks(tmp_path)

    for name in LOCKS:
        assert (tmp_path / name).read_text() == (ROOT / name).read_text(), f"{name} is out of date: run `make lock`"
