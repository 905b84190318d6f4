"""Logs: one JSON object a line, whoever wrote it and whatever is in it."""

import asyncio
import gc
import json
import logging
import os
import subprocess
import sys
import threading
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta, timezone
from decimal import Decimal
from enum import Enum
from functools import partial
from pathlib import Path
from typing import Any
from unittest.mock import MagicMock
from uuid import UUID

import pytest
import structlog
from opentelemetry import context as otel_context
from opentelemetry.trace import NonRecordingSpan, SpanContext, TraceFlags, set_span_in_context

from app.core.bound_logger import log_together
from app.core.config import FACTS, Settings
from app.core.correlation import correlation_id
from app.core.logging_config import configure_logging
from tests.support import ROOT

PAST = datetime(2026, 1, 2, 3, 4, 5, tzinfo=timezone(timedelta(hours=1)))

SCHEMA = ["timestamp", "level", "service", "environment", "version", "event", "correlation_id", "trace_id", "span_id"]


class Log:
    """Logging as in a running service, but into a file."""

    def __init__(self, settings: Settings, file: Path) -> None:
        self._file = file
        self._descriptor = os.open(file, os.O_WRONLY | os.O_CREAT)
        self.counted: list[str] = []
        self._writer = configure_logging(settings, counted=self.counted.append, descriptor=self._descriptor)
        structlog.configure(cache_logger_on_first_use=False)

    def lines(self) -> list[dict[str, Any]]:
        """End it; what was written."""
        self._writer.close(timeout=20)
        os.close(self._descriptor)
        return [json.loads(line) for line in self._file.read_bytes().splitlines()]


@pytest.fixture
def log(settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Log]:
    """A log that leaves no trace in the process."""
    for module, name in ((sys, "excepthook"), (sys, "unraisablehook"), (threading, "excepthook")):
        monkeypatch.setattr(module, name, getattr(module, name))
    root, uvicorn = logging.getLogger(), logging.getLogger("uvicorn.error")
    before = (root.handlers[:], root.level, uvicorn.filters[:], structlog.get_config())
    yield Log(settings, tmp_path / "log")
    logging.captureWarnings(capture=False)
    root.handlers[:], root.level, uvicorn.filters[:] = before[:3]
    structlog.configure(**before[3])


def test_a_line_has_the_fields_of_the_schema_first(log: Log) -> None:
    structlog.get_logger().info("something happened", answer=42)

    (line,) = log.lines()
    assert list(line) == [*SCHEMA, "answer"]
    assert (line["level"], line["event"], line["answer"]) == ("INFO", "something happened", 42)
    assert (line["service"], line["environment"]) == (FACTS.service.name, "test")
    assert line["timestamp"].endswith("Z")


def test_the_standard_librarys_records_have_the_same_schema(log: Log) -> None:
    logging.getLogger("uvicorn.error").warning("%d things", 3)
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        warnings.warn("old", DeprecationWarning, stacklevel=1)

    first, second = log.lines()
    assert list(first) == [*SCHEMA, "logger"]
    assert (first["level"], first["event"], first["logger"]) == ("WARNING", "3 things", "uvicorn.error")
    assert second["logger"] == "py.warnings"


def test_the_ids_of_the_request_and_its_span_are_on_every_line(log: Log) -> None:
    span = NonRecordingSpan(SpanContext(1, 2, is_remote=False, trace_flags=TraceFlags(1)))
    context = otel_context.attach(set_span_in_context(span))
    token = correlation_id.set("abc-123")
    try:
        structlog.get_logger().info("ours")
        logging.getLogger("theirs").error("theirs")
    finally:
        correlation_id.reset(token)
        otel_context.detach(context)

    for line in log.lines():
        assert (line["correlation_id"], line["trace_id"], line["span_id"]) == ("abc-123", f"{1:032x}", f"{2:016x}")


