"""The golden signals of a drill over time, as an SVG of our own: no library for lines and rectangles."""

from collections.abc import Iterable, Mapping, Sequence
from html import escape
from itertools import pairwise
from typing import Any

WIDTH, LEFT, RIGHT = 860, 70, 20
PANEL, GAP, TOP = 120, 34, 46
GOOD, REFUSED, FAILED, INK, SHADE = "#2c7fb8", "#fdae61", "#d7191c", "#333", "#f3e9d8"
COUNTED = {"good": GOOD, "refused": REFUSED, "failed": FAILED}
TIMED = {"p50_ms": ("median", GOOD), "p99_ms": ("99th percentile", FAILED)}


class _Axes:
    """One panel: where a second and a value are in it."""

    def __init__(self, index: int, end: float, top: float) -> None:
        self.y0 = TOP + index * (PANEL + GAP)
        self._end = end
        self.top = top or 1.0

    def x(self, second: float) -> float:
        return LEFT + (WIDTH - LEFT - RIGHT) * second / self._end

    def y(self, value: float) -> float:
        return self.y0 + PANEL * (1 - min(value, self.top) / self.top)

    def frame(self, title: str, unit: str, legend: Iterable[tuple[str, str]]) -> Iterable[str]:
        known = "".join(f' <tspan fill="{color}">■</tspan> {name}' for name, color in legend)
        yield f'<text x="{LEFT}" y="{self.y0 - 6}"><tspan font-weight="bold">{title}</tspan>{known}</text>'
        for share in (0.0, 0.5, 1.0):
            y = self.y(self.top * share)
            yield f'<line x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y:.1f}" y2="{y:.1f}" stroke="#ddd"/>'
            yield _text(LEFT - 6, y + 4, f"{self.top * share:g}{unit}", anchor="end")


def picture(kept: Mapping[str, Any]) -> str:
    """The picture of a record."""
    seconds: Sequence[Mapping[str, Any]] = kept["seconds"]
    end = float(max(len(seconds), 1))
    counts = _Axes(0, end, _nice(max((sum(s[kind] for kind in COUNTED) for s in seconds), default=1)))
    times = _Axes(1, end, _nice(max((s["p99_ms"] or 0 for s in seconds), default=1)))
    alerts = sorted(kept["alerts"], key=lambda one: float(one["seen"]))
    rows = len(alerts) + 2
    height = TOP + 2 * (PANEL + GAP) + 18 * rows + 40
    begin, stop = kept["phases"]["fault"]
    band = f'x="{counts.x(begin):.1f}" width="{counts.x(stop) - counts.x(begin):.1f}"'
    size = f'width="{WIDTH}" height="{height}" viewBox="0 0 {WIDTH} {height}"'
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" {size} font-family="sans-serif" font-size="11" fill="{INK}">',
        f'<rect width="{WIDTH}" height="{height}" fill="white"/>',
        f'<rect {band} y="{TOP}" height="{height - TOP - 40}" fill="{SHADE}"/>',
        _text(LEFT, 16, f"{kept['title']} - {'held' if kept['held'] else 'failed'}", weight="bold"),
        *counts.frame("requests a second", "", COUNTED.items()),
        *_bars(counts, seconds),
        *times.frame("time of answers", " ms", TIMED.values()),
        *(_line(times, seconds, key, color) for key, (_, color) in reversed(TIMED.items())),
        *_rows(kept, alerts, counts, TOP + 2 * (PANEL + GAP), end),
        *(_tick(counts, second, height - 22) for second in _ticks(end)),
        "</svg>",
    ]
    return "\n".join(parts) + "\n"


def _bars(axes: _Axes, seconds: Sequence[Mapping[str, Any]]) -> Iterable[str]:
    width = axes.x(1) - axes.x(0)
    for second, counted in enumerate(seconds):
        below = 0.0
        for kind, color in COUNTED.items():
            if count := counted[kind]:
                top, bottom = axes.y(below + count), axes.y(below)
                yield (
                    f'<rect x="{axes.x(second):.1f}" y="{top:.1f}" width="{width:.2f}" '
                    f'height="{bottom - top:.1f}" fill="{color}"/>'
                )
                below += count


def _line(axes: _Axes, seconds: Sequence[Mapping[str, Any]], key: str, color: str) -> str:
    points = " ".join(
        f"{axes.x(second + 0.5):.1f},{axes.y(counted[key]):.1f}"
        for second, counted in enumerate(seconds)
        if counted[key] is not None
    )
    return f'<polyline points="{points}" fill="none" stroke="{color}" stroke-width="1.2"/>'


def _rows(
    kept: Mapping[str, Any], alerts: Sequence[Mapping[str, Any]], axes: _Axes, top: float, end: float
) -> Iterable[str]:
    """A bar for each probe while it fails, and for each alert while it fires."""
    looks = kept["live"]
    bars: list[tuple[str, list[tuple[float, float]], str]] = [
        (name, [(look[0], after[0]) for look, after in pairwise([*looks, [end]]) if not look[column]], color)
        for name, column, color in (("not live", 1, FAILED), ("not ready", 2, REFUSED))
    ]
    bars += [
        (
            f"{one['name']} ({one['severity']}{', ' if one['window'] else ''}{one['window']})",
            [(float(one["seen"]), end if one["ended"] is None else float(one["ended"]))],
            FAILED if one["severity"] == "page" else REFUSED,
        )
        for one in alerts
    ]
    for number, (name, spans, color) in enumerate(bars):
        y = top + 18 * number
        for start, stop in spans:
            width = max(1.0, axes.x(stop) - axes.x(start))
            # Pale, as the name is written across it.
            place = f'x="{axes.x(start):.1f}" y="{y:.1f}" width="{width:.1f}" height="13"'
            yield f'<rect {place} fill="{color}" opacity="0.5" shape-rendering="crispEdges"/>'
        yield _text(LEFT + 2, y + 11, name)


def _nice(top: float) -> float:
    """The next number with one digit of its own."""
    size = 10.0 ** (len(str(int(max(top, 1)))) - 1)
    return float(next(size * factor for factor in (1, 2, 5, 10) if size * factor >= top))


def _ticks(end: float) -> range:
    step = next(step for step in (10, 20, 30, 60, 120, 300, 600) if end / step <= 12 or step == 600)
    return range(0, int(end) + 1, step)


def _tick(axes: _Axes, second: float, y: float) -> str:
    return _text(axes.x(second), y, f"{second:g} s", anchor="middle")


def _text(x: float, y: float, text: str, *, anchor: str = "start", weight: str = "normal") -> str:
    place = f'x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" font-weight="{weight}"'
    return f"<text {place}>{escape(text)}</text>"
