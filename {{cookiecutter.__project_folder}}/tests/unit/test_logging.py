"""Logs: one JSON object a line, whoever wrote it and whatever is in it."""

import json
import logging
import os
import threading
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import structlog
from opentelemetry import context as otel_context
from opentelemetry.trace import NonRecordingSpan, SpanContext, TraceFlags, set_span_in_context

from app.core.config import FACTS, Settings
from app.core.correlation import correlation_id
from app.core.line_writer import LineWriter
from app.core.logging_config import configure_logging

SCHEMA = ["timestamp", "level", "service", "environment", "version", "event", "correlation_id", "trace_id", "span_id"]


@pytest.fixture
def lines(settings: Settings) -> Iterator[Callable[[], list[dict[str, Any]]]]:
    """Logging as in a running service, but into a pipe; a call ends it and returns what was written."""
    read, write = os.pipe()
    root = logging.getLogger()
    before = (root.handlers[:], root.level, structlog.get_config())
    logs = configure_logging(settings, dropped=lambda _: None, descriptor=write)
    structlog.configure(cache_logger_on_first_use=False)

    def finish() -> list[dict[str, Any]]:
        logs.close(timeout=5)
        os.close(write)
        with os.fdopen(read, closefd=False) as pipe:
            return [json.loads(line) for line in pipe]

    yield finish
    os.close(read)
    logging.captureWarnings(capture=False)
    root.handlers[:], root.level = before[:2]
    structlog.configure(**before[2])


def test_a_line_has_the_fields_of_the_schema_first(lines: Callable[[], list[dict[str, Any]]]) -> None:
    structlog.get_logger().info("something happened", answer=42)

    (line,) = lines()
    assert list(line) == [*SCHEMA, "answer"]
    assert (line["level"], line["event"], line["answer"]) == ("INFO", "something happened", 42)
    assert (line["service"], line["environment"]) == (FACTS.service.name, "test")
    assert line["timestamp"].endswith("Z")


def test_the_standard_librarys_records_have_the_same_schema(lines: Callable[[], list[dict[str, Any]]]) -> None:
    logging.getLogger("uvicorn.error").warning("%d things", 3)
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        warnings.warn("old", DeprecationWarning, stacklevel=1)

    first, second = lines()
    assert list(first) == [*SCHEMA, "logger"]
    assert (first["level"], first["event"], first["logger"]) == ("WARNING", "3 things", "uvicorn.error")
    assert second["logger"] == "py.warnings"


def test_the_ids_of_the_request_and_its_span_are_on_every_line(lines: Callable[[], list[dict[str, Any]]]) -> None:
    span = NonRecordingSpan(SpanContext(1, 2, is_remote=False, trace_flags=TraceFlags(1)))
    context = otel_context.attach(set_span_in_context(span))
    token = correlation_id.set("abc-123")
    try:
        structlog.get_logger().info("ours")
        logging.getLogger("theirs").error("theirs")
    finally:
        correlation_id.reset(token)
        otel_context.detach(context)

    for line in lines():
        assert (line["correlation_id"], line["trace_id"], line["span_id"]) == ("abc-123", f"{1:032x}", f"{2:016x}")


def test_an_exception_is_told_without_the_values_of_variables(lines: Callable[[], list[dict[str, Any]]]) -> None:
    def fail(password: str) -> None:
        raise RuntimeError(f"no luck with {len(password)} letters")

    try:
        fail("hunter" + "2")
    except RuntimeError:
        structlog.get_logger().exception("failed")
        logging.getLogger("theirs").exception("failed")

    for line in lines():
        assert "RuntimeError: no luck with 7 letters" in line["exception"]
        assert "hunter2" not in json.dumps(line)


@pytest.mark.parametrize(
    "fields",
    [
        {"password": "hunter2"},
        {"headers": {"Authorization": "Bearer hunter2", "cookie": "hunter2"}},
        {"attempts": [{"api_key": "hunter2"}]},
        {"url": "https://user:hunter2@host:5432/items"},
        {"error": "cannot reach amqp://user:hunter2@queue and more"},
    ],
)
def test_secrets_are_redacted(lines: Callable[[], list[dict[str, Any]]], fields: dict[str, Any]) -> None:
    structlog.get_logger().info("connecting", **fields)

    (line,) = lines()
    assert "hunter2" not in json.dumps(line)
    assert "[redacted]" in json.dumps(line)


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
    [object(), 2**70, "\ud800", {1: 2}, {(1, 2): 3}, b"\xff", {1, 2}, float("nan"), circle(), Hostile()],
    ids=id,
)
def test_a_value_that_cannot_be_serialised_still_logs(lines: Callable[[], list[dict[str, Any]]], value: Any) -> None:
    structlog.get_logger().info("odd", value=value, after="kept")

    (line,) = lines()
    assert (line["event"], line["after"]) == ("odd", "kept")
    assert "value" in line


def test_a_field_cannot_take_the_place_of_the_services_identity(lines: Callable[[], list[dict[str, Any]]]) -> None:
    structlog.get_logger().info("charged", service="billing", version=7)

    (line,) = lines()
    assert (line["service"], line["service_"], line["version_"]) == (FACTS.service.name, "billing", 7)


def test_lines_that_nobody_can_read_any_more_are_counted() -> None:
    read, write = os.pipe()
    os.close(read)
    lost: list[int] = []
    writer = LineWriter(write, capacity=100, dropped=lost.append)

    for _ in range(7):
        writer.write(b"x", 1)
    writer.close(timeout=5)
    os.close(write)

    assert sum(lost) == 7


def test_below_the_level_nothing_is_written(lines: Callable[[], list[dict[str, Any]]]) -> None:
    structlog.get_logger().debug("quiet")
    logging.getLogger("theirs").debug("quiet")

    assert lines() == []


def test_a_reader_that_does_not_read_blocks_nobody_and_losses_are_counted() -> None:
    read, write = os.pipe()
    lost: list[int] = []
    writer = LineWriter(write, capacity=500_000, dropped=lost.append)

    # More than a pipe holds: the writer's thread is stuck in its write, the queue fills, the rest is lost.
    for _ in range(50):
        writer.write(b"x" * 100_000, 100_000)

    writer.close(timeout=0.01)
    assert lost
    received = threading.Thread(target=lambda: os.read(read, 1 << 30))
    received.start()
    received.join(5)
    os.close(read)
    writer.close(timeout=5)
    os.close(write)
