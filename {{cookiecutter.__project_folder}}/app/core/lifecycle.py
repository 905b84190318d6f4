"""The life of the process: starting, ready, draining, gone. Only this module touches signals, once it is imported.

On SIGTERM the service first turns unready and goes on serving, so that load balancers can take it out; then uvicorn
stops listening and lets requests in flight finish; then what the application opened is closed; telemetry goes last.
"""

import asyncio
import contextlib
import faulthandler
import gc
import signal
import socket
import sys
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import AsyncExitStack
from functools import partial
from types import FrameType

import structlog
import uvicorn
from opentelemetry import trace
from opentelemetry.propagate import set_global_textmap

from app.core.config import Settings
from app.core.correlation import PROPAGATOR
from app.core.http_protocol import BoundedHttp
from app.core.logging_config import configure_logging
from app.core.telemetry import Telemetry
from app.storage import OutdatedError, UnavailableError

log = structlog.get_logger()

# Exit code of a start that failed; uvicorn's for a port that is taken.
START_FAILED = 3

# How long requests that were cut off may take to notice, and then what the application opened to close.
_CUT_OFF_SECONDS = 1.0
_CLOSE_SECONDS = 4.0
# How long another thread may keep the interpreter from the event loop.
_SWITCH_SECONDS = 0.0005
# What a busy machine adds.
_SPARE_SECONDS = 2.0


def exit_seconds(settings: Settings) -> float:
    """How long the process takes to end after SIGTERM at most: a grace period has to be longer than this."""
    return settings.drain_seconds + _exit_seconds_without_drain(settings)


def _exit_seconds_without_drain(settings: Settings) -> float:
    closing = settings.graceful_shutdown_seconds + _CUT_OFF_SECONDS + _CLOSE_SECONDS
    # Spans have their time, and then log lines have as much.
    return closing + 2 * settings.telemetry_flush_seconds + _SPARE_SECONDS


class Readiness:
    """Whether the service can do its work, asked by many and checked by one.

    Args:
        check: returns when the dependencies serve, raises otherwise.
        cache_seconds: how long a result is reused, so that probes are no load on the dependencies.
        timeout_seconds: after this the check has failed.
    """

    def __init__(self, check: Callable[[], Awaitable[None]], cache_seconds: float, timeout_seconds: float) -> None:
        self._check = check
        self._cache_seconds = cache_seconds
        self._timeout_seconds = timeout_seconds
        self._lock = asyncio.Lock()
        self._checked_at = float("-inf")
        self._failure: str | None = None
        self._outdated = False
        self.started = False
        self.draining = False

    async def problem(self) -> str | None:
        """What keeps the service from serving, or None."""
        if self.draining:
            return "draining"
        if not self.started:
            return "starting"
        return await self._cached_failure()

    async def startup_problem(self) -> str | None:
        """What keeps the service from having started, or None: itself, or a store that is not yet up to date.

        A store that is down does not count: a restart would not bring it back.
        """
        if not self.started:
            return "starting"
        failure = await self._cached_failure()
        return failure if self._outdated else None

    async def _cached_failure(self) -> str | None:
        async with self._lock:
            if time.monotonic() - self._checked_at >= self._cache_seconds:
                before, self._failure = self._failure, await self._dependency_failure()
                self._checked_at = time.monotonic()
                if self._failure != before:
                    (log.error if self._failure else log.info)("readiness changed", problem=self._failure)
        return self._failure

    async def _dependency_failure(self) -> str | None:
        self._outdated = False
        try:
            async with asyncio.timeout(self._timeout_seconds):
                await self._check()
        except TimeoutError:
            return f"storage: no answer within {self._timeout_seconds:g} s"
        except UnavailableError as error:
            self._outdated = isinstance(error, OutdatedError)
            # The cause is for people inside: it may name hosts and users.
            log.warning("dependency check failed", dependency="storage", error=str(error), cause=repr(error.__cause__))
            return f"storage: {error}"
        except Exception as error:  # noqa: BLE001 - whatever else it is, the dependency does not serve
            log.warning("dependency check failed", dependency="storage", error=str(error))
            return f"storage: {type(error).__name__}"
        return None


