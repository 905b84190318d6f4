"""Logs: one JSON object a line on stdout, whoever wrote it.

structlog renders the service's own events; the standard library's loggers (uvicorn's among them) go through the same
processors. Lines are written by a thread of their own, so a slow reader of stdout never stops the event loop.
"""

import json
import logging
import os
import queue
import re
import sys
import threading
import time
from collections.abc import Callable
from typing import Any

import orjson
import structlog
from opentelemetry import trace
from structlog.typing import EventDict, Processor, WrappedLogger

from app.core.config import FACTS, Settings
from app.core.correlation import correlation_id

_SECRET_KEY = re.compile(
    r"password|passwd|secret|token|authorization|cookie|api[-_]?key|private[-_]?key", re.IGNORECASE
)
_URL_PASSWORD = re.compile(r"(://[^/@:\s]*):[^/@\s]+@")
_REDACTED = "[redacted]"

STDOUT = 1

# Deeper than any value worth logging, and an end for those that contain themselves.
_DEPTH = 10


class LineWriter:
    """Writes lines to a file descriptor from its own thread; memory is bounded, what does not fit is counted.

    Args:
        descriptor: where lines go, 1 for stdout.
        capacity: how many lines may wait; about 10 MB at the length of an access line.
        dropped: called once for each line that did not fit.
    """

    def __init__(self, descriptor: int, capacity: int, dropped: Callable[[], None]) -> None:
        self._descriptor = descriptor
        self._capacity = capacity
        self._dropped = dropped
        self._lines: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._run, name="log-writer", daemon=True)
        self._thread.start()

    def write(self, line: bytes) -> None:
        """Queue one line, without its newline. Never blocks, never raises."""
        if self._lines.qsize() < self._capacity:
            self._lines.put(line)
        else:
            self._dropped()

    def close(self, timeout: float) -> None:
        """Write what waits, for at most `timeout` seconds."""
        self._lines.put(None)
        self._thread.join(timeout)

    def _run(self) -> None:
        open_ = True
        while open_:
            lines = [self._lines.get()]
            while not self._lines.empty():
                lines.append(self._lines.get())
            open_ = None not in lines
            block = memoryview(b"".join(line + b"\n" for line in lines if line is not None))
            while block:
                try:
                    block = block[os.write(self._descriptor, block) :]
                except BlockingIOError:
                    time.sleep(0.01)
                except OSError:
                    # The reader is gone. Of a line that was written in part, nothing useful arrived.
                    for _ in range(bytes(block).count(b"\n")):
                        self._dropped()
                    break


class _WriterLogger:
    """The end of structlog's chain: a logger whose every method takes the rendered line."""

    def __init__(self, write: Callable[[bytes], None]) -> None:
        self.msg = write

    debug = info = warning = error = critical = log = exception = property(lambda self: self.msg)


class _StandardHandler(logging.Handler):
    """Sends the standard library's log records down the same chain."""

    def __init__(self, formatter: logging.Formatter, write: Callable[[bytes], None]) -> None:
        super().__init__()
        self.setFormatter(formatter)
        self._write = write

    def emit(self, record: logging.LogRecord) -> None:
        try:
            self._write(self.format(record).encode("utf-8", "backslashreplace"))
        except Exception:  # noqa: BLE001 - logging.Handler's contract
            self.handleError(record)


class _NotTwice(logging.Filter):
    """Drops what uvicorn says of requests: the telemetry layer has logged each, and what broke it off with its cause."""

    _SAID = frozenset(
        {
            "ASGI callable returned without completing response.",
            # What uvicorn and the package `websockets` say of each WebSocket; the first also of one that was refused.
            "ASGI callable returned without completing handshake.",
            '%s - "WebSocket %s" [accepted]',
            '%s - "WebSocket %s" 403',
            '%s - "WebSocket %s" %d',
            "connection open",
            "connection closed",
            "connection rejected (%d %s)",
        }
    )

    def filter(self, record: logging.LogRecord) -> bool:
        return record.msg not in self._SAID


