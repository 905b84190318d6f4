"""How much load when: each shape as data, and what it asks for after so many seconds.

A level is a multiple of the rate, or of the users, that a run is given. Shapes are no classes of Locust's: one that
stands in a locustfile is taken whether or not it was asked for, and then decides about users and time alone.
"""

import math
from dataclasses import dataclass
from typing import NamedTuple

# A request is given up after this, unless the latency objective is longer; and so long takes a change of level.
PATIENCE_SECONDS = 10.0

# Requests a second where nothing else is asked for.
RATE = 20.0


class Stage(NamedTuple):
    """A part of a shape: its share of the time, and its level."""

    share: float
    level: float


@dataclass(frozen=True)
class Shape:
    """A shape.

    Args:
        about: what it is for.
        seconds: how long it takes, unless told otherwise.
        stages: what it consists of.
        until_it_breaks: whether it ends at the first stage that misses an objective.
    """

    about: str
    seconds: float
    stages: tuple[Stage, ...]
    until_it_breaks: bool = False


SHAPES = {
    "smoke": Shape("a tenth of the load: does the test itself work?", 60, (Stage(1, 0.1),)),
    "steady": Shape("the load, evenly: are the objectives kept?", 120, (Stage(1, 1),)),
    "spike": Shape(
        "five times the load, suddenly: what do those get who are let in, and does it recover?",
        150,
        (Stage(0.4, 1), Stage(0.2, 5), Stage(0.4, 1)),
    ),
    "soak": Shape("half of the load, for long: does anything grow?", 1800, (Stage(1, 0.5),)),
    "step": Shape(
        "more at each step: where does it break?",
        400,
        tuple(Stage(0.1, level) for level in (1, 2, 3, 4, 5, 6, 8, 10, 12, 15)),
        until_it_breaks=True,
    ),
}


class Wanted(NamedTuple):
    """What a shape asks for at a moment: the stage, the users, and how many of them to start or stop a second."""

    stage: int
    users: int
    spawn_rate: float


@dataclass(frozen=True)
class Plan:
    """A shape that was given its size.

    Args:
        shape: the shape.
        users: how many at level 1.
        seconds: how long it takes.
        ramp_seconds: how long a change of level takes.
    """

    shape: Shape
    users: float
    seconds: float
    ramp_seconds: float = PATIENCE_SECONDS

    def at(self, elapsed: float) -> Wanted | None:
        """What is asked for after so many seconds; nothing when it is over."""
        over, before = 0.0, 0
        for number, stage in enumerate(self.shape.stages):
            over += stage.share * self.seconds
            users = math.ceil(stage.level * self.users)
            if elapsed < over - 1e-9:
                return Wanted(number, users, max(1.0, abs(users - before) / self.ramp_seconds))
            before = users
        return None


def patience(threshold_ms: float) -> float:
    """After how many seconds a user gives up on a request: well after it was late."""
    return max(PATIENCE_SECONDS, 2 * threshold_ms / 1000)


def users_for(rate: float, pacing: float) -> float:
    """How many users send so many requests a second, when each sends one every `pacing` seconds."""
    return rate * pacing