def test_events_of_the_past_are_written_together_with_the_ids_that_they_name(log: Log) -> None:
    ids = {"correlation_id": "abc-123", "trace_id": f"{1:032x}", "span_id": f"{2:016x}"}
    occasions = [
        (level, {"timestamp": PAST, **ids, "path": f"/{level}?token=hunter2"}) for level in ("info", "debug", "error")
    ]

    log_together(structlog.get_logger().bind(tenant="a"), "request", occasions)

    lines = log.lines()
    for line in lines:
        assert list(line) == [*SCHEMA, "tenant", "path"]
        assert line | ids | {"event": "request", "tenant": "a", "timestamp": "2026-01-02T02:04:05Z"} == line
    assert [(line["level"], line["path"]) for line in lines] == [
        ("INFO", "/info?token=[redacted]"),
        ("ERROR", "/error?token=[redacted]"),
    ]
    assert log.counted == ["info", "error"]


def test_an_exception_is_told_without_the_values_of_variables(log: Log) -> None:
    def fail(password: str) -> None:
        raise RuntimeError(f"no luck with {len(password)} letters")

    try:
        fail("hunter" + "2")
    except RuntimeError:
        structlog.get_logger().exception("failed")
        logging.getLogger("theirs").exception("failed")

    for line in log.lines():
        assert "RuntimeError: no luck with 7 letters" in line["exception"]
        assert "hunter2" not in json.dumps(line)


class Color(Enum):
    """An enumeration."""

    RED = "red"


@dataclass
class Point:
    """A dataclass."""

    x: int
    y: int


class Hostile:
    """Something that cannot even be shown."""

    def __repr__(self) -> str:
        raise RuntimeError("no")


def circle() -> list[Any]:
    one: list[Any] = []
    one.append(one)
    return one


@pytest.mark.parametrize(
    "value",
    [
        object(),
        Hostile(),
        circle(),
        [Hostile()],
        {Hostile(): 1},
        2**70,
        -(2**70),
        10**5000,
        float("nan"),
        float("inf"),
        Decimal("1.10"),
        True,
        None,
        "\ud800",
        b"\xff",
        bytearray(b"x"),
        "\x00",
        {1: 2},
        {(1, 2): 3},
        {b"k": b"v"},
        {1, 2},
        frozenset({1}),
        (1, 2),
        range(3),
        iter([1]),
        datetime(2026, 1, 2, tzinfo=UTC),
        date(2026, 1, 2),
        timedelta(1),
        UUID(int=1),
        Path("/x"),
        Color.RED,
        Point(1, 2),
        Settings,
        Settings(),
        RuntimeError("x"),
        MagicMock(),
        lambda: None,
    ],
    ids=lambda value: type(value).__name__,
)
def test_a_value_that_cannot_be_serialised_still_logs(log: Log, value: Any) -> None:
    structlog.get_logger().info("odd", value=value, after="kept")

    (line,) = log.lines()
    assert (line["event"], line["after"]) == ("odd", "kept")
    assert "value" in line


def test_a_field_cannot_take_the_place_of_the_services_identity(log: Log) -> None:
    structlog.get_logger().info("charged", service="billing", version=7)

    (line,) = log.lines()
    assert (line["service"], line["service_"], line["version_"]) == (FACTS.service.name, "billing", 7)


def test_below_the_level_nothing_is_written(log: Log) -> None:
    structlog.get_logger().debug("quiet")
    logging.getLogger("theirs").debug("quiet")

    assert log.lines() == []


