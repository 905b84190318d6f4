"""Requests that arrive no matter how fast answers come, as those of users do, and what became of each.

A client that waits for an answer before it asks again would send less to a service that hangs, and so hide that it does
("coordinated omission"). The time of an answer counts from when its request was due.
"""

import asyncio
import random
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from urllib.parse import urlsplit
from uuid import uuid4

from tests.chaos.client import Answer, Client, NoAnswerError

ITEMS = "/api/v1/items"
TIMEOUT_SECONDS = 20.0
PATIENCE_SECONDS = 1.0
KEPT = 100

# How often each is sent, for a hundred requests.
KINDS = {"read": 60, "list": 20, "create": 14, "delete": 6}

BODY = b'{"name": "Item of a drill", "price": "9.99"}'

CREATED = 201
SERVER_ERROR = 500
UNAVAILABLE = 503


@dataclass(frozen=True)
class Sample:
    """One request.

    Args:
        at: when it was due, in seconds of the drill's clock.
        seconds: until its answer was there, or was given up.
        status: of the answer, 0 without one.
        refused: whether it was refused with a word on when to come back.
        late: how much of its time had passed before it was sent: the generator's own fault.
    """

    at: float
    seconds: float
    status: int
    refused: bool = False
    late: float = 0.0

    @property
    def failed(self) -> bool:
        """Whether it counts against the objective of availability."""
        return self.status == 0 or self.status >= SERVER_ERROR


class Traffic:
    """Steady requests until cancelled.

    Args:
        base_url: of the service.
        requests_per_second: how many arrive; may be changed at any time.
        clock: seconds since the drill began.
    """

    def __init__(self, base_url: str, requests_per_second: float, clock: Callable[[], float]) -> None:
        self.samples: list[Sample] = []
        self.requests_per_second = requests_per_second
        self._client = Client(base_url)
        self._clock = clock
        self._known: deque[str] = deque()

    async def run(self) -> None:
        """Send them. When the generator itself is late, it catches up: what was due is sent and counted as late."""
        try:
            async with asyncio.TaskGroup() as requests:
                due = self._clock()
                while True:
                    requests.create_task(self.attempt(due))
                    due += random.expovariate(self.requests_per_second)
                    await asyncio.sleep(max(0.0, due - self._clock()))
        finally:
            self._client.close()

    async def attempt(self, due: float) -> None:
        """Send one request, and take down what became of it."""
        status, refused, late = 0, False, self._clock() - due
        try:
            async with asyncio.timeout(TIMEOUT_SECONDS):
                answer = await self._send()
        except (NoAnswerError, TimeoutError):
            pass
        except asyncio.CancelledError:
            # The drill ends. What has waited for long got no answer; of the rest nobody knows.
            if self._clock() - due > PATIENCE_SECONDS:
                self.samples.append(Sample(due, self._clock() - due, 0, late=late))
            raise
        else:
            status = answer.status
            refused = status == UNAVAILABLE and "retry-after" in answer.headers
        self.samples.append(Sample(due, self._clock() - due, status, refused, late))

    async def _send(self) -> Answer:
        (kind,) = random.choices(*zip(*KINDS.items(), strict=True))  # noqa: S311 - nobody gains by guessing it
        headers = {"X-Correlation-ID": f"drill-{uuid4()}"}
        if len(self._known) > KEPT:
            kind = "delete"
        elif kind in {"read", "delete"} and not self._known:
            kind = "create"
        match kind:
            case "read":
                return await self._client.send("GET", random.choice(self._known), headers)  # noqa: S311
            case "delete":
                return await self._client.send("DELETE", self._known.popleft(), headers)
            case "list":
                return await self._client.send("GET", f"{ITEMS}?limit=20", headers)
        answer = await self._client.send("POST", ITEMS, {**headers, "Content-Type": "application/json"}, BODY)
        if answer.status == CREATED:
            self._known.append(urlsplit(answer.headers["location"]).path)
        return answer
