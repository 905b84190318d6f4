"""Results as Markdown and as a plot."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from xml.sax.saxutils import escape

from figures import SAME, UNDISTURBED, Costs, Results, Spread, same, with_routes
from servers import BARE, ROUTES_ONLY, SERVICE, SERVICE_ALL, USUAL, USUAL_ALL

MIB = 1024 * 1024


@dataclass(frozen=True)
class Bar:
    """A promise of the template, and what came of it.

    Args:
        figure: what was promised.
        measured: what was measured, as people read it.
        bar: the promise.
        met: whether it was kept.
    """

    figure: str
    measured: str
    bar: str
    met: bool


def bars(results: Results) -> list[Bar]:
    """Every promise that this run can judge."""
    return [*_speed_bars(results), *_other_bars(results)]


def _speed_bars(results: Results) -> Iterable[Bar]:
    for figure, server, than, bar in (
        ("service ÷ bare FastAPI, 10 % sampling", SERVICE, BARE, 1.0),
        ("service ÷ bare FastAPI, 100 %", SERVICE_ALL, BARE, 0.7),
        ("service ÷ the same routes and server flags without telemetry, 10 %", SERVICE, ROUTES_ONLY, 0.85),
        ("service ÷ the same routes and server flags without telemetry, 100 %", SERVICE_ALL, ROUTES_ONLY, 0.6),
        ("service ÷ the usual stack, 10 %", SERVICE, USUAL, 5.0),
        ("service ÷ the usual stack, 100 %", SERVICE_ALL, USUAL_ALL, 4.0),
    ):
        # Each kind of request has to meet it.
        speeds = {kind: costs.speed(server.name, than.name) for kind, costs in results.requests.items()}
        if speeds:
            measured = ", ".join(f"{kind} {_spread(speed)}" for kind, speed in speeds.items())
            yield Bar(figure, measured, f"≥ {bar:.2f}", min(speed.median for speed in speeds.values()) >= bar)


def _other_bars(results: Results) -> Iterable[Bar]:
    if rounds := results.latencies:
        for server, sampling in ((SERVICE, "10 %"), (SERVICE_ALL, "100 %")):
            ratio = Spread.of(a.p99 / b.p99 for a, b in zip(rounds[server.name], rounds[BARE.name], strict=True))
            figure = f"p99 at 200 requests a second ÷ bare FastAPI's, {sampling} sampling"
            yield _at_most(figure, _spread(ratio), ratio.median, 1.2)
    if results.routes:
        few, many = ((with_routes(SERVICE.name, n), with_routes(ROUTES_ONLY.name, n)) for n in (5, 100))
        growth = results.routes.growth(few, many)
        figure = "telemetry's extra cost a request, 5 → 100 routes"
        yield _at_most(figure, _spread(growth, " µs", 1), growth.median, 10, " µs")
    if results.memory:
        least = results.memory[BARE.name]
        over = Spread.of((used - least[after]) / MIB for after, used in results.memory[SERVICE.name].items())
        figure = "resident memory over bare FastAPI's, at its worst"
        yield _at_most(figure, f"{over.high:.1f} MiB", over.high, 16, " MiB")
    if starts := results.starts:
        over = Spread.of(1000 * (a - b) for a, b in zip(starts[SERVICE.name], starts[BARE.name], strict=True))
        yield _at_most("cold start over bare FastAPI's", _spread(over, " ms", 0), over.median, 250, " ms")
    if spans := results.spans:
        yield _at_most("spans neither exported nor counted", f"{spans.missing} of {spans.requests}", spans.missing, 0)


def _at_most(figure: str, measured: str, value: float, limit: float, unit: str = "") -> Bar:
    return Bar(figure, measured, f"≤ {limit:g}{unit}", value <= limit)


def markdown(results: Results, facts: Sequence[str]) -> str:
    """All that was measured, as sections of a page.

    Args:
        results: of a run.
        facts: lines about the machine, the versions and the run.
    """
    sections = [
        _verdict(results),
        *_costs_of_requests(results),
        *_costs_of_routes(results),
        *_by("Connections", "", results.connections),
        *_by("Size of the response", " bytes", results.payloads),
        *_latency(results),
        *_memory(results),
        *_starts(results),
        *_spans(results),
        "### This run\n\n" + "\n".join(f"- {fact}" for fact in facts),
    ]
    return "\n\n".join(sections) + "\n"


def _verdict(results: Results) -> str:
    rows = [(bar.figure, bar.measured, bar.bar, "met" if bar.met else "**missed**") for bar in bars(results)]
    text = "### Bars\n\n" + table(("Figure", "Measured", "Bar", ""), rows)
    checks = results.checks()
    if untrue := {name: check for name, check in checks.items() if not same(check)}:
        which = ", ".join(f"{name} {_spread(check)}" for name, check in untrue.items())
        text += (
            f"\n\n**Do not trust this run: a second copy of the baseline must cost {SAME[0]} to {SAME[1]} times the "
            f"first, and did not: {which}.**"
        )
    elif checks:
        low, high = (pick(check.median for check in checks.values()) for pick in (min, max))
        text += f"\n\nA second copy of the baseline in each comparison (A/A) was at {low:.3f} to {high:.3f}."
    shares = [share for costs in results.requests.values() for share in costs.share]
    if shares and (others := 1 - median(shares)) > 1 - UNDISTURBED:
        text += (
            f"\n\n**The machine was not idle: {others:.0%} of the servers' core went to others. Ratios of CPU time "
            "bear that; latencies, starts and differences in µs do not.**"
        )
    return text


def _costs_of_requests(results: Results) -> Iterable[str]:
    if not results.requests:
        return
    kinds = list(results.requests)
    rows = [
        (server, *(_cost(results.requests[kind], server) for kind in kinds))
        for server in next(iter(results.requests.values())).of
    ]
    yield "### CPU time a request\n\n" + table(("µs, and speed ÷ bare FastAPI", *kinds), rows)


def _costs_of_routes(results: Results) -> Iterable[str]:
    costs = results.routes
    if costs is None:
        return
    named = [name.rpartition(", ") for name in costs.of]
    numbers = list(dict.fromkeys(number for *_, number in named))
    rows = [
        (server, *(f"{costs.micros(f'{server}, {number}'):.0f}" for number in numbers))
        for server in dict.fromkeys(server for server, *_ in named)
    ]
    yield "### Number of routes\n\n" + table(("µs, for the last one", *numbers), rows)


def _by(title: str, unit: str, found: Mapping[int, Costs]) -> Iterable[str]:
    if not found:
        return
    servers = list(next(iter(found.values())).of)
    rows = [(server, *(_cost(costs, server) for costs in found.values())) for server in servers]
    yield f"### {title}\n\n" + table(("µs, and speed ÷ bare FastAPI", *(f"{number}{unit}" for number in found)), rows)


def _latency(results: Results) -> Iterable[str]:
    if not results.latencies:
        return
    rows = [
        (server, _milliseconds(one.p50 for one in rounds), _milliseconds(one.p99 for one in rounds))
        for server, rounds in results.latencies.items()
    ]
    yield "### Latency at 200 requests a second\n\n" + table(("ms", "p50", "p99"), rows)


def _memory(results: Results) -> Iterable[str]:
    if not results.memory:
        return
    after = list(next(iter(results.memory.values())))
    rows = [(server, *(f"{used[number] / MIB:.1f}" for number in after)) for server, used in results.memory.items()]
    yield "### Resident memory\n\n" + table(("MiB after", *(f"{number} requests" for number in after)), rows)


def _starts(results: Results) -> Iterable[str]:
    if results.starts:
        rows = [(server, _milliseconds(each)) for server, each in results.starts.items()]
        yield "### Cold start\n\n" + table(("ms", "From exec to the first 200"), rows)


def _spans(results: Results) -> Iterable[str]:
    if spans := results.spans:
        yield (
            "### Spans at saturation\n\n"
            f"{spans.requests} requests, each of them sampled: {spans.received} spans arrived, "
            f"{spans.counted_as_lost} were "
            f'counted in `telemetry_dropped_total{{signal="spans"}}`, {spans.missing} were neither.'
        )


def _milliseconds(seconds: Iterable[float]) -> str:
    return _spread(Spread.of(1000 * one for one in seconds), digits=1)


def _cost(costs: Costs, server: str) -> str:
    text = f"{costs.micros(server):.0f}"
    return text if server == costs.baseline else f"{text}, {_spread(costs.speed(server))}"


def _spread(spread: Spread, unit: str = "", digits: int = 3) -> str:
    return f"{spread.median:.{digits}f}{unit} [{spread.low:.{digits}f}..{spread.high:.{digits}f}]"


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table in Markdown."""
    return "\n".join(f"| {' | '.join(row)} |" for row in (head, ["---"] * len(head), *rows))


