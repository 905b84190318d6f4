"""What keeps a part that fails from taking the whole down: deadlines, load shedding, a circuit breaker, retries.

Shedding and deadlines guard the service against its clients, breaker and retries guard a dependency against the
service. After the SRE book, chapter 22, "Addressing Cascading Failures".
"""

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress
from time import perf_counter
from typing import TypeVar

import structlog
from circuitbreaker import STATE_CLOSED, STATE_HALF_OPEN, STATE_OPEN, CircuitBreaker
from starlette.types import ASGIApp, Receive, Scope, Send
from tenacity import AsyncRetrying, RetryCallState, wait_random_exponential

from app.core import errors, probe
from app.core.config import Settings
from app.core.exchange import Exchange
from app.core.metrics import Metrics

T = TypeVar("T")

# What a request is cancelled with when its time is over, so that its calls know why.
_DEADLINE = "deadline exceeded"

log = structlog.get_logger()


class LoadShedding:
    """An ASGI application that answers 503 at once while its bound of requests is inside.

    A queue would make everybody wait for work that its client may have given up on by then; a refusal costs little,
    and a client or load balancer can go elsewhere (SRE book, chapter 21, "Handling Overload").

    A background task keeps the place of its request, so that their number has a bound as well.

    Args:
        app: answers the requests that are let in.
        settings: the bound.
        metrics: counts those that are not.
    """

    def __init__(self, app: ASGIApp, settings: Settings, metrics: Metrics) -> None:
        self._app = app
        self._bound = settings.max_concurrent_requests
        self._shed = metrics.http_requests_shed
        self._inside = 0
        self._shedding = False

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one HTTP request; probes are always let in."""
        if scope["path"] in probe.PATHS:
            await self._app(scope, receive, send)
            return
        if self._inside >= self._bound:
            await self._refuse(scope, receive, send)
            return
        self._inside += 1
        try:
            await self._app(scope, receive, send)
        finally:
            self._inside -= 1
            # At the bound, requests come and go all the time; only well below it is this over.
            if self._shedding and self._inside <= self._bound // 2:
                self._shedding = False
                log.info("load shedding ended", bound=self._bound)

    async def _refuse(self, scope: Scope, receive: Receive, send: Send) -> None:
        self._shed.inc()
        if not self._shedding:
            self._shedding = True
            log.warning("load shedding began", bound=self._bound)
        response = errors.problem(
            scope["path"], 503, "Too many requests are being answered; try again.", headers={"Retry-After": "1"}
        )
        await response(scope, receive, send)


class Deadline:
    """An ASGI application that gives each request a limited time: 504 when it is over, 408 while the body is awaited.

    A response that is sent in parts may go on for as long as each part is read in time: only the stream itself knows
    when it ends. Background tasks have no deadline.

    One timer looks after all requests, so each may take a fiftieth longer: a timer for each costs 20 us of CPU time.

    Args:
        app: answers the requests; it is cancelled when the time is over.
        settings: the time.
        metrics: counts the requests whose time was over.
    """

    def __init__(self, app: ASGIApp, settings: Settings, metrics: Metrics) -> None:
        self._app = app
        self._seconds = settings.request_timeout_seconds
        self._timed_out = metrics.http_requests_timed_out
        self._running: dict[Exchange, asyncio.Task[None]] = {}
        self._watched_by: asyncio.AbstractEventLoop | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one HTTP request."""
        loop = asyncio.get_running_loop()
        exchange = Exchange.of(scope)
        task: asyncio.Task[None] = asyncio.current_task(loop)  # type: ignore[assignment]
        cancelling = task.cancelling()
        self._running[exchange] = task
        if self._watched_by is not loop:
            self._watched_by = loop
            self._watch()
        # As `asyncio.timeout` does it, which costs a request 7 us more.
        try:
            await self._app(scope, receive, send)
        except asyncio.CancelledError:
            # Somebody else may want the request to end: that goes on.
            if not exchange.expired or task.cancelling() > cancelling + 1:
                raise
        except Exception:
            # When the time was over, this is what the application made of being cancelled.
            if not exchange.expired:
                raise
        finally:
            del self._running[exchange]
            # From here on, what is sent is an answer again, whoever gives it.
            expired, exchange.expired = exchange.expired, False
        if expired:
            task.uncancel()
            await self._end(exchange, receive, send)

    def _watch(self) -> None:
        """Cancel the requests whose time is over, and look again while there are any."""
        begun_before = perf_counter() - self._seconds
        for exchange, task in self._running.items():
            if exchange.waiting_since is not None and exchange.waiting_since <= begun_before:
                exchange.waiting_since = None
                exchange.expired = True
                task.cancel(_DEADLINE)
        if self._running and self._watched_by is not None:
            self._watched_by.call_later(self._seconds / 50, self._watch)
        else:
            self._watched_by = None

    async def _end(self, exchange: Exchange, receive: Receive, send: Send) -> None:
        """Answer, unless an answer has begun: that one is broken off, which the client sees too."""
        # Whoever streams a response may wait for a body all the while: that is how a client's leaving is heard of.
        waits_for_body = exchange.awaits_body and not exchange.started
        waiting_for = "body" if waits_for_body else "response"
        self._timed_out.labels(waiting_for).inc()
        log.warning("deadline exceeded", seconds=self._seconds, waiting_for=waiting_for)
        if exchange.started:
            return
        status, detail = (
            (408, f"The request did not arrive within {self._seconds:g} s.")
            if waits_for_body
            else (504, f"The request was not answered within {self._seconds:g} s.")
        )
        scope = exchange.scope
        response = errors.problem(scope["path"], status, detail, headers={"Connection": "close"})
        await response(scope, receive, send)


