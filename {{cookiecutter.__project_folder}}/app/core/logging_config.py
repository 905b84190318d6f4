"""Logs: one JSON object a line on stdout, whoever wrote it.

structlog takes the service's own events; the standard library's loggers (uvicorn's among them) end in the same lines.
No log call raises, whatever its arguments, and none waits for the reader of stdout.
"""

import asyncio
import logging
import math
import os
import sys
import threading
import traceback
from collections.abc import Callable
from contextvars import copy_context
from datetime import UTC, datetime
from functools import partial
from types import TracebackType
from typing import Any

import orjson
import structlog
from opentelemetry import trace
from structlog.typing import EventDict, WrappedLogger

from app.core.bound_logger import bound_logger, level_name
from app.core.config import FACTS, Settings
from app.core.correlation import correlation_id
from app.core.line_writer import Line, LineWriter
from app.core.redaction import REDACTED, is_secret, is_worth_hiding, may_need_care, plain, text, traceback_text

log = structlog.get_logger()

STDOUT = 1

# In bytes: about 20 000 access lines.
_WAITING = 8 * 2**20

# What an event takes beside its texts, and how much it may take while it waits to be rendered, in bytes.
_OVERHEAD = 1024
_LATER = 8192

_UNCHANGING = frozenset({str, int, float, bool, type(None)})

# In bytes. Loki takes 256 KiB.
_LONGEST_LINE = 128 * 2**10


def configure_logging(
    settings: Settings,
    *,
    counted: Callable[[str], None] = lambda _: None,
    dropped: Callable[[int], None] = lambda _: None,
    descriptor: int = STDOUT,
) -> LineWriter:
    """Route every log line of this process to one writer, which the caller closes last.

    Args:
        settings: the level, and the facts that every line carries.
        counted: called with the level of each line, in lower case, before the line may be lost.
        dropped: called with the number of lines that were lost.
        descriptor: the file descriptor to write to.
    """
    if descriptor == STDOUT and sys.stdout is None:
        # Started without one (`>&-`): the number would soon mean some client's connection.
        descriptor = os.open(os.devnull, os.O_WRONLY)
    writer = LineWriter(descriptor, _WAITING, dropped)
    level = logging.getLevelNamesMapping()[settings.log_level]
    lines = Lines(settings, counted)
    structlog.configure(
        processors=[lines],
        wrapper_class=bound_logger(level),
        logger_factory=lambda *_: writer,
        cache_logger_on_first_use=True,
    )
    logging.basicConfig(handlers=[_Handler(lines, writer)], level=level, force=True)
    logging.captureWarnings(capture=True)
    logging.getLogger("uvicorn.error").addFilter(_NotTwice())
    _log_what_nobody_caught()
    return writer


class Lines:
    """Makes lines of events.

    Args:
        settings: the facts that every line carries.
        counted: called with the level of each, in lower case.
    """

    def __init__(self, settings: Settings, counted: Callable[[str], None]) -> None:
        self._counted = counted
        self._constant = {
            "service": FACTS.service.name,
            "environment": settings.environment.value,
            "version": settings.service_version,
        }

    def __call__(self, _: WrappedLogger, level: str, event: EventDict) -> tuple[tuple[Line, int], dict[str, Any]]:
        """The only one of structlog's processors: the arguments of `LineWriter.write`.

        What is small and cannot change any more is rendered later, in the context of now. A call that tells of the
        past says when that was, with a zone (`timestamp=`), and may say in which trace: it is rendered at once.
        """
        self._counted(level)
        at = event.get("timestamp")
        if isinstance(at, datetime) and at.tzinfo:
            del event["timestamp"]
            line = self._render(level, event, at, event.pop("trace_id", None), event.pop("span_id", None))
            return (line, len(line)), {}
        at = datetime.now(UTC)
        if event.get("exc_info") is True:
            event["exc_info"] = sys.exception()
        size, kind = _OVERHEAD, type(None)
        for value in event.values():
            kind = type(value)
            if kind is str:
                size += len(value)
            elif kind not in _UNCHANGING:
                break
        if size > _LATER or kind not in _UNCHANGING:
            line = self._render(level, event, at)
            return (line, len(line)), {}
        return (partial(copy_context().run, self._render, level, event, at), size), {}

    def _render(
        self, level: str, event: EventDict, at: datetime, trace_id: str | None = None, span_id: str | None = None
    ) -> bytes:
        """One line of JSON, the fields of the schema first. Never raises."""
        if trace_id is None:
            span = trace.get_current_span().get_span_context()
            if span.is_valid:
                trace_id, span_id = trace.format_trace_id(span.trace_id), trace.format_span_id(span.span_id)
        schema = {
            "timestamp": at.astimezone(UTC),
            "level": level.upper(),
            **self._constant,
            "event": "",
            "correlation_id": None,
            "trace_id": trace_id,
            "span_id": span_id,
        }
        try:
            return _json(self._line(schema.copy(), structlog.contextvars.merge_contextvars(None, level, event)))
        except Exception as error:  # noqa: BLE001 - a log call must not fail because of what it is given
            event = {"event": "a log line could not be rendered", "error": type(error).__name__}
            return _json(self._line({**schema, "level": "ERROR"}, event))

    @staticmethod
    def _line(line: dict[str, Any], event: EventDict) -> dict[str, Any]:
        line["event"] = _shown(event.pop("event", ""))
        line["correlation_id"] = _shown(event.pop("correlation_id", None)) or correlation_id.get()
        error = event.pop("exc_info", None)
        for name, value in event.items():
            # A name that the schema has is taken; the value of a call that uses it is kept beside it.
            free = f"{name}_" if name in line else name
            line[free] = REDACTED if is_secret(name) and is_worth_hiding(name, value) else _shown(value)
        if error:
            line["exception"] = _traceback(error)
        return line