def configure_logging(settings: Settings, dropped: Callable[[], None], descriptor: int = STDOUT) -> LineWriter:
    """Route every log line of this process to one writer, which the caller closes last.

    Args:
        settings: the level, and the facts that every line carries.
        dropped: counts a line that was lost.
        descriptor: the file descriptor to write to.
    """
    if descriptor == STDOUT and sys.stdout is None:
        # Started without one (`>&-`): the number would soon mean some client's connection.
        descriptor = os.open(os.devnull, os.O_WRONLY)
    writer = LineWriter(descriptor, capacity=20_000, dropped=dropped)
    level = logging.getLevelNamesMapping()[settings.log_level]
    chain = processors(settings)
    structlog.configure(
        processors=[*chain, render],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=lambda *_: _WriterLogger(writer.write),
        cache_logger_on_first_use=True,
    )
    formatter = structlog.stdlib.ProcessorFormatter(
        foreign_pre_chain=[structlog.stdlib.add_logger_name, structlog.stdlib.add_log_level],
        processors=[
            structlog.stdlib.ProcessorFormatter.remove_processors_meta,
            *chain,
            lambda logger, method, event: render(logger, method, event).decode(),
        ],
    )
    logging.basicConfig(handlers=[_StandardHandler(formatter, writer.write)], level=level, force=True)
    logging.captureWarnings(capture=True)
    logging.getLogger("uvicorn.error").addFilter(_NotTwice())
    return writer


def processors(settings: Settings) -> list[Processor]:
    """What happens to every event before it is rendered."""
    constant = {
        "service": FACTS.service.name,
        "environment": settings.environment.value,
        "version": settings.service_version,
    }

    def in_order(_: WrappedLogger, method: str, event: EventDict) -> EventDict:
        """Put the fields of the schema first, and add the ids of the request and the span the event belongs to."""
        span = trace.get_current_span().get_span_context()
        return {
            "timestamp": event.pop("timestamp"),
            "level": event.pop("level", method).upper(),
            **constant,
            "event": event.pop("event", ""),
            "correlation_id": event.pop("correlation_id", None) or correlation_id.get(),
            "trace_id": trace.format_trace_id(span.trace_id) if span.is_valid else None,
            "span_id": trace.format_span_id(span.span_id) if span.is_valid else None,
            # A name that the schema has is taken; the value of a call that uses it is kept beside it.
            **{f"{key}_" if key in constant else key: value for key, value in event.items()},
        }

    return [
        structlog.contextvars.merge_contextvars,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        # Tracebacks hold no local variables: those are where the secrets are.
        structlog.processors.format_exc_info,
        in_order,
        redact,
    ]


def redact(_: WrappedLogger, __: str, event: EventDict) -> EventDict:
    """Hide values under telling keys, at any depth, and passwords inside URLs."""
    return {key: _redacted(key, value) for key, value in event.items()}


def _redacted(key: object, value: Any, depth: int = 0) -> Any:
    if isinstance(key, str) and _SECRET_KEY.search(key):
        return _REDACTED
    if isinstance(value, str):
        return _URL_PASSWORD.sub(rf"\1:{_REDACTED}@", value) if "://" in value else value
    if depth == _DEPTH:
        return "..."
    if isinstance(value, dict):
        return {inner: _redacted(inner, item, depth + 1) for inner, item in value.items()}
    if isinstance(value, list | tuple):
        return [_redacted(None, item, depth + 1) for item in value]
    return value


def render(_: WrappedLogger, __: str, event: EventDict) -> bytes:
    """One line of JSON. A value that cannot be serialised is shown by its `repr`; this never raises."""
    try:
        return orjson.dumps(event, default=repr, option=orjson.OPT_NON_STR_KEYS)
    except TypeError:
        # Integers beyond 64 bits, lone surrogates, circular references: rare, so the slow way is good enough.
        return json.dumps({str(key): _plain(value) for key, value in event.items()}).encode()


def _plain(value: object) -> object:
    if value is None or isinstance(value, str | bool | int | float):
        return value
    try:
        return repr(value)
    except Exception as error:  # noqa: BLE001 - a log call must not fail because a value does
        return f"<{type(value).__name__} whose repr raised {type(error).__name__}>"
