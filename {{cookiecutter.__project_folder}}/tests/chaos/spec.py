"""A drill as its file says it: what is supposed to hold, what is done, and what must be seen meanwhile."""

import tomllib
from collections.abc import Mapping
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

FOLDER = Path(__file__).parent / "drills"
RUNBOOKS = Path(__file__).resolve().parents[2] / "docs" / "runbooks"


class DrillError(Exception):
    """A drill cannot be run as it is asked for; the message says why and what to do, for people."""


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Phase(StrEnum):
    """The parts of a drill, in their order."""

    STEADY = "steady"
    FAULT = "fault"
    AFTER = "after"


class Scope(StrEnum):
    """Where a drill happens: containers of this machine, or a namespace of a cluster."""

    COMPOSE = "compose"
    CLUSTER = "cluster"


class Stop(_Frozen):
    """A service of the stack is stopped, and started again at the end."""

    kind: Literal["stop"]
    service: str


class Pause(_Frozen):
    """A service of the stack stands still: its connections stay open, and nothing answers."""

    kind: Literal["pause"]
    service: str


class Refuse(_Frozen):
    """The proxy before a dependency refuses connections and breaks those it has."""

    kind: Literal["refuse"]
    proxy: str


class Toxic(_Frozen):
    """What the proxy does to a connection, as https://github.com/Shopify/toxiproxy#toxics describes it."""

    type: Literal["latency", "bandwidth", "slow_close", "timeout", "reset_peer", "slicer", "limit_data"]
    stream: Literal["upstream", "downstream"] = "downstream"
    # The share of connections that it is done to.
    toxicity: float = Field(1.0, ge=0, le=1)
    attributes: Mapping[str, int] = {}


class Network(_Frozen):
    """The way to a dependency is bad."""

    kind: Literal["network"]
    proxy: str
    toxics: tuple[Toxic, ...] = Field(min_length=1)


class Execute(_Frozen):
    """A program runs in a container of the stack until another one ends it."""

    kind: Literal["execute"]
    service: str
    command: tuple[str, ...] = Field(min_length=1)
    undo: tuple[str, ...] = Field(min_length=1)


class Load(_Frozen):
    """More is asked than before."""

    kind: Literal["load"]
    requests_per_second: float = Field(gt=0, le=5000)


class Process(_Frozen):
    """The service itself misbehaves, by the wrapper of `image/faulty.py`."""

    kind: Literal["process"]
    error_share: float = Field(0, ge=0, le=1)
    # CPU time that each request takes, and so what the service can do at most.
    busy_seconds: float = Field(0, ge=0)
    # A leak of months within seconds, up to this share of the memory limit; and what each request leaks from then on.
    leak_to_share: float = Field(0, ge=0, le=1)
    leak_bytes_per_request: int = Field(0, ge=0)


class Kill(_Frozen):
    """A replica is gone from one moment to the next, without having been told."""

    kind: Literal["kill"]


class Deploy(_Frozen):
    """A version that misbehaves is rolled out, and the roll-out is taken back."""

    kind: Literal["deploy"]
    error_share: float = Field(gt=0, le=1)


Fault = Annotated[
    Stop | Pause | Refuse | Network | Execute | Load | Process | Kill | Deploy, Field(discriminator="kind")
]


class Measure(StrEnum):
    """What a bound is about. Those in percent are shares of the requests or probes of a phase."""

    AVAILABILITY = "availability_percent"
    ANSWERED = "answered_percent"
    REFUSED = "refused_percent"
    P50 = "p50_ms"
    P99 = "p99_ms"
    ADMITTED_P99 = "admitted_p99_ms"
    SLOWEST = "slowest_ms"
    LIVE = "live_percent"
    READY = "ready_percent"
    RETRIES = "retries_percent"
    BREAKER_OPENS = "breaker_open_after_seconds"
    UNREADY = "unready_after_seconds"
    RECOVERS = "recovered_after_seconds"
    RESTARTS = "restarts"
    RESTARTED = "restarted_after_seconds"
    REPLICAS = "replicas"


class Bound(_Frozen):
    """A sentence of the hypothesis, and the number that decides whether it holds.

    Args:
        says: the sentence.
        measure: what is measured.
        phase: when.
        from_seconds: how much of the phase is left out at its beginning: until a fault is noticed, for example.
        at_most: the bound from above; `objective` is that of app/service.toml.
        at_least: the bound from below.
    """

    says: str = Field(min_length=1)
    measure: Measure
    phase: Phase = Phase.FAULT
    from_seconds: float = Field(0, ge=0)
    at_most: float | Literal["objective"] | None = None
    at_least: float | Literal["objective"] | None = None

    @model_validator(mode="after")
    def _one_limit(self) -> Self:
        if (self.at_most is None) == (self.at_least is None):
            raise ValueError("needs either at_most or at_least")
        has_objective = self.measure is Measure.AVAILABILITY or self.measure.endswith("_ms")
        if "objective" in (self.at_most, self.at_least) and not has_objective:
            raise ValueError(f"there is no objective for {self.measure}")
        return self


