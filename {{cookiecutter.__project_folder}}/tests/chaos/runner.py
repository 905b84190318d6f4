"""One drill from its beginning to its end, which comes whatever happens."""

import asyncio
import contextlib
import signal
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from itertools import pairwise
from typing import TypeVar

from tests.chaos.observe import Observer, Targets
from tests.chaos.place import Place
from tests.chaos.spec import Drill, DrillError, Phase
from tests.chaos.traffic import Traffic
from tests.chaos.verdict import Seen, Span

T = TypeVar("T")

# The first requests open connections, here and to the storage: they are no measure of a service that runs.
WARM_UP_SECONDS = 5.0


@dataclass(frozen=True)
class Event:
    """Something that the drill did."""

    at: float
    text: str


@dataclass
class Clock:
    """Time, which tests give as they like."""

    now: Callable[[], float] = time.monotonic
    sleep: Callable[[float], Awaitable[None]] = asyncio.sleep


@dataclass
class Outcome:
    """What a drill brought."""

    seen: Seen
    events: list[Event] = field(default_factory=list)


Watch = Callable[[Targets, Drill, Callable[[], float]], Observer]


def observer(targets: Targets, drill: Drill, clock: Callable[[], float]) -> Observer:
    """The observer that looks for real."""
    return Observer(targets, Traffic(targets.service, drill.requests_per_second, clock), clock)


def to_people(text: str) -> None:
    """Say something; that nobody listens any more must not keep a drill from cleaning up."""
    with contextlib.suppress(OSError):
        sys.stderr.write(f"{text}\n")
        sys.stderr.flush()


class Runner:
    """Runs one drill.

    Args:
        drill: which.
        place: where.
        clock: the time.
        watch: makes what looks at it.
        say: tells people what happens.
    """

    def __init__(
        self,
        drill: Drill,
        place: Place,
        clock: Clock | None = None,
        watch: Watch = observer,
        say: Callable[[str], None] = to_people,
    ) -> None:
        self._drill = drill
        self._place = place
        self._clock = clock or Clock()
        self._watch = watch
        self._say = say
        self._began = 0.0
        self._events: list[Event] = []
        self._replicas: list[tuple[float, int]] = []

    async def run(self, *, even_in_production: bool = False) -> Outcome:
        """Do it, and leave nothing behind.

        Raises:
            DrillError: it is refused, or cannot be done here.
        """
        if (refusal := self._place.refusal()) and not even_in_production:
            raise DrillError(f"Nothing was done: {refusal}. With --even-in-production it would be done all the same.")
        if left := self._place.leftovers():
            self._say(f"An earlier drill was cut short; removing what it left: {len(left)} things")
            self._place.clean()
        self._began = self._clock.now()
        try:
            self._say(f"{self._drill.title}: starting")
            return await self._observed(self._place.start())
        finally:
            self._say("cleaning up")
            self._place.clean()

    def _elapsed(self) -> float:
        return self._clock.now() - self._began

    def _tell(self, text: str) -> None:
        self._events.append(Event(self._elapsed(), text))
        self._say(f"{self._elapsed():6.1f} s  {text}")

    async def _observed(self, targets: Targets) -> Outcome:
        drill = self._drill
        self._began = self._clock.now()
        observer = self._watch(targets, drill, self._elapsed)
        async with _in_background(observer.run()):
            self._tell("warming up")
            await self._pass(WARM_UP_SECONDS)
            marks = [self._elapsed()]
            self._tell(f"steady: {drill.requests_per_second:g} requests a second")
            await self._pass(drill.steady_seconds)
            marks.append(self._elapsed())
            self._tell(f"fault begins: {drill.fault.kind}")
            try:
                rate = await _in_a_thread(self._place.inject)
                if rate is not None:
                    observer.traffic.requests_per_second = rate
                await self._pass(drill.fault_seconds - (self._elapsed() - marks[-1]))
            finally:
                marks.append(self._elapsed())
                self._tell("fault ends")
                observer.traffic.requests_per_second = drill.requests_per_second
                await _in_a_thread(self._place.restore)
            await self._pass(drill.after_seconds)
            marks.append(self._elapsed())
        spans = (Span(*pair) for pair in pairwise(marks))
        phases = dict(zip(Phase, spans, strict=True))
        seen = Seen(
            phases,
            tuple(observer.traffic.samples),
            tuple(observer.looks),
            tuple(observer.fired),
            watched=bool(targets.prometheus),
            replicas=tuple(self._replicas),
            pages_as=targets.pages_as,
        )
        return Outcome(seen, self._events)

    async def _pass(self, seconds: float) -> None:
        """Let time pass, and count the replicas meanwhile."""
        end = self._elapsed() + seconds
        while (left := end - self._elapsed()) > 0:
            self._replicas.append((self._elapsed(), await _in_a_thread(self._place.replicas)))
            await self._clock.sleep(min(left, 5.0))


async def _in_a_thread(work: Callable[[], T]) -> T:
    """What this brings, while requests go on.

    A thread cannot be ended. A drill that is told to stop waits for it, as cleaning up would miss what it does later.
    """
    task = asyncio.ensure_future(asyncio.to_thread(work))
    told_to_stop = False
    while not task.done():
        try:
            await asyncio.wait([task])
        except asyncio.CancelledError:
            told_to_stop = True
    failure = task.exception()
    if told_to_stop:
        raise asyncio.CancelledError from failure
    return task.result()


@contextlib.asynccontextmanager
async def _in_background(work: Awaitable[None]) -> AsyncIterator[None]:
    """Have this done meanwhile; when it fails, so does the block."""
    block = asyncio.current_task()
    task = asyncio.ensure_future(work)
    failed = False

    def stop(done: "asyncio.Future[None]") -> None:
        nonlocal failed
        if not done.cancelled() and done.exception() and block:
            failed = True
            block.cancel()

    task.add_done_callback(stop)
    try:
        yield
    except asyncio.CancelledError:
        if not failed:
            raise
    finally:
        if not failed:
            task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


def run_to_the_end(runner: Runner, *, even_in_production: bool = False) -> Outcome:
    """Run a drill; Ctrl-C, SIGTERM and a terminal that is closed end it early, and it cleans up all the same.

    Raises:
        KeyboardInterrupt: it was ended early.
        DrillError: it could not be done.
    """

    async def main() -> Outcome:
        task = asyncio.current_task()
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            loop.add_signal_handler(number, lambda: task and task.cancel())
        return await runner.run(even_in_production=even_in_production)

    try:
        return asyncio.run(main())
    except asyncio.CancelledError:
        raise KeyboardInterrupt from None
