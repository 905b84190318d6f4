"""Every LogQL query that a service ships is LogQL, by the grammar of Grafana's own editor."""

import shutil
import subprocess
from pathlib import Path

import needs
import pytest
import queries
from conftest import ROOT

pytestmark = pytest.mark.live

TOOL = ROOT / "tools" / "logql"


@pytest.fixture(scope="module")
def checker(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder with the grammar, installed."""
    needs.demand(needs.npm(), "Node.js for LogQL")
    folder = tmp_path_factory.mktemp("logql")
    for name in ("package.json", "check.js"):
        shutil.copy(TOOL / name, folder)
    command = ["npm", "install", "--no-package-lock", "--no-audit", "--no-fund", "--ignore-scripts", "--silent"]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return folder


def refused(checker: Path, asked: list[str]) -> list[str]:
    command = ["node", "check.js"]
    done = subprocess.run(
        command, cwd=checker, input="\n".join(asked), capture_output=True, text=True, check=True, timeout=60
    )
    return done.stdout.splitlines()


def test_every_query_is_logql(checker: Path, default_project: Path) -> None:
    sources = queries.data_sources(default_project)
    asked = [query for _, kind, query in queries.of_panels() if kind == "loki"]
    asked += [sources["jaeger"]["jsonData"]["tracesToLogsV2"]["query"].replace('["service.name"]', "")]
    asked += queries.of_documents(default_project)

    assert len(asked) > 8
    assert refused(checker, asked) == []


@pytest.mark.parametrize("query", ['{service="a"', '{service="a"} | json | =~ "b"', 'sum(rate({service="a"}))'])
def test_what_is_no_logql_is_refused(query: str, checker: Path) -> None:
    assert refused(checker, [query]) == [query]
