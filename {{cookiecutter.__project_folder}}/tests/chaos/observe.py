"""What is seen of a service during a drill: its probes, its metrics, and what Prometheus would wake people for."""

import asyncio
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import httpx

from tests.chaos.traffic import Traffic

INTERVAL_SECONDS = 1.0
PATIENCE_SECONDS = 3.0
OK = 200

# Never a reason to get up.
QUIET = frozenset({"Watchdog"})

_SERIES = re.compile(r"^(\w+)(?:\{([^}]*)\})? (\S+)", re.MULTILINE)

# What is kept of the metrics: enough for every measure.
_KEPT = ("circuit_breaker_state", "retries_total", "http_requests_shed_total", "process_start_time_seconds")


@dataclass(frozen=True)
class Targets:
    """Where to look; what is not there is empty.

    Args:
        service: base URL of the API.
        metrics: the URL of its metrics.
        prometheus: base URL.
        alertmanager: base URL.
        absent: jobs that Prometheus will miss because their services were left out.
        pages_as: the severity of what would page in production.
    """

    service: str
    metrics: str = ""
    prometheus: str = ""
    alertmanager: str = ""
    absent: frozenset[str] = frozenset()
    pages_as: str = "page"


@dataclass(frozen=True)
class Look:
    """One look at the service.

    Args:
        at: when, in seconds of the drill's clock.
        live: whether its liveness probe passes.
        ready: whether its readiness probe does.
        metrics: some of its series, by name and labels; none when it gives none.
    """

    at: float
    live: bool
    ready: bool
    metrics: Mapping[str, float] = field(default_factory=dict)

    def total(self, pattern: str) -> float | None:
        """The sum of the series whose name and labels match, if there are any."""
        found = [value for name, value in self.metrics.items() if re.match(pattern, name)]
        return sum(found) if found else None


@dataclass
class Fired:
    """An alert that fired.

    Args:
        name: the alert's.
        severity: page or ticket.
        seen: when it was first seen firing.
        runbook: where it leads people.
        notified: when Alertmanager was seen to have it, if it was.
        ended: when it was seen to fire no longer, if it was.
        window: the longer of its windows, which tells apart alerts of one name that look back differently far.
    """

    name: str
    severity: str
    seen: float
    runbook: str
    notified: float | None = None
    ended: float | None = None
    window: str = ""


class Observer:
    """Looks each second, until cancelled.

    Args:
        targets: where.
        traffic: what is sent meanwhile.
        clock: seconds since the drill began.
    """

    def __init__(self, targets: Targets, traffic: Traffic, clock: Callable[[], float]) -> None:
        self.looks: list[Look] = []
        self.fired: list[Fired] = []
        self.traffic = traffic
        self._targets = targets
        self._clock = clock

    async def run(self) -> None:
        """Look and send, until cancelled."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self.traffic.run())
            tasks.create_task(self._repeat(self._look))
            if self._targets.prometheus:
                tasks.create_task(self._repeat(self._alerts))

    async def _repeat(self, look: Callable[[httpx.AsyncClient], Any]) -> None:
        async with httpx.AsyncClient(timeout=PATIENCE_SECONDS) as client:
            while True:
                _, _ = await asyncio.gather(look(client), asyncio.sleep(INTERVAL_SECONDS))

    async def _look(self, client: httpx.AsyncClient) -> None:
        at = self._clock()
        live, ready, metrics = await asyncio.gather(
            _get(client, f"{self._targets.service}/health/live"),
            _get(client, f"{self._targets.service}/health/ready"),
            _get(client, self._targets.metrics),
        )
        self.looks.append(Look(at, live is not None, ready is not None, parsed(metrics.text if metrics else "")))

    async def _alerts(self, client: httpx.AsyncClient) -> None:
        at = self._clock()
        firing, told = await asyncio.gather(
            _get(client, f"{self._targets.prometheus}/api/v1/alerts"),
            _get(client, f"{self._targets.alertmanager}/api/v2/alerts"),
        )
        if firing:
            alerts = [one for one in firing.json()["data"]["alerts"] if one["state"] == "firing"]
            names = {one["labels"]["alertname"] for one in told.json()} if told else set()
            self.note(at, alerts, names)

    def note(self, at: float, alerts: Iterable[Mapping[str, Any]], told: set[str]) -> None:
        """Take down which alerts fire now, and which Alertmanager has been told of."""
        now: dict[tuple[str, str, str], Mapping[str, Any]] = {}
        for one in alerts:
            labels = one["labels"]
            left_out = labels["alertname"] == "StackTargetDown" and labels.get("job") in self._targets.absent
            if labels["alertname"] not in QUIET and not left_out:
                now[labels["alertname"], labels.get("severity", ""), labels.get("long_window", "")] = one
        open_ones = {(one.name, one.severity, one.window): one for one in self.fired if one.ended is None}
        for key, one in now.items():
            if key not in open_ones:
                runbook = str(one.get("annotations", {}).get("runbook_url", ""))
                open_ones[key] = Fired(*key[:2], seen=at, runbook=runbook, window=key[2])
                self.fired.append(open_ones[key])
        for key, fired in open_ones.items():
            if key not in now:
                fired.ended = at
            elif fired.notified is None and fired.name in told:
                fired.notified = at


async def _get(client: httpx.AsyncClient, url: str) -> httpx.Response | None:
    """The answer, if it is a success."""
    if not url:
        return None
    try:
        answer = await client.get(url)
    except httpx.HTTPError:
        return None
    return answer if answer.status_code == OK else None


def parsed(text: str) -> dict[str, float]:
    """The series of an exposition that are kept, by name and labels."""
    return {f"{name}{{{labels or ''}}}": float(value) for name, labels, value in _SERIES.findall(text) if name in _KEPT}
