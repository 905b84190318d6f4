"""Whether the hypothesis of a drill held, by arithmetic on what was seen."""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

from app.core.config import Slo
from tests.chaos.observe import Fired, Look
from tests.chaos.spec import Bound, Drill, Measure, Phase
from tests.chaos.traffic import Sample

# So long without a failure, and the service counts as well again.
CALM_SECONDS = 5.0

# A generator that is later than this measures itself.
LATE_SECONDS = 0.1


@dataclass(frozen=True)
class Span:
    """A stretch of time, in seconds of the drill's clock."""

    start: float
    end: float

    def holds(self, moment: float) -> bool:
        return self.start <= moment < self.end


@dataclass(frozen=True)
class Seen:
    """All that was seen.

    Args:
        phases: when each was.
        samples: the requests.
        looks: probes and metrics.
        fired: alerts.
        watched: whether there was a Prometheus to ask.
        replicas: how many replicas there were, and when.
        pages_as: the severity of what would page in production.
    """

    phases: Mapping[Phase, Span]
    samples: Sequence[Sample]
    looks: Sequence[Look]
    fired: Sequence[Fired] = ()
    watched: bool = True
    replicas: Sequence[tuple[float, int]] = ()
    pages_as: str = "page"


@dataclass(frozen=True)
class Check:
    """One sentence, and whether it is true.

    Args:
        says: the sentence.
        measured: what was seen, for people.
        wanted: what should have been.
        held: whether it was. None: it could not be judged here.
        precondition: whether it is about the run: where it is false, nothing is known of the service.
    """

    says: str
    measured: str
    wanted: str
    held: bool | None
    precondition: bool = False


def judge(drill: Drill, seen: Seen, slo: Slo) -> list[Check]:
    """Every check of a drill."""
    checks = [_punctual(seen), _steady(seen, slo), *(_bound(bound, seen, slo) for bound in drill.bounds)]
    if not seen.watched:
        says = "the alerts that have to fire"
        return [*checks, Check(says, "nobody watched: this stack has no Prometheus", _names(drill), held=None)]
    return [*checks, *_alerts(drill, seen)]


def held(checks: Iterable[Check]) -> bool:
    """Whether none of them is false."""
    return all(check.held is not False for check in checks)


def refuted(checks: Iterable[Check]) -> bool:
    """Whether a run that tells of the service saw the hypothesis fail."""
    every = list(checks)
    return all(check.held for check in every if check.precondition) and not held(every)


def _names(drill: Drill) -> str:
    return ", ".join(alert.name for alert in drill.alerts) or "none"


def _punctual(seen: Seen) -> Check:
    """A generator that lacks CPU time sees answers late: that says nothing about the service."""
    late = percentile((one.late for one in seen.samples), 0.99)
    return Check(
        "requests were sent when they were due, so that times are those of the service",
        f"99 % at most {1000 * late:.0f} ms late" if not math.isnan(late) else "nothing was sent",
        f"at most {1000 * LATE_SECONDS:.0f} ms late",
        held=late <= LATE_SECONDS,
        precondition=True,
    )


def _steady(seen: Seen, slo: Slo) -> Check:
    """A service that was not well before says nothing about the fault."""
    span = seen.phases[Phase.STEADY]
    availability, p99 = (_measure(measure, span, seen) for measure in (Measure.AVAILABILITY, Measure.ADMITTED_P99))
    firing = sorted({one.name for one in seen.fired if one.severity == "page" and span.holds(one.seen)})
    well = availability >= slo.availability_percent and p99 <= slo.latency_threshold_ms and not firing
    pages = f", pages: {', '.join(firing)}" if firing else ""
    return Check(
        "before the fault the service keeps its objectives",
        f"{_shown(Measure.AVAILABILITY, availability)}, p99 {_shown(Measure.P99, p99)}{pages}",
        f"at least {slo.availability_percent:g} %, p99 at most {slo.latency_threshold_ms} ms",
        held=well,
        precondition=True,
    )


def _bound(bound: Bound, seen: Seen, slo: Slo) -> Check:
    phase = seen.phases[bound.phase]
    span = Span(min(phase.end, phase.start + bound.from_seconds), phase.end)
    value = _measure(bound.measure, span, seen)
    given = bound.at_most if bound.at_most is not None else bound.at_least
    objective = slo.availability_percent if bound.measure is Measure.AVAILABILITY else slo.latency_threshold_ms
    limit = float(objective) if given == "objective" else float(given or 0)
    above = bound.at_most is not None
    good = value <= limit if above else value >= limit
    return Check(
        bound.says,
        _shown(bound.measure, value),
        f"{'at most' if above else 'at least'} {_shown(bound.measure, limit)}",
        held=good and not math.isnan(value),
    )


