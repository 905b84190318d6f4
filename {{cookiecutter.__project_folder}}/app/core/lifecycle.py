"""The life of the process: ready, draining, gone. Only this module touches signals.

On SIGTERM the service first turns unready and goes on serving, so that load balancers can take it out; then uvicorn
stops listening and lets requests in flight finish; then the store is closed; telemetry goes last.
"""

import asyncio
import gc
import signal
import time
from collections.abc import Awaitable, Callable
from functools import partial
from types import FrameType

import structlog
import uvicorn
from opentelemetry import trace

from app.core.config import Settings
from app.core.http_protocol import BoundedHttp
from app.core.logging_config import configure_logging
from app.core.telemetry import Telemetry
from app.storage import OutdatedError, UnavailableError

log = structlog.get_logger()


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
    """uvicorn, but with a drain before its shutdown, and exit code 0 after a stop that was asked for.

    The first SIGTERM drains; a second one, or SIGINT (a person is waiting), goes straight to uvicorn's own graceful
    shutdown; one more SIGINT forces it.
    """

    def __init__(self, config: uvicorn.Config, readiness: Readiness, drain_seconds: float) -> None:
        super().__init__(config)
        self._readiness = readiness
        self._drain_seconds = drain_seconds

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """React to a signal. Runs between two byte codes of anything, so it only sets flags and asks the loop."""
        first, self._readiness.draining = not self._readiness.draining, True
        if sig == signal.SIGTERM and first and self.started and self._drain_seconds:
            loop = asyncio.get_running_loop()
            loop.call_soon_threadsafe(self._drain)
        else:
            super().handle_exit(sig, frame)
            # uvicorn would raise these again at its end, to die by the signal: but this is a success.
            self._captured_signals.clear()

    def _drain(self) -> None:
        log.info("draining", seconds=self._drain_seconds)
        asyncio.get_running_loop().call_later(self._drain_seconds, self._stop)

    def _stop(self) -> None:
        self.should_exit = True


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
    trace.set_tracer_provider(app.tracing.provider)
    try:
        return _serve(settings, app)
    finally:
        # What is left to do is bounded, and cut short it would lose what the next person needs.
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, signal.SIG_IGN)
        if unsent := app.tracing.shutdown(settings.telemetry_flush_seconds):
            log.warning("spans lost at exit", spans=unsent)
        logs.close(settings.telemetry_flush_seconds)


def _serve(settings: Settings, app: Telemetry) -> int:
    try:
        metrics_server = app.metrics.serve(settings.http_host, settings.metrics_port)
    except OSError as error:
        log.critical(
            "the metrics port cannot be bound", host=settings.http_host, port=settings.metrics_port, error=str(error)
        )
        return 3
    http = partial(
        BoundedHttp,
        # Room for the line ends and separators that the exact limits do not count.
        head_bytes=2 * (settings.max_uri_bytes + settings.max_header_bytes),
        head_seconds=settings.request_timeout_seconds,
    )
    config = uvicorn.Config(
        app,
        http=http,  # type: ignore[arg-type]
        host=settings.http_host,
        port=settings.http_port,
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=bool(settings.forwarded_allow_ips),
        forwarded_allow_ips=settings.forwarded_allow_ips,
        timeout_keep_alive=settings.keep_alive_seconds,
        timeout_graceful_shutdown=settings.graceful_shutdown_seconds,
    )
    # What start-up made lives as long as the process: no collection needs to look at it again.
    gc.collect()
    gc.freeze()
    try:
        Server(config, app.fastapi.state.readiness, settings.drain_seconds).run()
    except SystemExit as error:
        return error.code if isinstance(error.code, int) else 1
    finally:
        metrics_server.shutdown()
        metrics_server.server_close()
    return 0