class CircuitOpenError(Exception):
    """A dependency failed too often and is left alone for a while.

    Args:
        name: the dependency.
        retry_after: seconds until it is asked again.
    """

    def __init__(self, name: str, retry_after: int) -> None:
        super().__init__(f"the circuit breaker of {name} is open")
        self.retry_after = retry_after


# As the metric shows them.
_STATES = {STATE_CLOSED: 0, STATE_HALF_OPEN: 1, STATE_OPEN: 2}


class Breaker:
    """Leaves a dependency alone after so many failures in a row, then lets one call probe it (M. Nygard, Release It!).

    Args:
        name: the dependency, in logs and metrics.
        settings: how many failures open the circuit, and for how long.
        metrics: shows the state.
        failure: what the dependency raises when it does not serve; everything else means that it does.
        neutral: of those, what says nothing about the dependency.
    """

    def __init__(
        self,
        name: str,
        settings: Settings,
        metrics: Metrics,
        failure: type[Exception],
        neutral: type[Exception] | tuple[()] = (),
    ) -> None:
        self._name = name
        self._neutral = neutral
        self._circuit = CircuitBreaker(
            failure_threshold=settings.breaker_failures,
            recovery_timeout=settings.breaker_open_seconds,
            # A call that the deadline of its request cut off says the same.
            expected_exception=(failure, asyncio.CancelledError),
            name=name,
        )
        self._probing = False
        self._told = self._circuit.state
        metrics.circuit_breaker_state.labels(name).set_function(lambda: _STATES[self._circuit.state])

    async def call(self, operation: Callable[[], Awaitable[T]]) -> T:
        """Do the operation, or raise at once.

        Raises:
            CircuitOpenError: the dependency is being left alone, or probed by another call.
        """
        state = self._circuit.state
        if state == STATE_OPEN or self._probing:
            raise CircuitOpenError(self._name, max(1, self._circuit.open_remaining))
        probes = self._probing = state == STATE_HALF_OPEN
        if probes:
            self._tell()
        try:
            result = await operation()
        except BaseException as error:
            self._judge(error)
            raise
        finally:
            if probes:
                self._probing = False
        self._circuit.reset()
        # A call that began before the circuit opened closes it as well when it succeeds.
        if self._told != STATE_CLOSED:
            self._tell()
        return result

    def _judge(self, error: BaseException) -> None:
        """Let the circuit know how a call ended, unless that says nothing about the dependency."""
        if isinstance(error, self._neutral):
            return
        if isinstance(error, asyncio.CancelledError) and error.args != (_DEADLINE,):
            # Whoever wanted the call no longer does, such as a group of tasks of which another one failed.
            return
        with suppress(type(error)), self._circuit:
            raise error
        self._tell()

    def _tell(self) -> None:
        """Log the state when it has changed."""
        before, self._told = self._told, self._circuit.state
        if self._told == before:
            return
        changed = {"name": self._name, "before": before, "after": self._told}
        if self._told == STATE_OPEN:
            failure = self._circuit.last_failure
            told = str(failure) or type(failure).__name__
            log.error("circuit breaker changed", **changed, failure=told, cause=repr(failure.__cause__))
        else:
            log.info("circuit breaker changed", **changed)


class Retries:
    """Tries a call again when its connection broke, after a short random time, and within a budget.

    The budget is a number of tokens: a retry takes one, a success earns a share of one. So a blip is bridged, while an
    outage meets few more calls than there are requests (SRE book, chapter 21, "Deciding to Retry"; gRPC proposal A6,
    "Throttling Retry Attempts"). Only for calls that may be made twice.

    Args:
        name: the dependency, in logs and metrics.
        settings: how many attempts, and the share.
        metrics: counts the retries.
        on: what is worth another attempt.
    """

    BURST = 10.0

    def __init__(self, name: str, settings: Settings, metrics: Metrics, on: type[Exception]) -> None:
        self._name = name
        self._on = on
        self._attempts = settings.retry_attempts
        self._share = settings.retry_budget_percent / 100
        self._capacity = self.BURST if self._share else 0.0
        self._tokens = self._capacity
        self._exhausted = False
        self._made = metrics.retries.labels(name, "made")
        self._refused = metrics.retries.labels(name, "over_budget")

    async def call(self, operation: Callable[[], Awaitable[T]]) -> T:
        """Do the operation until it succeeds, fails for another reason, or must not be tried again."""
        try:
            result = await operation()
        except self._on as error:
            return await self._again(operation, error)
        self._earn()
        return result

    async def _again(self, operation: Callable[[], Awaitable[T]], first: Exception) -> T:
        # The first attempt is over when tenacity begins: its loop costs a call more than everything else here.
        async for attempt in AsyncRetrying(
            retry=self._may_retry,
            wait=wait_random_exponential(multiplier=0.05, max=1),
            before_sleep=self._spend,
            reraise=True,
        ):
            with attempt:
                if attempt.retry_state.attempt_number == 1:
                    raise first
                result = await operation()
                self._earn()
        return result

    def _may_retry(self, state: RetryCallState) -> bool:
        error = state.outcome and state.outcome.exception()
        if not isinstance(error, self._on) or state.attempt_number >= self._attempts:
            return False
        if self._tokens >= 1:
            return True
        self._refused.inc()
        if not self._exhausted:
            self._exhausted = True
            log.warning("retry budget exhausted", name=self._name)
        return False

    def _spend(self, state: RetryCallState) -> None:
        self._tokens -= 1
        self._made.inc()
        log.info("retry", name=self._name, attempt=state.attempt_number + 1)

    def _earn(self) -> None:
        self._tokens = min(self._capacity, self._tokens + self._share)
        if self._exhausted and self._tokens >= self._capacity / 2:
            self._exhausted = False
            log.info("retry budget restored", name=self._name)