def _alerts(drill: Drill, seen: Seen) -> Iterable[Check]:
    began = seen.phases[Phase.FAULT].start
    for alert in drill.alerts:
        severity = seen.pages_as if alert.severity == "page" else alert.severity
        found = [
            one
            for one in seen.fired
            if (one.name, one.severity) == (alert.name, severity) and alert.window in {"", one.window}
        ]
        says = f"{alert.name} fires as a {severity}, with its runbook"
        wanted = f"within {alert.within_seconds:g} s, {alert.runbook}"
        if not found:
            yield Check(says, "it did not fire", wanted, held=False)
            continue
        first = min(found, key=lambda one: one.seen)
        after = first.seen - began
        runbook = first.runbook.rpartition("/")[2]
        good = 0 <= after <= alert.within_seconds and runbook.partition("#")[0] == alert.runbook
        told = "" if first.notified is None else f", told after {first.notified - began:.0f} s"
        yield Check(says, f"after {after:.0f} s{told}, {runbook or 'no runbook'}", wanted, held=good)
        if alert.resolves_within_seconds is not None:
            ended = math.inf if found[-1].ended is None else found[-1].ended - seen.phases[Phase.FAULT].end
            yield Check(
                f"{alert.name} ends when all is well again",
                "never" if math.isinf(ended) else f"{ended:.0f} s after the fault",
                f"within {alert.resolves_within_seconds:g} s",
                held=ended <= alert.resolves_within_seconds,
            )
    expected = {alert.name for alert in drill.alerts} | set(drill.may_fire)
    pages = sorted({one.name for one in seen.fired if one.severity == "page" and one.name not in expected})
    yield Check("nobody is paged for anything else", ", ".join(pages) or "none", "none", held=not pages)


def _percent(part: float, whole: int) -> float:
    return 100 * part / whole if whole else math.nan


def percentile(values: Iterable[float], share: float) -> float:
    """By nearest rank; of nothing there is none."""
    every = sorted(values)
    return every[math.ceil(share * len(every)) - 1] if every else math.nan


def _measure(measure: Measure, span: Span, seen: Seen) -> float:
    samples = [one for one in seen.samples if span.holds(one.at)]
    looks = [one for one in seen.looks if span.holds(one.at)]
    return _MEASURES[measure](samples, looks, span, seen)


_Measured = Callable[[list[Sample], list[Look], Span, Seen], float]


def _first(span: Span, moments: Iterable[float]) -> float:
    return next(iter(moments), math.inf) - span.start


def recovered(samples: Iterable[Sample], span: Span) -> float:
    """From the beginning of a stretch until a request from which on none failed; never, if any did at its end."""
    failures = [one.at for one in samples if one.failed and span.holds(one.at)]
    if not failures:
        return 0.0
    last = max(failures)
    return math.inf if span.end - last < CALM_SECONDS else last - span.start


def _increase(looks: list[Look], pattern: str) -> float:
    """How much a counter rose; it begins anew when the process does."""
    values = [value for value in (look.total(pattern) for look in looks) if value is not None]
    return sum(max(0.0, b - a) if b >= a else b for a, b in pairwise(values))


def _restarts(looks: list[Look]) -> list[float]:
    """When another process was first seen."""
    starts = [(look.at, value) for look in looks if (value := look.total("process_start_time_seconds")) is not None]
    return [at for (_, before), (at, now) in pairwise(starts) if now > before]


_MEASURES: Mapping[Measure, _Measured] = {
    Measure.AVAILABILITY: lambda s, *_: _percent(sum(not one.failed for one in s), len(s)),
    Measure.ANSWERED: lambda s, *_: _percent(sum(one.status > 0 for one in s), len(s)),
    Measure.REFUSED: lambda s, *_: _percent(sum(one.refused for one in s), len(s)),
    Measure.P50: lambda s, *_: 1000 * percentile((one.seconds for one in s), 0.5),
    Measure.P99: lambda s, *_: 1000 * percentile((one.seconds for one in s), 0.99),
    Measure.ADMITTED_P99: lambda s, *_: 1000 * percentile((one.seconds for one in s if not one.failed), 0.99),
    Measure.SLOWEST: lambda s, *_: 1000 * max((one.seconds for one in s), default=math.nan),
    Measure.LIVE: lambda _, looks, *__: _percent(sum(one.live for one in looks), len(looks)),
    Measure.READY: lambda _, looks, *__: _percent(sum(one.ready for one in looks), len(looks)),
    Measure.RETRIES: lambda s, looks, *_: _percent(_increase(looks, r'retries_total\{.*"made"'), len(s)),
    Measure.BREAKER_OPENS: lambda _, looks, span, __: _first(
        span, (one.at for one in looks if (one.total("circuit_breaker_state") or 0) > 0)
    ),
    Measure.UNREADY: lambda _, looks, span, __: _first(span, (one.at for one in looks if not one.ready)),
    Measure.RECOVERS: lambda s, _, span, __: recovered(s, span),
    Measure.RESTARTS: lambda _, looks, *__: float(len(_restarts(looks))),
    Measure.RESTARTED: lambda _, looks, span, __: _first(span, _restarts(looks)),
    Measure.REPLICAS: lambda _, __, span, seen: float(
        max((count for at, count in seen.replicas if span.holds(at)), default=0)
    ),
}


def _shown(measure: Measure, value: float) -> str:
    """A value with its unit."""
    if math.isnan(value):
        return "nothing to measure"
    if math.isinf(value):
        return "never"
    if measure.endswith("_percent"):
        return f"{value:.2f} %" if value % 1 else f"{value:.0f} %"
    if measure.endswith("_ms"):
        return f"{value:.0f} ms"
    return f"{value:.1f} s" if measure.endswith("_seconds") else f"{value:.0f}"
