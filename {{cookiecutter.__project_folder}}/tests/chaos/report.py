"""The table of what the drills measured, in the documents between two marks."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from tests.chaos.spec import DrillError
from tools.compose import ROOT

DOCUMENT = ROOT / "docs" / "troubleshooting" / "GAME-DAY.md"
BEGIN, END = "<!-- drills: written by make drills-report -->", "<!-- drills: end -->"


def table(records: Iterable[Mapping[str, Any]]) -> str:
    """A row for each drill that was run whole and with its protection on, and how it ended without."""
    every = list(records)
    bare = {one["drill"]: one for one in every if not one["protected"]}
    rows = [one for one in every if one["protected"] and not one["short"]]
    lines = [
        "| Scenario | Drill | Detected | Impact | Recovered | Verdict | With the protection off |",
        "| --- | --- | --- | --- | --- | --- | --- |",
        *(_row(one, bare.get(one["drill"])) for one in sorted(rows, key=lambda one: (one["scenario"], one["drill"]))),
    ]
    machines = sorted({one["machine"].partition(", load")[0] for one in rows})
    return "\n".join([*lines, *([f"\nMeasured on {'; '.join(machines)}."] if machines else []), ""])


def _row(one: Mapping[str, Any], bare: Mapping[str, Any] | None) -> str:
    alerts = sorted(one["alerts"], key=lambda alert: float(alert["seen"]))
    began = one["phases"]["fault"][0]
    # Of several that bear one name, the first is the one that tells.
    first = {alert["name"]: alert["seen"] - began for alert in reversed(alerts)}
    named = sorted(first.items(), key=lambda each: each[1])
    detected = ", ".join(f"{name} after {seconds:.0f} s" for name, seconds in named) or "no alert"
    impact = f"{one['failed']} of {one['requests']} requests failed: {one['impact']}"
    recovered = one["recovered_after_seconds"]
    verdict = f"{'held' if one['held'] else 'failed'}, {one['date'][:10]}"
    if bare is None:
        without = "not tried"
    else:
        failed = [check["says"] for check in bare["checks"] if check["held"] is False and not check["precondition"]]
        without = f"{one['protection']} off: {'; '.join(failed) or 'held all the same'}"
    cells = (
        one["scenario"],
        f"`{one['drill']}`",
        detected,
        impact,
        "not while it was watched" if recovered is None else f"after {recovered:.0f} s",
        verdict,
        without,
    )
    return f"| {' | '.join(cells)} |"


def write_table(records: Iterable[Mapping[str, Any]], document: Path = DOCUMENT) -> Path:
    """Write it; return the document.

    Raises:
        DrillError: the document has no place for it.
    """
    text = document.read_text(encoding="utf-8")
    before, begin, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not (begin and end):
        raise DrillError(f"{document} has no lines {BEGIN} and {END}, between which the table stands")
    document.write_text(f"{before}{begin}\n{table(records)}{end}{after}", encoding="utf-8")
    return document