class Server(uvicorn.Server):
    """uvicorn within the application's lifespan, with a drain before its shutdown, and a bound on all of it.

    The first SIGTERM drains; a second one, or SIGINT (a person is waiting), goes straight to uvicorn's own graceful
    shutdown; one more SIGINT cuts off what is left. A signal during the start ends the start. What hangs in spite of
    all that is ended with exit code 1 after `exit_seconds`, and standard error shows where it hung.

    uvicorn would enter the lifespan in a task that nothing can cancel, and log what it raises as a text of many lines.

    Args:
        config: uvicorn's; its own lifespan must be off.
        app: what is served.
    """

    def __init__(self, config: uvicorn.Config, app: Telemetry) -> None:
        super().__init__(config)
        self._fastapi = app.fastapi
        self._readiness: Readiness = app.fastapi.state.readiness
        self._settings = app.settings
        self._opened = AsyncExitStack()
        self._starting: asyncio.Task[None] | None = None

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Take the signals for good: nothing that comes after may be cut short.

        uvicorn would give them back at its end and raise them again, to die by them: but this is a success.
        """
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, self.handle_exit)
        yield

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """React to a signal. Runs between two byte codes of anything, so it only sets flags and asks the loop."""
        first, self._readiness.draining = not self._readiness.draining, True
        if sig == signal.SIGTERM and first and self.started and self._settings.drain_seconds:
            _give_up_in(exit_seconds(self._settings))
            asyncio.get_running_loop().call_soon_threadsafe(self._drain)
            return
        if not self.should_exit:
            _give_up_in(_exit_seconds_without_drain(self._settings))
        super().handle_exit(sig, frame)
        if self._starting is not None:
            self._starting.get_loop().call_soon_threadsafe(self._stop_starting)

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Enter the lifespan, then listen; or end, when that fails or a signal comes meanwhile."""
        self._starting = asyncio.current_task()
        try:
            await self._open()
            try:
                await super().startup(sockets)
            except BaseException:
                await self._close()
                raise
        except asyncio.CancelledError:
            if not self.should_exit:
                raise
            log.info("stopped before it had started")
        finally:
            self._starting = None

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Stop listening, let requests finish, cut off those that do not, leave the lifespan."""
        await super().shutdown(sockets)
        if cut_off := self.server_state.tasks:
            # uvicorn cuts them off when their time is over, but not when a person is in a hurry; and waits for none.
            for task in cut_off:
                if not task.cancelling():
                    task.cancel()
            # They may still use what the application opened.
            await asyncio.wait(cut_off, timeout=_CUT_OFF_SECONDS)
        await self._close()

    def _stop_starting(self) -> None:
        if self._starting is not None:
            self._starting.cancel()

    def _drain(self) -> None:
        log.info("draining", seconds=self._settings.drain_seconds)
        for connection in self.server_state.connections:
            if isinstance(connection, BoundedHttp):
                connection.announce_close()
        asyncio.get_running_loop().call_later(self._settings.drain_seconds, self._stop)

    def _stop(self) -> None:
        self.should_exit = True

    async def _open(self) -> None:
        try:
            state = await self._opened.enter_async_context(self._fastapi.router.lifespan_context(self._fastapi))
        except Exception as error:
            log.critical("the start failed", error=f"{type(error).__name__}: {error}", exc_info=True)
            raise SystemExit(START_FAILED) from error
        self.lifespan.state.update(state or {})
        # What the start made lives as long as the process: no collection needs to look at it ever.
        gc.freeze()
        gc.enable()

    async def _close(self) -> None:
        try:
            async with asyncio.timeout(_CLOSE_SECONDS):
                await self._opened.aclose()
        except TimeoutError:
            log.exception("the application did not close in time", seconds=_CLOSE_SECONDS)
        except Exception as error:
            log.exception("the application failed to close", error=f"{type(error).__name__}: {error}")
        else:
            log.info("application closed")


def _give_up_in(seconds: float) -> None:
    """End the process after so many seconds if it still runs, and show where each of its threads is.

    This is a thread in C: it needs neither the event loop, which may be what hangs, nor the interpreter's lock.
    """
    with contextlib.suppress(ValueError, OSError, AttributeError):
        faulthandler.dump_traceback_later(seconds, exit=True, file=sys.stderr)


def serve(settings: Settings, build: Callable[[Settings], Telemetry]) -> int:
    """Run the service until a signal ends it; the exit code of the process.

    Args:
        settings: the settings.
        build: makes the application.
    """
    app = build(settings)
    logs = configure_logging(
        settings, counted=app.metrics.count_log_line, dropped=app.metrics.telemetry_dropped.labels("logs").inc
    )
    # Threads encode spans and make lines: by default, a request may wait 5 ms for each of them.
    sys.setswitchinterval(_SWITCH_SECONDS)
    trace.set_tracer_provider(app.tracing.provider)
    set_global_textmap(PROPAGATOR)
    try:
        return _serve(settings, app)
    finally:
        app.flush()
        if unsent := app.tracing.shutdown(settings.telemetry_flush_seconds):
            log.warning("spans lost at exit", spans=unsent)
        logs.close(settings.telemetry_flush_seconds)


def _serve(settings: Settings, app: Telemetry) -> int:
    try:
        # It answers until the process is gone, so that even what the end lost can be read.
        app.metrics.serve(settings.http_host, settings.metrics_port)
    except OSError as error:
        log.critical(
            "the metrics port cannot be bound", host=settings.http_host, port=settings.metrics_port, error=str(error)
        )
        return START_FAILED
    readiness: Readiness = app.fastapi.state.readiness
    http = partial(
        BoundedHttp,
        # Room for the line ends and separators that the exact limits do not count.
        head_bytes=2 * (settings.max_uri_bytes + settings.max_header_bytes),
        head_seconds=settings.request_timeout_seconds,
        draining=lambda: readiness.draining,
    )
    config = uvicorn.Config(
        app,
        http=http,  # type: ignore[arg-type]
        lifespan="off",
        host=settings.http_host,
        port=settings.http_port,
        log_config=None,
        access_log=False,
        # What one request of a connection binds would else be there for the next (CPython issue 140947).
        reset_contextvars=True,
        server_header=False,
        proxy_headers=bool(settings.forwarded_allow_ips),
        forwarded_allow_ips=settings.forwarded_allow_ips,
        timeout_keep_alive=settings.keep_alive_seconds,
        timeout_graceful_shutdown=settings.graceful_shutdown_seconds,
    )
    try:
        Server(config, app).run()
    except SystemExit as error:
        return error.code if isinstance(error.code, int) else 1
    return 0
