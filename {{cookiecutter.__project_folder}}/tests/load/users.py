"""Who uses the API: people that browse, programs that write, and some that do both.

A journey is a generator: each `yield` is a moment in which its user waits. So a user makes one request at a time, and
how long it waits between two is all that the models differ in:

- closed, where a number of users is given: each thinks for a second or three once it has its answer;
- open, where a rate is given: each sends at its own times, whenever the answers come.
"""

import functools
import random
import ssl
import time
from collections.abc import Generator
from http import HTTPStatus
from typing import Any
from uuid import uuid4

from locust import FastHttpUser, task
from locust.contrib.fasthttp import FastResponse, ResponseContextManager
from locust.env import Environment
from locust.exception import StopTest

from tests.load import guard
from tests.load.gate import Objectives
from tests.load.shapes import patience

ITEMS = "/api/v1/items"
ITEM = "/api/v1/items/{item_id}"

# What users delete at their end is no load that was asked for: it has a line of its own, and no objective.
CLEAN_UP = f"{ITEM} (clean-up)"

THINK_SECONDS = (1.0, 3.0)

# How much a user in the open model strays from its times, so that users who came together do not stay together.
STRAY = 0.1

# The service traces what its caller traces. This is the share that it would choose itself.
TRACED_SHARE = 0.1

# How long a user that is refused the end of what it made waits before it asks again, at most.
CLEAN_UP_SECONDS = 2.0

# How often a program sends what is no item, and somebody who looks changes something.
INVALID_SHARE = 0.1
WRITE_SHARE = 0.5

Journey = Generator[None, None, None]


def identity() -> dict[str, str]:
    """The header fields by which a request is found in logs and traces; `load-` tells it from those of people."""
    request = uuid4().hex
    sampled = int(random.random() < TRACED_SHARE)  # noqa: S311 - nobody gains by guessing it
    return {"X-Correlation-ID": f"load-{request}", "traceparent": f"00-{request}-{request[:16]}-0{sampled}"}


class Visitor(FastHttpUser):
    """A user that goes through journeys, one request at a time."""

    abstract = True

    network_timeout = connection_timeout = patience(Objectives.read().latency_threshold_ms)

    # Certificates are judged as other clients judge them; reading the trusted ones once takes long enough.
    insecure = False
    ssl_context_factory = staticmethod(functools.cache(ssl.create_default_context))

    def __init__(self, environment: Environment) -> None:
        super().__init__(environment)
        options = environment.parsed_options
        # The web interface and a worker's master give a host that nobody has looked at.
        if refused := guard.refusal(self.host or "", options.allow_host if options else ""):
            raise StopTest(refused)
        self._pacing = self.network_timeout if options and options.rate else 0.0
        self._due = 0.0
        self._journey: Journey | None = None

    def on_start(self) -> None:
        """Wait for less than a second: Locust starts all users of a second at once."""
        time.sleep(random.random())  # noqa: S311
        self._due = time.monotonic()

    def wait_time(self) -> float:
        """How many seconds to wait for the next request.

        In the open model, who was kept by a slow answer is behind its times, and does not wait until it has caught up:
        else a slow service would be asked less (coordinated omission).
        """
        if not self._pacing:
            return random.uniform(*THINK_SECONDS)  # noqa: S311
        self._due += self._pacing * random.uniform(1 - STRAY, 1 + STRAY)  # noqa: S311
        return max(0.0, self._due - time.monotonic())

    @task
    def step(self) -> None:
        """Make the next request of a journey."""
        journey = self._journey or self.journey()
        self._journey = journey if next(journey, self) is None else None

    def journey(self) -> Journey:
        """What it does, request by request.

        Raises:
            NotImplementedError: it is for a class that stands for somebody.
        """
        raise NotImplementedError

    def ask(
        self, method: str, route: str, *expected: HTTPStatus, path: str = "", holds: str = "", **options: Any
    ) -> FastResponse | None:
        """The response to a request; None where it is none of those expected, which is a failure.

        A response is true or false by the length of its body, if it has one: compare it with None.

        Args:
            method: the method.
            route: the template of the route, by which statistics name it: there would be a line for each item else.
            expected: how the service may answer. A 4xx that was provoked is no failure.
            path: the path, where it is not the route itself.
            holds: what the body of a success has to hold: not all that says 200 is well.
            options: of Locust's own client: `headers`, `json`.
        """
        headers = identity() | options.pop("headers", {})
        response: ResponseContextManager
        with self.client.request(
            method, path or route, name=route, headers=headers, catch_response=True, **options
        ) as response:
            # Without a status there was no answer, and Locust says why.
            if not response.status_code:
                return None
            if response.status_code not in expected:
                response.failure(f"answered {response.status_code}")
                return None
            if response.ok and holds and holds not in (response.text or ""):
                response.failure(f"answered {response.status_code} without what it should hold")
                return None
            response.success()
        return response

    def browse(self) -> Journey:
        """Look at two pages of items, read one of them, and ask whether it has changed."""
        page = self.ask("GET", ITEMS, HTTPStatus.OK, holds='"items":', path=f"{ITEMS}?limit=10")
        listed = page.json() if page is not None else {"items": [], "next_cursor": None}
        if cursor := listed["next_cursor"]:
            yield
            self.ask("GET", ITEMS, HTTPStatus.OK, holds='"items":', path=f"{ITEMS}?limit=10&cursor={cursor}")
        # Somebody may have deleted it meanwhile; and some follow links that lead nowhere.
        wanted = random.choice(listed["items"])["id"] if listed["items"] else str(uuid4())  # noqa: S311
        path = f"{ITEMS}/{wanted}"
        yield
        read = self.ask("GET", ITEM, HTTPStatus.OK, HTTPStatus.NOT_FOUND, path=path, holds=wanted)
        if read is not None and read.ok:
            yield
            headers = {"If-None-Match": _etag(read)}
            expected = (HTTPStatus.NOT_MODIFIED, HTTPStatus.OK, HTTPStatus.NOT_FOUND)
            self.ask("GET", ITEM, *expected, path=path, headers=headers)


