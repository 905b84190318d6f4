"""Logs: one JSON object a line on stdout, whoever wrote it.

structlog takes the service's own events; the standard library's loggers (uvicorn's among them) end in the same lines.
No log call raises, whatever its arguments, and none waits for the reader of stdout.
"""

import logging
import math
import os
import sys
import time
import traceback
from collections.abc import Awaitable, Callable, Mapping
from contextvars import copy_context
from datetime import UTC, datetime
from functools import partial
from typing import Any

import orjson
import structlog
from opentelemetry import trace
from structlog.typing import EventDict, WrappedLogger

from app.core.config import FACTS, Settings
from app.core.correlation import correlation_id
from app.core.line_writer import Line, LineWriter
from app.core.redaction import REDACTED, is_secret, is_worth_hiding, may_need_care, plain, text, traceback_text

STDOUT = 1

# In bytes: about 20 000 access lines.
_WAITING = 8 * 2**20

# What an event takes beside its texts, in bytes.
_OVERHEAD = 1024

_UNCHANGING = frozenset({str, int, float, bool, type(None)})

# In bytes. Loki takes 256 KiB.
_LONGEST_LINE = 128 * 2**10


def configure_logging(settings: Settings, dropped: Callable[[int], None], descriptor: int = STDOUT) -> LineWriter:
    """Route every log line of this process to one writer, which the caller closes last.

    Args:
        settings: the level, and the facts that every line carries.
        dropped: counts lines that were lost.
        descriptor: the file descriptor to write to.
    """
    if descriptor == STDOUT and sys.stdout is None:
        # Started without one (`>&-`): the number would soon mean some client's connection.
        descriptor = os.open(os.devnull, os.O_WRONLY)
    writer = LineWriter(descriptor, _WAITING, dropped)
    level = logging.getLevelNamesMapping()[settings.log_level]
    lines = Lines(settings)
    structlog.configure(
        processors=[lines],
        wrapper_class=bound_logger(level),
        logger_factory=lambda *_: writer,
        cache_logger_on_first_use=True,
    )
    logging.basicConfig(handlers=[_Handler(lines, writer)], level=level, force=True)
    logging.captureWarnings(capture=True)
    logging.getLogger("uvicorn.error").addFilter(_NotTwice())
    return writer


class Lines:
    """Makes lines of events.

    Args:
        settings: the facts that every line carries.
    """

    def __init__(self, settings: Settings) -> None:
        self._constant = {
            "service": FACTS.service.name,
            "environment": settings.environment.value,
            "version": settings.service_version,
        }

    def __call__(self, _: WrappedLogger, level: str, event: EventDict) -> tuple[tuple[Line, int], dict[str, Any]]:
        """The only one of structlog's processors: the arguments of `LineWriter.write`.

        What cannot change any more is rendered later, in the context of now.
        """
        if event.get("exc_info") is True:
            event["exc_info"] = sys.exception()
        size = _OVERHEAD
        for value in event.values():
            kind = type(value)
            if kind is str:
                size += len(value)
            elif kind not in _UNCHANGING:
                line = self._render(level, event, time.time())
                return (line, len(line)), {}
        return (partial(copy_context().run, self._render, level, event, time.time()), size), {}

    def _render(self, level: str, event: EventDict, at: float) -> bytes:
        """One line of JSON, the fields of the schema first. Never raises."""
        try:
            return _json(self._line(level, structlog.contextvars.merge_contextvars(None, level, event), at))
        except Exception as error:  # noqa: BLE001 - a log call must not fail because of what it is given
            event = {"event": "a log line could not be rendered", "error": type(error).__name__}
            return _json(self._line("error", event, at))

    def _line(self, level: str, event: EventDict, at: float) -> dict[str, Any]:
        span = trace.get_current_span().get_span_context()
        line: dict[str, Any] = {
            "timestamp": datetime.fromtimestamp(at, UTC),
            "level": level.upper(),
            **self._constant,
            "event": _shown(event.pop("event", "")),
            "correlation_id": _shown(event.pop("correlation_id", None)) or correlation_id.get(),
            "trace_id": format(span.trace_id, "032x") if span.is_valid else None,
            "span_id": format(span.span_id, "016x") if span.is_valid else None,
        }
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


def bound_logger(minimum: int) -> type[structlog.BoundLoggerBase]:
    """What `structlog.make_filtering_bound_logger` makes, except that no call raises, and none needs another thread.

    Args:
        minimum: the lowest level that is written.
    """

    def log(self: Any, level: int, event: Any = None, /, *arguments: Any, **fields: Any) -> None:
        if level >= minimum:
            _log(self, logging.getLevelName(level).lower(), event, arguments, fields)

    async def alog(self: Any, level: int, event: Any = None, /, *arguments: Any, **fields: Any) -> None:
        log(self, level, event, *arguments, **fields)

    methods: dict[str, Any] = {"log": log, "alog": alog}
    for name, level in _LEVELS.items():
        methods[name], methods[f"a{name}"] = _methods(name) if level >= minimum else (_nothing, _anothing)
    return type("BoundLogger", (structlog.BoundLoggerBase,), methods)


_LEVELS = {
    "debug": logging.DEBUG,
    "info": logging.INFO,
    "warning": logging.WARNING,
    "error": logging.ERROR,
    "exception": logging.ERROR,
    "critical": logging.CRITICAL,
}


def _methods(name: str) -> tuple[Callable[..., None], Callable[..., Awaitable[None]]]:
    level = "error" if name == "exception" else name

    def log(self: Any, event: Any = None, /, *arguments: Any, **fields: Any) -> None:
        if name == "exception":
            fields.setdefault("exc_info", True)
        _log(self, level, event, arguments, fields)

    async def alog(self: Any, event: Any = None, /, *arguments: Any, **fields: Any) -> None:
        log(self, event, *arguments, **fields)

    return log, alog


def _log(logger: Any, level: str, event: Any, arguments: tuple[Any, ...], fields: dict[str, Any]) -> None:
    """Render one event, and write it unless a processor drops it."""
    if event is None:
        event = fields.pop("event", "")
    elif "event" in fields:
        fields["event_"] = fields.pop("event")
    if arguments:
        event = _formatted(event, arguments, fields)
    try:
        line, _ = logger._process_event(level, event, fields)  # noqa: SLF001 - structlog's "Custom wrappers"
    except structlog.DropEvent:
        return
    logger._logger.write(*line)  # noqa: SLF001 - likewise


def _formatted(event: Any, arguments: Any, fields: dict[str, Any]) -> Any:
    """The event with its arguments in place; those that do not fit become a field."""
    try:
        return event % (arguments[0] if len(arguments) == 1 and isinstance(arguments[0], Mapping) else arguments)
    except Exception:  # noqa: BLE001 - an argument's `__str__` may do anything
        fields["arguments"] = arguments
        return event


def _nothing(*_: Any, **__: Any) -> None:
    """Do nothing: the level is too low."""


async def _anothing(*_: Any, **__: Any) -> None:
    """Do nothing: the level is too low."""


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
        line, _ = self._lines(None, record.levelname, fields)
        self._writer.write(*line)


class _NotTwice(logging.Filter):
    """Drops what uvicorn says of a response that broke off: the telemetry layer has logged it with its cause."""

    def filter(self, record: logging.LogRecord) -> bool:
        return record.msg != "ASGI callable returned without completing response."