@pytest.mark.parametrize(
    ("event", "arguments", "fields", "shown"),
    [
        ("%d %d", (1,), {}, {"event": "%d %d", "arguments": [1]}),
        ("%d", ("x",), {}, {"event": "%d", "arguments": ["x"]}),
        ("100 %", (1,), {}, {"event": "100 %", "arguments": [1]}),
        ("%s %s", ("a", "b"), {}, {"event": "a b"}),
        ("%(a)s", ({"a": 1},), {}, {"event": "1"}),
        ("%(b)s", ({"a": 1},), {}, {"event": "%(b)s", "arguments": [{"a": 1}]}),
        ("%s", (Hostile(),), {}, {"event": "%s"}),
        (5, (), {}, {"event": 5}),
        (None, (), {}, {"event": ""}),
        ("taken", (), {"event": "x", "self": "y"}, {"event": "taken", "event_": "x", "self": "y"}),
        ("taken", (), {"level": "x", "timestamp": 1}, {"event": "taken", "level_": "x", "timestamp_": 1}),
        ("past", (), {"timestamp": PAST}, {"event": "past", "timestamp": "2026-01-02T02:04:05Z"}),
        ("taken", (), {"timestamp": PAST.replace(tzinfo=None)}, {"timestamp_": "2026-01-02T03:04:05"}),
        ("taken", (), {"method_name": "x", "logger": "y"}, {"method_name": "x", "logger": "y"}),
        ("odd", (), {"exc_info": "yes"}, {"event": "odd"}),
        ("odd", (), {"exc_info": True}, {"event": "odd"}),
        ("odd", (), {"correlation_id": {"a": 1}}, {"correlation_id": {"a": 1}}),
    ],
)
async def test_no_log_call_raises(
    log: Log, event: Any, arguments: tuple[Any, ...], fields: dict[str, Any], shown: dict[str, Any]
) -> None:
    logger = structlog.get_logger()
    logger.info(event, *arguments, **fields)
    logger.log(25, event, *arguments, **fields)
    await logger.ainfo(event, *arguments, **fields)
    await logger.alog(logging.INFO, event, *arguments, **fields)
    logger.debug(event, *arguments, **fields)
    await logger.adebug(event, *arguments, **fields)

    lines = log.lines()
    assert len(lines) == 4
    for line in lines:
        assert line["level"] == "INFO"
        assert line.items() >= shown.items()


def test_a_record_whose_arguments_do_not_fit_still_logs(log: Log) -> None:
    # Not by a logger: pytest's own handlers raise.
    handler = logging.getLogger().handlers[0]
    handler.handle(logging.makeLogRecord({"msg": "%d %d", "args": (1,), "levelno": logging.WARNING}))
    handler.handle(logging.makeLogRecord({"msg": Hostile(), "levelno": 35}))

    first, second = log.lines()
    assert (first["event"], first["arguments"]) == ("%d %d", [1])
    assert (second["level"], "Hostile" in second["event"]) == ("WARNING", True)


def test_every_line_is_counted_by_its_level(log: Log) -> None:
    structlog.get_logger().error("ours")
    logging.getLogger("theirs").critical("theirs")
    structlog.get_logger().debug("too low")

    assert log.counted == ["error", "critical"]


def test_a_line_tells_what_was_true_when_it_was_logged(log: Log) -> None:
    changing = [1]
    token = correlation_id.set("then")
    structlog.contextvars.bind_contextvars(bound="then")
    structlog.get_logger().info("plain", at="then")
    structlog.get_logger().info("rich", changing=changing)
    correlation_id.reset(token)
    structlog.contextvars.clear_contextvars()
    changing.append(2)

    plain, rich = log.lines()
    assert (plain["correlation_id"], plain["bound"]) == ("then", "then")
    assert rich["changing"] == [1]


def fail(message: str) -> None:
    raise RuntimeError(message)


@pytest.mark.parametrize("name", ["password", "x"])
def test_secrets_are_hidden_wherever_they_stand(log: Log, name: str) -> None:
    url = "amqp://user:hunter2@host/vhost?password=hunter2"
    structlog.get_logger().info(f"connecting to {url}", **{name: url})
    logging.getLogger("theirs").warning("cannot reach %s", url)
    try:
        fail(url)
    except RuntimeError:
        structlog.get_logger().exception("failed", headers=[(b"authorization", b"hunter2")])
        logging.getLogger("theirs").exception("failed")

    lines = log.lines()
    assert len(lines) == 4
    for line in lines:
        assert "hunter2" not in json.dumps(line)
        assert "[redacted]" in json.dumps(line)


@pytest.mark.parametrize(
    "value",
    [
        "x" * 10_000_000,
        ["x" * 1_000] * 10_000,
        dict.fromkeys(range(100_000), "x"),
        [[[0] * 100] * 100] * 100,
        b"x" * 10**7,
    ],
    ids=["text", "texts", "mapping", "nested", "bytes"],
)
def test_a_line_has_a_bound_and_tells_what_it_left_out(log: Log, value: Any) -> None:
    structlog.get_logger().info("much", value=value, after="kept")
    structlog.get_logger().info("much", **{f"value{n}": value for n in range(30)})

    first, second = log.lines()
    for line in (first, second):
        assert len(json.dumps(line)) < 256 * 1024
        assert "left out" in json.dumps(line) or "..." in json.dumps(line)
    assert first["after"] == "kept"


