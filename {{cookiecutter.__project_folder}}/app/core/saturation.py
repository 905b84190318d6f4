"""How full the process is: the fourth golden signal (SRE book, chapter 6)."""

import asyncio
import time

from anyio.to_thread import current_default_thread_limiter

from app.core.metrics import Metrics

_INTERVAL = 0.1
_WINDOW = 60.0


class EventLoopLag:
    """How late the event loop runs a timer: the time every request waits for its turn.

    It remembers the worst of the last minute, so that a scrape now and then sees a spike that lasted a moment; and a
    scrape while the loop is blocked, which another thread answers, sees the block that is under way.
    """

    def __init__(self) -> None:
        self._due = time.monotonic() + _INTERVAL
        self._measured: tuple[tuple[float, float], ...] = ()

    async def watch(self) -> None:
        """Measure until cancelled."""
        while True:
            self._due = time.monotonic() + _INTERVAL
            await asyncio.sleep(_INTERVAL)
            now = time.monotonic()
            recent = [(at, lag) for at, lag in self._measured if at > now - _WINDOW]
            lag = max(0.0, now - self._due)
            # Nothing that came before and was less will ever be the worst again.
            self._measured = (*(one for one in recent if one[1] > lag), (now, lag))

    def seconds(self) -> float:
        """The worst lag of the last minute, the present one included. Safe from any thread."""
        return max(time.monotonic() - self._due, *(lag for _, lag in self._measured), 0.0)


async def watch(metrics: Metrics) -> None:
    """Measure until cancelled."""
    limiter = current_default_thread_limiter()
    metrics.thread_tokens.labels("used").set_function(lambda: limiter.borrowed_tokens)
    metrics.thread_tokens.labels("free").set_function(lambda: limiter.available_tokens)
    lag = EventLoopLag()
    metrics.event_loop_lag.set_function(lag.seconds)
    await lag.watch()
