"""Draw `docs/pictures/burn-rate.svg`: how fast a bad version spent the error budget in the drill of `docs/drills`."""

import json
import math
from collections.abc import Mapping, Sequence
from html import escape
from itertools import accumulate
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
DRILL = ROOT / "docs" / "drills" / "bad-deploy.json"
PICTURE = ROOT / "docs" / "pictures" / "burn-rate.svg"

# The first page of the workbook: https://sre.google/workbook/alerting-on-slos/, table 5-8.
ALERT, SHORT, LONG, FACTOR = "AvailabilityErrorBudgetBurn", 300, 3600, 14.4

# Each has a contrast of at least 3 on white and on GitHub's dark background (WCAG 2.1, section 1.4.11).
INK, SHORT_INK, LONG_INK, LIMIT_INK = "#767d86", "#1f83c4", "#c2632f", "#cf222e"
WIDTH, HEIGHT, LEFT, RIGHT, TOP, BOTTOM = 760, 320, 60, 740, 56, 268
LEAST, DECADES = 0.1, 4


def burn_rates(seconds: Sequence[Mapping[str, Any]], window: int, budget: float) -> list[float]:
    """How many times too fast the budget went, at each second; where nothing was sent, nothing was spent.

    Args:
        seconds: the requests of each second that were good, failed and refused.
        window: so many seconds are looked back.
        budget: the share of requests that may fail.
    """
    bad = [0, *accumulate(one["failed"] + one["refused"] for one in seconds)]
    sent = [0, *accumulate(one["good"] + one["failed"] + one["refused"] for one in seconds)]
    rates = []
    for end in range(1, len(sent)):
        begin = max(0, end - window)
        asked = sent[end] - sent[begin]
        rates.append((bad[end] - bad[begin]) / asked / budget if asked else 0.0)
    return rates


def draw(drill: Mapping[str, Any], objective: float) -> str:
    """Both windows of the first page over the time of a drill, and when it fired; on a logarithmic scale.

    Args:
        drill: what its runner wrote.
        objective: the share of requests that must not fail, in percent.
    """
    end = len(drill["seconds"])
    begin, stop = drill["phases"]["fault"]
    page = next(one for one in drill["alerts"] if (one["name"], one["window"]) == (ALERT, "1h"))
    over = end if page["ended"] is None else page["ended"]

    def x(second: float) -> float:
        return LEFT + (RIGHT - LEFT) * second / end

    def y(rate: float) -> float:
        return BOTTOM - (BOTTOM - TOP) * min(math.log10(max(rate, LEAST) / LEAST) / DECADES, 1)

    def curve(window: int, ink: str) -> str:
        rates = burn_rates(drill["seconds"], window, 1 - objective / 100)
        points = " ".join(f"{x(second + 1):.1f},{y(rate):.1f}" for second, rate in enumerate(rates))
        return f'<polyline points="{points}" fill="none" stroke="{ink}" stroke-width="2"/>'

    def level(rate: float, style: str) -> str:
        return f'<path d="M{LEFT} {y(rate):.1f}H{RIGHT}" {style}/>'

    def box(start: float, finish: float, top: float, bottom: float, style: str) -> str:
        return f'<path d="M{x(start):.1f} {top}H{x(finish):.1f}V{bottom}H{x(start):.1f}Z" {style}/>'

    title = f"{drill['title']}: how many times too fast the error budget goes"
    grid = [LEAST * 10**decade for decade in range(DECADES + 1)]
    parts = [
        box(begin, stop, TOP, BOTTOM, f'fill="{INK}" opacity="0.2"'),
        text(x(begin) + 4, TOP + 14, "bad version", INK),
        *(level(rate, f'stroke="{INK}" opacity="0.3"') for rate in grid),
        *(text(LEFT - 8, y(rate) + 4, f"{rate:g}", INK, "end") for rate in grid),
        level(FACTOR, f'stroke="{LIMIT_INK}" stroke-dasharray="6 4"'),
        text(RIGHT, y(FACTOR) - 6, f"{FACTOR}: with both above it, it pages", LIMIT_INK, "end"),
        curve(SHORT, SHORT_INK),
        curve(LONG, LONG_INK),
        text(LEFT, 42, "within 5 min", SHORT_INK),
        text(LEFT + 110, 42, "within 1 h, or since the drill began", LONG_INK),
        box(page["seen"], over, BOTTOM + 6, BOTTOM + 20, f'fill="{LIMIT_INK}"'),
        text(LEFT, BOTTOM + 40, f"The alert fires {page['seen'] - begin:.0f} s after the bad version came.", LIMIT_INK),
        text(RIGHT, BOTTOM + 40, f"{end / 60:.0f} min", INK, "end"),
    ]
    body = "\n".join(f"  {part}" for part in parts)
    return f"""\
<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" width="{WIDTH}" height="{HEIGHT}" role="img"
     font-family="system-ui, sans-serif" font-size="13">
  <title>{escape(title)}</title>
  <text x="{LEFT}" y="20" font-weight="600" fill="{INK}">{escape(title)}</text>
{body}
</svg>
"""


def text(across: float, down: float, words: str, ink: str, anchor: str = "start") -> str:
    """A line of text."""
    return f'<text x="{across:.1f}" y="{down:.1f}" fill="{ink}" text-anchor="{anchor}">{escape(words)}</text>'


def main() -> None:
    """Draw it."""
    prompts = json.loads((ROOT / "cookiecutter.json").read_text(encoding="utf-8"))
    drill = json.loads(DRILL.read_text(encoding="utf-8"))
    PICTURE.write_text(draw(drill, float(prompts["slo_availability"])), encoding="utf-8")


if __name__ == "__main__":
    main()
