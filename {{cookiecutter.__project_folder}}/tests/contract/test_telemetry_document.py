"""docs/architecture/TELEMETRY.md says what the service does."""

import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest

from app.core.telemetry import Telemetry
from tests.kinds import KINDS, Kind
from tests.observe import Observed, write_request
from tests.otlp import Collector
from tests.support import ROOT, wait_for

DOCUMENT = (ROOT / "docs" / "architecture" / "TELEMETRY.md").read_text(encoding="utf-8")

HEAD = ("Request", "For example", "`route`", "`status`", "`incomplete`", "Exception", "Other lines")


def blocks(language: str) -> list[str]:
    """The code blocks of the document that are in this language."""
    return re.findall(rf"^```{language}\n(.*?)^```$", DOCUMENT, re.MULTILINE | re.DOTALL)


def row(kind: Kind) -> tuple[str, ...]:
    """A kind as a row of the table."""
    if "status" in kind.otherwise:
        kind = kind.dispatched()
    others = dict.fromkeys(event for event in (*kind.besides, *(["websocket closed"] if kind.closed else [])))
    return (
        kind.name,
        f"`{kind.request if len(kind.request) < 50 else kind.request[:20] + '...'}`",
        "" if kind.route is None else f"`{kind.route}`",
        str(kind.status),
        kind.incomplete or (kind.closed and kind.closed[1]) or "",
        f"`{kind.error}`" if kind.error else "",
        ", ".join(event for event in others if event != "request"),
    )


def test_the_table_has_every_kind_of_request_and_what_is_seen_of_it() -> None:
    rows = [HEAD, ("---",) * len(HEAD), *(row(kind) for kind in KINDS)]

    table = "\n".join(" ".join(["|", *(f"{cell} |" if cell else "|" for cell in cells)]) for cells in rows)

    assert table in DOCUMENT, f"the table ought to be\n{table}"


def test_the_list_of_metrics_is_complete(app: Telemetry) -> None:
    listed = set(re.findall(r"^\| `([a-z_]+)` \|", DOCUMENT, re.MULTILINE))
    emitted = {
        f"{family.name}_total" if family.type == "counter" else family.name for family in app.metrics.registry.collect()
    }

    # This application has no pool.
    assert listed - {"db_pool_connections"} == {
        name for name in emitted if not name.startswith(("process_", "python_"))
    }


@pytest.fixture
def changed(tmp_path: Path) -> Path:
    """A copy of the service in which the document's change was made."""
    (diff,) = blocks("diff")
    lines = diff.splitlines(keepends=True)
    path = lines[1].removeprefix("+++ b/").strip()
    before = "".join(line[1:] for line in lines[3:] if not line.startswith("+"))
    after = "".join(line[1:] for line in lines[3:] if not line.startswith("-"))
    shutil.copytree(ROOT / "app", tmp_path / "app")
    source = (tmp_path / path).read_text(encoding="utf-8")
    assert source.count(before) == 1
    (tmp_path / path).write_text(source.replace(before, after), encoding="utf-8")
    return tmp_path


def test_a_route_is_added_without_a_line_of_telemetry_and_leaves_what_the_document_shows(changed: Path) -> None:
    before, after = blocks("text")
    line, attributes = (json.loads(block) for block in blocks("json"))
    with Collector() as collector:
        service = Observed(changed, collector, module="app", PYTHONPATH=str(changed), OTEL_TRACES_SAMPLER="always_on")
        try:
            at_the_start = service.scrape().text
            answer = service.ask(
                write_request(
                    "GET",
                    line["path"],
                    "Connection: close",
                    f"X-Correlation-ID: {line['correlation_id']}",
                    f"User-Agent: {attributes['user_agent.original']}",
                )
            )
            (received,) = collector.wait_for(1)
            lines: list[dict[str, Any]] = []

            def told() -> bool:
                lines.extend(service.written())
                return "request" in {one["event"] for one in lines}

            wait_for(told, "there is no access line")
            at_the_end = service.scrape().text
        finally:
            service.kill()

    assert answer.status == line["status"]
    assert set(before.splitlines()) <= set(at_the_start.splitlines())
    assert set(after.splitlines()) <= set(at_the_end.splitlines())
    lines = [one for one in lines if one["event"] == "request"]
    varying: dict[str, Any] = {
        name: lines[0][name] for name in ("timestamp", "trace_id", "span_id", "duration_ms", "version")
    }
    assert lines == [line | varying]
    assert list(lines[0]) == list(line)
    assert received.attributes == attributes
    assert f"the span `{received.span.name}`" in DOCUMENT