class Writer(Visitor):
    """One that makes items, and leaves none behind."""

    abstract = True

    def __init__(self, environment: Environment) -> None:
        super().__init__(environment)
        self._made: set[str] = set()

    def on_stop(self) -> None:
        """Delete what is left of journeys that were broken off, or whose own deletion was refused.

        All users end in the same moment, which is no load that anybody sends: who is refused tries again later, for as
        long as Locust waits for them.
        """
        answers = (HTTPStatus.NO_CONTENT, HTTPStatus.NOT_FOUND, HTTPStatus.SERVICE_UNAVAILABLE)
        over = time.monotonic() + self.network_timeout
        while self._made and time.monotonic() < over:
            path = self._made.pop()
            answer = self.ask("DELETE", CLEAN_UP, *answers, path=path)
            if answer is not None and answer.status_code == HTTPStatus.SERVICE_UNAVAILABLE:
                self._made.add(path)
                time.sleep(random.uniform(0, CLEAN_UP_SECONDS))  # noqa: S311

    def write(self) -> Journey:
        """Make an item, read it, replace it, be refused to replace what it was before, and delete it."""
        name = f"load {uuid4()}"
        made = self.ask("POST", ITEMS, HTTPStatus.CREATED, holds=name, json={"name": name, "price": "9.99"})
        if made is None:
            return
        path = _field(made, "location")
        self._made.add(path)
        first = _etag(made)
        yield
        self.ask("GET", ITEM, HTTPStatus.OK, path=path, holds=name)
        yield
        seen = {"If-Match": first}
        dearer = {"name": name, "price": "10.99"}
        replaced = self.ask("PUT", ITEM, HTTPStatus.OK, path=path, holds="10.99", headers=seen, json=dearer)
        yield
        self.ask("PUT", ITEM, HTTPStatus.PRECONDITION_FAILED, path=path, headers=seen, json=dearer)
        yield
        headers = {"If-Match": _etag(replaced)} if replaced is not None else {}
        if self.ask("DELETE", ITEM, HTTPStatus.NO_CONTENT, path=path, headers=headers) is not None:
            self._made.discard(path)


class Browse(Visitor):
    """Somebody who only looks; most do."""

    weight = 6

    def journey(self) -> Journey:
        """Browse."""
        return self.browse()


class Write(Writer):
    """A program that keeps items up to date; now and then it sends what is no item."""

    weight = 2

    def journey(self) -> Journey:
        """Write, and in one of ten journeys be told what was wrong first."""
        if random.random() < INVALID_SHARE:  # noqa: S311
            self.ask("POST", ITEMS, HTTPStatus.UNPROCESSABLE_ENTITY, json={"name": ""})
            yield
        yield from self.write()


class Mixed(Writer):
    """Somebody who looks, and then changes something in half of all cases."""

    weight = 2

    def journey(self) -> Journey:
        """Browse, then perhaps write."""
        yield from self.browse()
        if random.random() < WRITE_SHARE:  # noqa: S311
            yield
            yield from self.write()


def _etag(response: FastResponse) -> str:
    return _field(response, "etag")


def _field(response: FastResponse, name: str) -> str:
    return str(response.headers[name]) if response.headers else ""
