"""structlog's logger, made so that no log call raises, whatever its arguments."""

import logging
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

import structlog

# The methods and the levels they log at, by the names structlog's processors know those by.
_METHODS = {
    "debug": "debug",
    "info": "info",
    "msg": "info",
    "warning": "warning",
    "warn": "warning",
    "error": "error",
    "exception": "error",
    "critical": "critical",
    "fatal": "critical",
}


def bound_logger(minimum: int) -> type[structlog.BoundLoggerBase]:
    """A class of loggers for `structlog.configure`, whose last processor returns the arguments of the end's `write`.

    It differs from what `structlog.make_filtering_bound_logger` makes: arguments that do not fit their event, and
    fields named `event` or `self`, are kept rather than raised for; the asynchronous methods run where they are called,
    since nothing in the service's chain waits.

    Args:
        minimum: the lowest level that is written, as a number of the standard library's.
    """

    def log(self: Any, level: int, event: Any = None, /, *arguments: Any, **fields: Any) -> None:
        if level >= minimum:
            _emit(self, level_name(level), event, arguments, fields)

    async def alog(self: Any, level: int, event: Any = None, /, *arguments: Any, **fields: Any) -> None:
        log(self, level, event, *arguments, **fields)

    methods: dict[str, Any] = {"log": log, "alog": alog}
    for name, level in _METHODS.items():
        enabled = logging.getLevelNamesMapping()[level.upper()] >= minimum
        methods[name], methods[f"a{name}"] = _methods(name, level) if enabled else (_nothing, _anothing)
    return type("BoundLogger", (structlog.make_filtering_bound_logger(minimum),), methods)


def level_name(level: int) -> str:
    """The nearest of the five levels that is not above this one, or the lowest: `info` for 25."""
    for name in ("critical", "error", "warning", "info"):
        if level >= logging.getLevelNamesMapping()[name.upper()]:
            return name
    return "debug"


def _methods(name: str, level: str) -> tuple[Callable[..., None], Callable[..., Awaitable[None]]]:
    def log(self: Any, event: Any = None, /, *arguments: Any, **fields: Any) -> None:
        if name == "exception":
            fields.setdefault("exc_info", True)
        _emit(self, level, event, arguments, fields)

    async def alog(self: Any, event: Any = None, /, *arguments: Any, **fields: Any) -> None:
        log(self, event, *arguments, **fields)

    return log, alog


def _nothing(*_: Any, **__: Any) -> None:
    """Take the place of a method whose level is too low."""


async def _anothing(*_: Any, **__: Any) -> None:
    """Take the place of an asynchronous method whose level is too low."""


def _emit(logger: Any, level: str, event: Any, arguments: tuple[Any, ...], fields: dict[str, Any]) -> None:
    """Send one event through the processors, and to the end unless one of them drops it."""
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


def _formatted(event: Any, arguments: tuple[Any, ...], fields: dict[str, Any]) -> Any:
    """The event with its arguments in place; those that do not fit become a field."""
    try:
        return event % (arguments[0] if len(arguments) == 1 and isinstance(arguments[0], Mapping) else arguments)
    except Exception:  # noqa: BLE001 - an argument's `__str__` may do anything
        fields["arguments"] = arguments
        return event
