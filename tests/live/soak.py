"""Whether something grows that should not: arithmetic on what Prometheus kept of a soak."""

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import linear_regression, median

MIB = 1 << 20


@dataclass(frozen=True)
class Limit:
    """A series that must not grow.

    Args:
        says: what it is, for people.
        query: what Prometheus is asked.
        unit: so much of the series is one.
        growth: by so many units it may have grown at the end, by the line that fits best.
    """

    says: str
    query: str
    unit: float
    growth: float


LIMITS = (
    Limit("resident memory, MiB", 'process_resident_memory_bytes{job="sre-demo-api"}', MIB, 2),
    Limit("open files and connections", 'process_open_fds{job="sre-demo-api"}', 1, 10),
    Limit("connections to the database", 'sum(db_pool_connections{job="sre-demo-api"})', 1, 5),
)


@dataclass(frozen=True)
class Trend:
    """What a series did.

    Args:
        limit: what it is held against.
        values: in units of the limit, in the order of time.
        slope: by how many units it grew in an hour.
        growth: by how many units it grew in the time that was looked at.
    """

    limit: Limit
    values: Sequence[float]
    slope: float
    growth: float

    @property
    def grows(self) -> bool:
        """Whether it grew by more than it may."""
        return self.growth > self.limit.growth


def trend(limit: Limit, points: Sequence[tuple[float, float]]) -> Trend:
    """The trend of a series.

    Args:
        limit: what it is held against.
        points: moments in seconds, with values.
    """
    moments, values = zip(*((moment, value / limit.unit) for moment, value in points), strict=True)
    slope, _ = linear_regression(moments, values)
    return Trend(limit, values, slope * 3600, slope * (moments[-1] - moments[0]))


def thinned(values: Sequence[float], count: int) -> list[float]:
    """At most so many medians of neighbours, for a picture."""
    size = -(-len(values) // count)
    return [median(values[start : start + size]) for start in range(0, len(values), size)]
