"""What was measured, and the arithmetic on it."""

import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Self

# Servers that are always asked leave nothing of their core to others, if there are none.
UNDISTURBED = 0.9

# A copy of the baseline must cost what the baseline costs; a run in which it does not says nothing about the rest.
SAME = (0.97, 1.03)


@dataclass(frozen=True)
class Spread:
    """The median of what was measured several times, and how far the rest lies from it."""

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, values: Iterable[float]) -> Self:
        """The spread of these values."""
        every = sorted(values)
        return cls(statistics.median(every), every[0], every[-1])


@dataclass(frozen=True)
class Costs:
    """CPU time a request, in µs: for each server, one value a window. All servers ran at once.

    Args:
        of: by server; the first is the baseline.
        copy: of a second copy of the baseline.
        share: of their core that all of them had together; the rest was idle, or other processes had it.
    """

    of: Mapping[str, Sequence[float]]
    copy: Sequence[float]
    share: Sequence[float] = (1.0,)

    @property
    def baseline(self) -> str:
        """The name of the server that others are compared with."""
        return next(iter(self.of))

    def micros(self, server: str) -> float:
        """What a request costs, in µs."""
        return statistics.median(self.of[server])

    def speed(self, server: str, than: str | None = None) -> Spread:
        """How many times the requests of another server (the baseline) this one answers with the same CPU time."""
        return Spread.of(_ratios(self.of[than or self.baseline], self.of[server]))

    def check(self) -> Spread:
        """The speed of the baseline's copy, which should be 1."""
        return Spread.of(_ratios(self.of[self.baseline], self.copy))

    def growth(self, few: tuple[str, str], many: tuple[str, str]) -> Spread:
        """How much more µs the first of a pair costs over the second, in the pair `many` than in the pair `few`."""
        columns = (self.of[name] for name in (*many, *few))
        return Spread.of((a - b) - (c - d) for a, b, c, d in zip(*columns, strict=True))


@dataclass(frozen=True)
class Latency:
    """Percentiles of one round, in seconds."""

    p50: float
    p99: float

    @classmethod
    def of(cls, seconds: Iterable[float]) -> Self:
        """The percentiles of these latencies, by nearest rank."""
        every = sorted(seconds)
        return cls(*(every[math.ceil(rank * len(every)) - 1] for rank in (0.5, 0.99)))


@dataclass(frozen=True)
class Spans:
    """What became of the spans of a service that traced every request, while it had as many as it could answer."""

    requests: int
    received: int
    counted_as_lost: int

    @property
    def missing(self) -> int:
        """Neither exported nor counted."""
        return self.requests - self.received - self.counted_as_lost


@dataclass(frozen=True)
class Results:
    """All of one run; what was not measured is empty.

    Args:
        requests: costs by kind of request.
        routes: costs by server and number of routes, see `with_routes`.
        connections: costs by number of connections.
        payloads: costs by bytes of the response's text.
        latencies: one value a round, by server.
        memory: resident bytes, by server, after so many requests.
        starts: seconds from exec to the first answer, by server.
        spans: of the service that traces all.
    """

    requests: Mapping[str, Costs] = field(default_factory=dict)
    routes: Costs | None = None
    connections: Mapping[int, Costs] = field(default_factory=dict)
    payloads: Mapping[int, Costs] = field(default_factory=dict)
    latencies: Mapping[str, Sequence[Latency]] = field(default_factory=dict)
    memory: Mapping[str, Mapping[int, int]] = field(default_factory=dict)
    starts: Mapping[str, Sequence[float]] = field(default_factory=dict)
    spans: Spans | None = None

    def checks(self) -> dict[str, Spread]:
        """The A/A check of each comparison."""
        named = {f"`{name}`": costs for name, costs in self.requests.items()}
        if self.routes:
            named["routes"] = self.routes
        named |= {f"{number} connections": costs for number, costs in self.connections.items()}
        named |= {f"{number} bytes": costs for number, costs in self.payloads.items()}
        return {name: costs.check() for name, costs in named.items()}


def same(check: Spread) -> bool:
    """Whether an A/A check lets a comparison count."""
    return SAME[0] <= check.median <= SAME[1]


def with_routes(server: str, number: int) -> str:
    """The name of a server that has more routes."""
    return f"{server}, {number} routes"


def _ratios(numerators: Sequence[float], denominators: Sequence[float]) -> list[float]:
    return [a / b for a, b in zip(numerators, denominators, strict=True)]
