"""Draw a run: `python -m tests.load.plot reports/load_stats_history.csv reports/load.svg`.

The file is what Locust writes with `--csv` and `--csv-full-history`: some lines each second.
"""

import csv
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

from tests.load.gate import Objectives

WIDTH, HEIGHT, LEFT, TOP = 640, 150, 60, 30


class Second(NamedTuple):
    """What was seen in one second; latencies in milliseconds."""

    at: float
    requests: float
    failures: float
    median: float
    slow: float


class Line(NamedTuple):
    """A line in a panel."""

    name: str
    color: str
    values: Sequence[float]


def read(path: Path) -> list[Second]:
    """The seconds of a run, from its first request on."""
    with path.open(encoding="utf-8", newline="") as lines:
        rows = [row for row in csv.DictReader(lines) if row["Name"] == "Aggregated" and row["99%"] != "N/A"]
    return [
        Second(
            float(row["Timestamp"]) - float(rows[0]["Timestamp"]),
            *(float(row[name]) for name in ("Requests/s", "Failures/s", "50%", "99%")),
        )
        for row in rows
    ]


def draw(seconds: Sequence[Second], threshold: float) -> str:
    """Two panels, one below the other: requests, and how long they took."""
    times = [second.at for second in seconds]
    rates = [
        Line("requests a second", "#1f6feb", [second.requests for second in seconds]),
        Line("failures a second", "#cf222e", [second.failures for second in seconds]),
    ]
    latencies = [
        Line("median, ms", "#1f6feb", [second.median for second in seconds]),
        Line("99 %, ms", "#8250df", [second.slow for second in seconds]),
        Line("objective, ms", "#9a6700", [threshold] * len(seconds)),
    ]
    height = 2 * (HEIGHT + 2 * TOP)
    head = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {LEFT + WIDTH + 20} {height}"'
    return "\n".join(
        (
            f'{head} font-family="sans-serif" font-size="12">',
            f'<rect width="100%" height="{height}" fill="#ffffff"/>',
            *_panel(times, rates, TOP),
            *_panel(times, latencies, HEIGHT + 3 * TOP),
            "</svg>\n",
        )
    )


def _panel(times: Sequence[float], lines: Sequence[Line], top: float) -> Iterable[str]:
    highest = max(max(line.values) for line in lines) or 1
    last = times[-1] or 1
    yield f'<rect x="{LEFT}" y="{top}" width="{WIDTH}" height="{HEIGHT}" fill="none" stroke="#d0d7de"/>'
    for share in (0, 0.5, 1):
        x, y = LEFT + WIDTH * share, top + HEIGHT * (1 - share)
        yield f'<text x="{LEFT - 6}" y="{y + 4:g}" text-anchor="end">{highest * share:.3g}</text>'
        yield f'<text x="{x:g}" y="{top + HEIGHT + 16:g}" text-anchor="middle">{last * share:.0f} s</text>'
    for number, line in enumerate(lines):
        points = " ".join(
            f"{LEFT + WIDTH * at / last:.1f},{top + HEIGHT * (1 - value / highest):.1f}"
            for at, value in zip(times, line.values, strict=True)
        )
        yield f'<polyline points="{points}" fill="none" stroke="{line.color}" stroke-width="1.5"/>'
        yield f'<text x="{LEFT + 160 * number:g}" y="{top - 8:g}" fill="{line.color}">{line.name}</text>'


if __name__ == "__main__":
    history, picture = map(Path, sys.argv[1:])
    picture.write_text(draw(read(history), Objectives.read().latency_threshold_ms), encoding="utf-8")
