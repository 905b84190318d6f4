"""Whether a run kept the objectives of `app/service.toml`; where it did not, the sentence that says which.

What counts is what docs/architecture/SLO.md counts: a failed request is an error, and not late as well. Locust does not
know of that, and rounds response times before it keeps them; so each request is counted here. This module needs nothing
of Locust, whose import replaces the sockets and threads of whoever imports it.
"""

import tomllib
from dataclasses import astuple, dataclass, field
from enum import IntEnum
from pathlib import Path
from typing import NamedTuple, Self

SERVICE_FILE = Path(__file__).resolve().parents[2] / "app" / "service.toml"

# With less than this share of the requests or of the time that were asked for, a run says nothing about them.
DONE_SHARE = 0.95

# Locust counts the time of a run by a clock (libev's) that stands still while a busy machine starts it: a run may end
# so much early.
START_SECONDS = 2.0


class Exit(IntEnum):
    """How a run ends. Locust itself ends with 1, and with 2 where it does not understand the command line."""

    KEPT = 0
    REFUSED = 2
    MISSED = 3
    VOID = 4


@dataclass(frozen=True)
class Objectives:
    """What the service promises; shares in percent."""

    availability_percent: float
    latency_threshold_ms: float
    latency_percent: float

    @classmethod
    def read(cls, path: Path = SERVICE_FILE) -> Self:
        """Those of the service."""
        return cls(**tomllib.loads(path.read_text(encoding="utf-8"))["slo"])


@dataclass
class Counts:
    """Requests that have ended: all of them, those that failed, and those that succeeded too late."""

    requests: int = 0
    errors: int = 0
    late: int = 0

    def add(self, requests: int, errors: int, late: int) -> None:
        """Count what was counted elsewhere."""
        self.requests += requests
        self.errors += errors
        self.late += late

    def misses(self, objectives: Objectives) -> list[str]:
        """A sentence for each objective that these requests miss."""
        found = []
        # The difference of 100 and 99.9 is a little less than a tenth.
        allowed = round(100 - objectives.availability_percent, 6)
        failed = _percent(self.errors, self.requests)
        if failed > allowed:
            found.append(
                f"Availability is missed: {self.errors} of {self.requests} requests failed, {failed:.4g} %, and "
                f"{allowed:.4g} % may (objective: {objectives.availability_percent:g} % succeed)."
            )
        answered = self.requests - self.errors
        in_time = _percent(answered - self.late, answered)
        if answered and in_time < objectives.latency_percent:
            found.append(
                f"Latency is missed: {in_time:.4g} % of {answered} answers came within "
                f"{objectives.latency_threshold_ms:g} ms (objective: {objectives.latency_percent:g} %)."
            )
        return found


@dataclass
class Phase:
    """A part of a run in which the same was asked for.

    Attributes:
        asked: what, for people.
        begun: when, in seconds of a monotonic clock.
        rate: the requests a second that were asked for, if any.
        ended: when it ended; while it lasts, nothing.
        counts: what became of its requests.
    """

    asked: str
    begun: float
    rate: float | None = None
    ended: float | None = None
    counts: Counts = field(default_factory=Counts)

    @property
    def seconds(self) -> float:
        """How long it took; nothing while it lasts."""
        return self.ended - self.begun if self.ended is not None else 0.0

    def faults(self, objectives: Objectives) -> list[str]:
        """A sentence for each objective that was missed, and for requests that were not made."""
        found = self.counts.misses(objectives)
        wanted = (self.rate or 0.0) * self.seconds
        if self.counts.requests < DONE_SHARE * wanted:
            found.append(
                f"The rate is missed: {self.counts.requests} of {wanted:.0f} requests that were asked for were made. "
                "Users wait for answers, or this machine is too slow for so many."
            )
        return found


class Verdict(NamedTuple):
    """What a run ends with, and why."""

    code: Exit
    sentences: list[str]


