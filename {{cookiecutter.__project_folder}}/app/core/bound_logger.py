"""structlog's logger, made so that no log call raises, whatever its arguments."""

import logging
from collections.abc import Awaitable, Callable, Iterable, Mapping
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

# Level, in lower case, and fields.
Occasions = Iterable[tuple[str, dict[str, Any]]]


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
    levels = set()
    for name, level in _METHODS.items():
        if logging.getLevelNamesMapping()[level.upper()] >= minimum:
            levels.add(level)
            methods[name], methods[f"a{name}"] = _methods(name, level)
        else:
            methods[name], methods[f"a{name}"] = _nothing, _anothing

    def together(self: Any, event: str, occasions: Occasions) -> None:
        _emit_together(self, event, [one for one in occasions if one[0] in levels])

    methods["together"] = together
    return type("BoundLogger", (structlog.make_filtering_bound_logger(minimum),), methods)


def log_together(logger: Any, event: str, occasions: Occasions) -> None:
    """Write an event that happened several times, where the logger can in one go: a third of the time a line.

    Args:
        logger: a bound one.
        event: what happened.
        occasions: when, as the field `timestamp`, and how.
    """
    if hasattr(logger, "together"):
        logger.together(event, occasions)
        return
    for level, fields in occasions:
        getattr(logger, level)(event, **fields)


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


def _emit_together(logger: Any, event: str, occasions: Occasions) -> None:
    """Likewise for several that are rendered at once, because they tell of the past."""
    lines = []
    for level, fields in occasions:
        try:
            (line, _), _ = logger._process_event(level, event, fields)  # noqa: SLF001 - likewise
        except structlog.DropEvent:
            continue
        lines.append(line)
    if lines:
        block = b"\n".join(lines)
        logger._logger.write(block, len(block), len(lines))  # noqa: SLF001 - likewise


def _formatted(event: Any, arguments: tuple[Any, ...], fields: dict[str, Any]) -> Any:
    """The event with its arguments in place; those that do not fit become a field."""
    try:
        return event % (arguments[0] if len(arguments) == 1 and isinstance(arguments[0], Mapping) else arguments)
    except Exception:  # noqa: BLE001 - an argument's `__str__` may do anything
        fields["arguments"] = arguments
        return event
