"""When a burn-rate alert should fire, worked out minute by minute from the SRE workbook's words, without PromQL.

https://sre.google/workbook/alerting-on-slos/, "Multiwindow, Multi-Burn-Rate Alerts", table 5-8.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate, chain, repeat

HOUR = 60
DAY = 24 * HOUR
MONTH = 30 * DAY


@dataclass(frozen=True)
class Pair:
    """Two windows, in minutes, and how many times too fast both must burn.

    Attributes:
        spent: the share of a month's budget that is gone when it fires, as the table says.
        lingers: for how many minutes it fires on after that.
    """

    name: str
    long: int
    short: int
    factor: float
    spent: float
    lingers: int = 0


PAIRS = (
    Pair("1h", HOUR, 5, 14.4, spent=0.02, lingers=5),
    Pair("6h", 6 * HOUR, 30, 6, spent=0.05, lingers=5),
    Pair("1d", DAY, 2 * HOUR, 3, spent=0.10),
    Pair("3d", 3 * DAY, 6 * HOUR, 1, spent=0.10),
)

# Fewer errors than that in the long window are told to nobody.
FEWEST = 10


@dataclass(frozen=True)
class Phase:
    """Minutes in which the same happens.

    Attributes:
        minutes: how many.
        requests: in each of them.
        failing: the share of them that fail.
    """

    minutes: int
    requests: float
    failing: float


class Outcome:
    """What became of some phases, one after the other.

    Args:
        phases: what happened.
        budget: the share of requests that may fail.
    """

    def __init__(self, phases: Sequence[Phase], budget: float) -> None:
        minutes = list(chain.from_iterable(repeat(phase, phase.minutes) for phase in phases))
        self.minutes = len(minutes)
        self.budget = budget
        self._requests = [0.0, *accumulate(minute.requests for minute in minutes)]
        self._errors = [0.0, *accumulate(minute.requests * minute.failing for minute in minutes)]

    def errors(self, minute: int, window: int) -> float:
        """How many requests failed in the window that ends at a minute."""
        return self._errors[minute] - self._errors[max(0, minute - window)]

    def burn(self, minute: int, window: int) -> float:
        """How many times faster than allowed the budget was spent; nothing is where nobody called."""
        requests = self._requests[minute] - self._requests[max(0, minute - window)]
        return self.errors(minute, window) / requests / self.budget if requests else 0.0

    def holds(self, pair: Pair, minute: int, slack: float = 1.0) -> bool:
        """Whether the condition of a pair is true; more slack asks for less."""
        return (
            self.burn(minute, pair.long) > pair.factor / slack
            and self.burn(minute, pair.short) > pair.factor / slack
            and self.errors(minute, pair.long) >= FEWEST / slack
        )

    def fires(self, pair: Pair, minute: int, step: int, slack: float = 1.0) -> bool:
        """Whether its alert fires, if somebody looks every `step` minutes."""
        looks = range(minute, max(0, minute - pair.lingers) - 1, -step)
        return any(self.holds(pair, look, slack) for look in looks)

    def first(self, pair: Pair) -> int:
        """The minute at which the condition of a pair becomes true.

        Raises:
            StopIteration: it never does.
        """
        return next(minute for minute in range(self.minutes + 1) if self.holds(pair, minute))

    def spent(self, minute: int, since: int) -> float:
        """The share of a month's budget that the errors between two minutes are, if traffic stays as it is then."""
        per_minute = (self._requests[minute] - self._requests[since]) / (minute - since)
        return (self._errors[minute] - self._errors[since]) / (per_minute * MONTH * self.budget)