class Run:
    """Counts what becomes of requests, phase by phase, and judges it.

    Args:
        objectives: what it is held against.
        seconds: how long it is to take, if that is known.
        until_it_breaks: only the first phase has to keep them; the others look for the one that does not.
    """

    def __init__(self, objectives: Objectives, *, seconds: float = 0, until_it_breaks: bool = False) -> None:
        self.objectives = objectives
        self.seconds = seconds
        self.until_it_breaks = until_it_breaks
        self.phases: list[Phase] = []
        self._waiting = Counts()
        self._closed = False

    def begin(self, asked: str, now: float, rate: float | None = None) -> None:
        """Count for a new phase from now on."""
        self.end(now)
        self.phases.append(Phase(asked, now, rate))

    def end(self, now: float) -> None:
        """Let the phase end; requests that are still answered belong to it until another begins."""
        if self.phases and self.phases[-1].ended is None:
            self.phases[-1].ended = now

    def count(self, milliseconds: float, *, failed: bool) -> None:
        """Count one request."""
        late = not failed and milliseconds > self.objectives.latency_threshold_ms
        self.add((1, int(failed), int(late)))

    def add(self, counts: tuple[int, int, int]) -> None:
        """Count what was counted elsewhere."""
        if self._closed:
            return
        (self.phases[-1].counts if self.phases else self._waiting).add(*counts)

    def take(self) -> tuple[int, int, int]:
        """What was counted since this was called last, for somebody who counts for all; for a run without phases."""
        taken, self._waiting = self._waiting, Counts()
        return taken.requests, taken.errors, taken.late

    def close(self) -> None:
        """Let nothing that still comes, as when users clean up, change what the run was ended for."""
        self._closed = True

    @property
    def broken(self) -> bool:
        """Whether the last phase is one to end with."""
        return bool(self.phases and self.phases[-1].faults(self.objectives))

    def judge(self) -> Verdict:
        """The verdict on all of it."""
        total = self._total()
        if not total.counts.requests:
            return Verdict(Exit.VOID, ["Nothing was measured: no request has ended."])
        faults = total.faults(self.objectives)
        if not self.until_it_breaks and total.seconds < DONE_SHARE * self.seconds - START_SECONDS:
            faults.append(f"The run was broken off: it took {total.seconds:.0f} of {self.seconds:.0f} seconds.")
        if total.counts.misses(self.objectives):
            return Verdict(Exit.MISSED, faults)
        return Verdict(Exit.VOID, faults) if faults else Verdict(Exit.KEPT, ["Both objectives were kept."])

    def _total(self) -> Phase:
        """All that is judged as one phase."""
        judged = self.phases[:1] if self.until_it_breaks else self.phases
        seconds = sum(phase.seconds for phase in judged)
        wanted = sum((phase.rate or 0.0) * phase.seconds for phase in judged)
        total = Phase("all", begun=0, rate=wanted / seconds if seconds else None, ended=seconds)
        for phase in judged:
            total.counts.add(*astuple(phase.counts))
        return total

    def report(self) -> str:
        """What each phase was like, a line each."""
        lines = [f"{'asked for':>16}  {'seconds':>7}  {'requests':>8}  {'a second':>8}  {'errors':>8}  {'in time':>8}"]
        for phase in self.phases:
            counts, seconds = phase.counts, phase.seconds
            answered = counts.requests - counts.errors
            lines.append(
                f"{phase.asked:>16}  {seconds:7.0f}  {counts.requests:8}  {counts.requests / (seconds or 1):8.1f}  "
                f"{_percent(counts.errors, counts.requests):6.2f} %  "
                f"{_percent(answered - counts.late, answered):6.2f} %"
            )
        if self.until_it_breaks and self.phases:
            held = [phase.asked for phase in self.phases if not phase.faults(self.objectives)]
            lines.append(f"It held up to {held[-1]}." if held else "It held at no step.")
            lines += self.phases[-1].faults(self.objectives)
        return "\n".join(lines)


def _percent(part: int, whole: int) -> float:
    return 100 * part / whole if whole else 0.0
