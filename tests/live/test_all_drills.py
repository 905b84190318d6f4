"""Every drill of the stack, whole, with and without its protection, as `make drills` of a service runs them.

By hand, on an idle machine: an hour. What they saw is committed.
"""

import json
import subprocess
from collections.abc import Iterator
from typing import Any

import drill_results
import pytest
from conftest import FOLDER, ROOT
from services import python_of
from stack import Stack, for_drills

pytestmark = pytest.mark.drills

FILES = sorted((ROOT / FOLDER / "tests" / "chaos" / "drills").glob("*.toml"))
DRILLS = [file.stem for file in FILES if 'scope = "cluster"' not in file.read_text(encoding="utf-8")]


@pytest.fixture(scope="module")
def stack(cookies_session: Any) -> Iterator[Stack]:
    """A service that is drilled."""
    yield from for_drills(cookies_session)


@pytest.mark.parametrize("name", DRILLS)
def test_a_drill_holds_with_its_protection_and_fails_without(stack: Stack, name: str) -> None:
    done = stack.make("drill", f"DRILL={name}", "FLAGS=--both")

    drill_results.keep(stack.project)
    assert done.returncode == 0, f"{done.stdout}{done.stderr}"


def test_the_table_is_written_from_what_was_seen(stack: Stack) -> None:
    python = python_of(stack.project)
    script = "import json, sys; from tests.chaos.report import table; print(table(json.load(sys.stdin)), end='')"
    said = json.dumps(drill_results.records())
    done = subprocess.run(
        [python, "-c", script], cwd=stack.project, input=said, capture_output=True, text=True, check=True
    )

    drill_results.write(done.stdout)
    assert "| --- |" in done.stdout