def _shown(value: Any) -> Any:
    """What of a value is shown; quick for what most values are."""
    kind = type(value)
    if kind is str:
        return text(value) if may_need_care(value) else value
    if kind is int or kind is bool or value is None or (kind is float and math.isfinite(value)):
        return value
    return plain(value)


def _traceback(error: Any) -> str:
    """The traceback with its causes. It holds no local variables: those are where the secrets are."""
    if isinstance(error, tuple):
        error = error[1]
    elif not isinstance(error, BaseException):
        error = sys.exception()
    return traceback_text("".join(traceback.format_exception(error)))


def _json(line: dict[str, Any]) -> bytes:
    try:
        rendered = orjson.dumps(line, option=orjson.OPT_UTC_Z)
    except TypeError:
        # Integers beyond 64 bits, lone surrogates.
        rendered = None
    if rendered and len(rendered) <= _LONGEST_LINE:
        return rendered
    return orjson.dumps(plain({**line, "timestamp": f"{line['timestamp']:%Y-%m-%dT%H:%M:%S.%fZ}"}))


class _Handler(logging.Handler):
    """Sends the standard library's log records down the same way."""

    def __init__(self, lines: Lines, writer: LineWriter) -> None:
        super().__init__()
        self._lines = lines
        self._writer = writer

    def emit(self, record: logging.LogRecord) -> None:
        fields: dict[str, Any] = {"logger": record.name}
        try:
            fields["event"] = record.getMessage()
        except Exception:  # noqa: BLE001 - an argument's `__str__` may do anything
            fields |= {"event": record.msg, "arguments": record.args}
        if record.exc_info:
            fields["exc_info"] = record.exc_info
        line, _ = self._lines(None, level_name(record.levelno), fields)
        self._writer.write(*line)


class _NotTwice(logging.Filter):
    """Drops what uvicorn says of requests: the telemetry layer has told of each, and of what broke it off."""

    _SAID = frozenset(
        {
            "ASGI callable returned without starting response.",
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
        cancelled = record.exc_info and isinstance(record.exc_info[1], asyncio.CancelledError)
        return not cancelled and record.msg not in self._SAID


def _log_what_nobody_caught() -> None:
    """Errors that Python would print as plain text become lines: those that end the process, a thread, a finaliser."""

    def ended(kind: type[BaseException], error: BaseException, _: TracebackType | None) -> None:
        log.critical("unhandled exception ends the process", error=kind.__name__, exc_info=error)

    def in_thread(what: threading.ExceptHookArgs) -> None:
        if what.exc_type is not SystemExit:
            thread = what.thread.name if what.thread else None
            log.error(
                "unhandled exception in a thread", thread=thread, error=what.exc_type.__name__, exc_info=what.exc_value
            )

    def unraisable(what: "sys.UnraisableHookArgs") -> None:
        log.error("exception ignored", where=what.object, error=what.exc_type.__name__, exc_info=what.exc_value)

    sys.excepthook, threading.excepthook, sys.unraisablehook = ended, in_thread, unraisable
