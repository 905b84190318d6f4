"""How full the process is: the fourth golden signal (SRE book, chapter 6)."""

import asyncio
from collections import deque

from anyio.to_thread import current_default_thread_limiter

from app.core.metrics import Metrics

_INTERVAL = 0.1
_WINDOW = 10


async def watch(metrics: Metrics) -> None:
    """Measure until cancelled.

    The lag of the event loop is how late a timer fires: the time every request waits for its turn. The gauge shows the
    worst of the last ten measurements, so that a scrape every 15 s still sees a spike that lasts a moment.
    """
    limiter = current_default_thread_limiter()
    metrics.thread_tokens.labels("used").set_function(lambda: limiter.borrowed_tokens)
    metrics.thread_tokens.labels("free").set_function(lambda: limiter.available_tokens)
    loop = asyncio.get_running_loop()
    lags: deque[float] = deque(maxlen=_WINDOW)
    while True:
        expected = loop.time() + _INTERVAL
        await asyncio.sleep(_INTERVAL)
        lags.append(max(0.0, loop.time() - expected))
        metrics.event_loop_lag.set(max(lags))