def test_a_value_that_holds_itself_many_times_costs_no_more_than_the_bound(log: Log) -> None:
    many: list[Any] = []
    many.extend([many] * 100)
    structlog.get_logger().info("odd", value=many)

    (line,) = log.lines()
    assert len(json.dumps(line)) < 256 * 1024


def test_a_long_traceback_keeps_both_ends_and_its_causes(log: Log) -> None:
    def deep(depth: int) -> None:
        if depth:
            # Not the same line twice in a row, which Python would shorten itself.
            deeper(depth - 1)
        raise ValueError("the cause" + "x" * 1_000_000)

    def deeper(depth: int) -> None:
        deep(depth)

    try:
        try:
            deep(300)
        except ValueError as error:
            raise RuntimeError("the end") from error
    except RuntimeError:
        structlog.get_logger().exception("failed")

    (line,) = log.lines()
    told = line["exception"]
    assert len(told) < 128 * 1024
    assert told.startswith("Traceback")
    assert "lines left out" in told
    assert "characters left out" in told
    assert "ValueError: the cause" in told
    assert "direct cause" in told
    assert told.endswith("RuntimeError: the end")


@pytest.mark.parametrize(
    ("message", "error", "kept"),
    [
        ("ASGI callable returned without starting response.", None, False),
        ("ASGI callable returned without completing response.", None, False),
        ("Exception in ASGI application\n", asyncio.CancelledError(), False),
        ("Exception in ASGI application\n", RuntimeError("in a WebSocket"), True),
        ("Started server process [%d]", None, True),
    ],
)
def test_what_telemetry_tells_is_not_told_again_by_uvicorn(
    log: Log, message: str, error: BaseException | None, kept: bool
) -> None:
    logging.getLogger("uvicorn.error").error(message, exc_info=error)

    assert len(log.lines()) == kept


def test_an_error_that_ends_a_thread_becomes_a_line(log: Log) -> None:
    for work in (partial(fail, "in a thread"), sys.exit):
        thread = threading.Thread(target=work, name="worker")
        thread.start()
        thread.join()

    (line,) = log.lines()
    assert (line["level"], line["thread"], line["error"]) == ("ERROR", "worker", "RuntimeError")
    assert "RuntimeError: in a thread" in line["exception"]


def test_an_error_in_a_finaliser_becomes_a_line(log: Log) -> None:
    class Resource:
        def __del__(self) -> None:
            fail("in a finaliser")

    Resource()
    gc.collect()

    (line,) = log.lines()
    assert (line["level"], line["error"]) == ("ERROR", "RuntimeError")


def test_an_error_in_a_task_that_nobody_awaits_becomes_a_line(log: Log) -> None:
    async def leave() -> None:
        async def work() -> None:
            fail("in a task")

        await asyncio.wait([asyncio.create_task(work())])
        gc.collect()

    # Not in the tests' own loop, which collects such errors.
    asyncio.run(leave())

    (line,) = log.lines()
    assert (line["level"], line["logger"]) == ("ERROR", "asyncio")
    assert "RuntimeError: in a task" in line["exception"]


def test_an_error_that_ends_the_process_is_told_after_the_log_was_closed(settings: Settings, tmp_path: Path) -> None:
    code = (
        "from app.core.config import Settings\n"
        "from app.core.logging_config import configure_logging\n"
        "try:\n"
        "    logs = configure_logging(Settings())\n"
        "    raise RuntimeError('the end')\n"
        "finally:\n"
        "    logs.close(5)\n"
    )
    ended = subprocess.run(  # noqa: S603 - our own interpreter
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False, timeout=60
    )

    (line,) = map(json.loads, ended.stdout.splitlines())
    assert (ended.returncode, ended.stderr, line["level"]) == (1, "", "CRITICAL")
    assert "RuntimeError: the end" in line["exception"]