# Each has a contrast of at least 4 on white and on GitHub's dark background (WCAG 2.1, section 1.4.11 asks for 3).
TEXT = "#767d86"
COLOURS = {"bare": "#767d86", "service": "#1f83c4", "usual": "#c2632f"}


def plot(costs: Costs, title: str) -> str:
    """Bars of CPU time a request, as SVG."""
    micros = {server: costs.micros(server) for server in costs.of}
    longest = max(micros.values())
    width, left, right, line = 760, 210, 90, 30
    rows = []
    for index, (server, value) in enumerate(micros.items()):
        y = 44 + index * line
        length = (width - left - right) * value / longest
        colour = next((colour for word, colour in COLOURS.items() if server.startswith(word)), COLOURS["bare"])
        rows += [
            f'<text x="{left - 10}" y="{y + 15}" text-anchor="end">{escape(server)}</text>',
            f'<rect x="{left}" y="{y}" width="{length:.1f}" height="20" rx="2" fill="{colour}"/>',
            f'<text x="{left + length + 8:.1f}" y="{y + 15}">{value:.0f} µs</text>',
        ]
    body = "\n".join(f"  {row}" for row in rows)
    height = 44 + len(micros) * line + 6
    return f"""\
<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" height="{height}" role="img"
     font-family="system-ui, sans-serif" font-size="14" fill="{TEXT}">
  <title>{escape(title)}</title>
  <text x="{left}" y="24" font-weight="600">{escape(title)}</text>
{body}
</svg>
"""


def summary(results: Results) -> str:
    """One line: how many bars were met."""
    judged = bars(results)
    return f"{sum(bar.met for bar in judged)} of {len(judged)} bars met"