class Alert(_Frozen):
    """An alert that has to fire, so soon after the fault began, and to name its runbook."""

    name: str
    severity: Literal["page", "ticket"]
    within_seconds: float = Field(gt=0)
    runbook: str
    # Of several that bear the name, the one that looks back so far.
    window: str = ""
    # How soon it has to end after the fault; that is not waited for unless it is asked for.
    resolves_within_seconds: float | None = None

    @model_validator(mode="after")
    def _runbook_exists(self) -> Self:
        if not (RUNBOOKS / self.runbook).is_file():
            raise ValueError(f"docs/runbooks has no {self.runbook}")
        return self


class Overrides(_Frozen):
    """What is different about the service during a drill."""

    environment: Mapping[str, str] = {}
    mem_limit: str | None = None
    # In a cluster: so many replicas, and no autoscaler that changes that; and nobody who takes back a bad version.
    replicas: int | None = Field(None, ge=1)
    unattended: bool = False


class Protection(_Frozen):
    """What keeps the fault from doing harm, and how it is switched off to see that the drill notices."""

    name: str
    off: Overrides


class Short(_Frozen):
    """The form of the drill for pipelines: alerts are not waited for, and so not judged."""

    steady_seconds: float = Field(gt=0)
    fault_seconds: float = Field(gt=0)
    after_seconds: float = Field(gt=0)


class Drill(_Frozen):
    """One drill.

    Args:
        name: the name of its file.
        title: for people.
        scenario: the row of the failure table.
        hypothesis: what is supposed to hold, in terms of the objectives.
        impact: what users notice.
        scope: where it happens.
        requests_per_second: the traffic, which arrives no matter how fast answers come.
        steady_seconds: how long the service must be well before anything is done to it.
        fault_seconds: how long the fault lasts.
        after_seconds: how long it is watched afterwards.
        fault: what is done.
        app: what is different about the service from the beginning.
        needs: further services of the stack that have to run.
        commands: what is different about how services of the stack are started.
        bounds: when the hypothesis holds.
        alerts: which have to fire.
        may_fire: pages that may, beside those that have to.
        protection: what it proves to work.
        short: its form for pipelines, if it has one.
    """

    name: str
    title: str
    scenario: str
    hypothesis: str
    impact: str
    scope: Scope = Scope.COMPOSE
    requests_per_second: float = Field(gt=0, le=1000)
    steady_seconds: float = Field(gt=0)
    fault_seconds: float = Field(gt=0)
    after_seconds: float = Field(gt=0)
    fault: Fault
    app: Overrides = Overrides()
    needs: tuple[str, ...] = ()
    commands: Mapping[str, tuple[str, ...]] = {}
    bounds: tuple[Bound, ...] = Field(min_length=1)
    alerts: tuple[Alert, ...] = ()
    may_fire: tuple[str, ...] = ()
    protection: Protection
    short: Short | None = None

    @property
    def misbehaves(self) -> bool:
        """Whether the service has to be the one that can be told to misbehave."""
        return isinstance(self.fault, Process) or "FAULTS" in self.app.environment

    def shortened(self) -> Self:
        """The drill in its form for pipelines.

        Raises:
            DrillError: it has none.
        """
        if self.short is None:
            raise DrillError(f"{self.name} has no short form; its file would need a table [short]")
        may_fire = (*self.may_fire, *(alert.name for alert in self.alerts))
        return self.model_copy(update={**self.short.model_dump(), "alerts": (), "may_fire": may_fire, "short": None})


def read(path: Path) -> Drill:
    """Read the drill of a file.

    Raises:
        DrillError: it is no drill; the message names each place at fault.
    """
    try:
        content: dict[str, Any] = tomllib.loads(path.read_text(encoding="utf-8"))
        return Drill.model_validate({"name": path.stem, **content})
    except FileNotFoundError:
        raise DrillError(f"there is no drill {path.stem}; there are {', '.join(names(path.parent))}") from None
    except tomllib.TOMLDecodeError as error:
        raise DrillError(f"{path.name}: {error}") from error
    except ValidationError as error:
        problems = (
            f"  {'.'.join(map(str, problem['loc'])) or 'drill'}: {problem['msg'].removeprefix('Value error, ')}"
            for problem in error.errors()
        )
        raise DrillError("\n".join((f"{path.name} is no drill:", *problems))) from error


def named(name: str) -> Drill:
    """The drill of this name."""
    return read(FOLDER / f"{name}.toml")


def names(folder: Path = FOLDER) -> list[str]:
    """The names of all drills."""
    return sorted(path.stem for path in folder.glob("*.toml"))
