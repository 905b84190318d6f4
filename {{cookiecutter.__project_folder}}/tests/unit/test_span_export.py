"""That every span is either sent or counted as lost, and that the log tells of it without being flooded."""

import logging
import threading
from collections.abc import Sequence

import pytest
import requests
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTracePartialSuccess,
    ExportTraceServiceResponse,
)
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SpanExporter, SpanExportResult
from opentelemetry.sdk.trace.sampling import Decision, StaticSampler
from structlog.testing import capture_logs

from app.core.span_export import Answers, CountingProcessor, Losses, otlp_exporter

PROTOBUF = "application/x-protobuf"
REJECTED = ExportTraceServiceResponse(
    partial_success=ExportTracePartialSuccess(rejected_spans=2, error_message="too old")
).SerializeToString()


class Exporter(SpanExporter):
    """An exporter that succeeds, fails, raises or hangs."""

    def __init__(self, behaviour: str) -> None:
        self.behaviour = behaviour
        self.sent = 0
        self.holding = threading.Event()
        self.release = threading.Event()

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        match self.behaviour:
            case "fail":
                return SpanExportResult.FAILURE
            case "raise":
                raise RuntimeError("boom")
            case "hang":
                self.holding.set()
                self.release.wait(30)
        self.sent += len(spans)
        return SpanExportResult.SUCCESS


class Lost(list[tuple[int, str]]):
    """What was lost, and why."""

    def __call__(self, spans: int, reason: str) -> None:
        self.append((spans, reason))

    def total(self) -> int:
        return sum(spans for spans, _ in self)


def processing(exporter: Exporter, lost: Lost, capacity: int = 5000) -> tuple[TracerProvider, CountingProcessor]:
    """A provider that hands its spans to that exporter."""
    provider = TracerProvider(shutdown_on_exit=False)
    processor = CountingProcessor(exporter, Answers(), lost, capacity=capacity, delay_ms=1)
    provider.add_span_processor(processor)
    return provider, processor


def end_spans(provider: TracerProvider, count: int) -> None:
    for _ in range(count):
        provider.get_tracer("x").start_span("x").end()


@pytest.mark.parametrize(("behaviour", "counted"), [("succeed", False), ("fail", True), ("raise", True)])
def test_every_span_is_sent_or_counted(behaviour: str, counted: bool) -> None:
    exporter, lost = Exporter(behaviour), Lost()
    provider, processor = processing(exporter, lost)

    end_spans(provider, 3000)
    provider.shutdown()
    processor.close()

    assert (exporter.sent, lost.total()) == ((0, 3000) if counted else (3000, 0))


def test_a_span_that_does_not_fit_is_counted_at_once() -> None:
    exporter, lost = Exporter("hang"), Lost()
    provider, processor = processing(exporter, lost, capacity=100)

    end_spans(provider, 1000)

    assert lost == [(1, "queue full")] * 900
    exporter.release.set()
    provider.shutdown()
    processor.close()
    assert (exporter.sent, lost.total()) == (100, 900)


def test_a_span_that_is_recorded_but_not_sampled_is_neither_sent_nor_lost() -> None:
    exporter, lost = Exporter("succeed"), Lost()
    provider, processor = processing(exporter, lost)
    provider.sampler = StaticSampler(Decision.RECORD_ONLY)

    end_spans(provider, 10)
    provider.shutdown()
    processor.close()

    assert (exporter.sent, lost) == (0, [])


def test_a_span_counts_once_though_its_export_comes_back_after_the_end() -> None:
    exporter, lost = Exporter("hang"), Lost()
    provider, processor = processing(exporter, lost)
    end_spans(provider, 1)
    assert exporter.holding.wait(30)
    exporter.behaviour = "fail"

    processor.close()
    end_spans(provider, 1)
    exporter.release.set()
    provider.shutdown()

    assert lost == [(1, "unsent at exit"), (1, "queue full")]


def test_losses_are_told_at_once_then_summed_up(monkeypatch: pytest.MonkeyPatch) -> None:
    counted: list[int] = []
    losses = Losses(counted.append)

    with capture_logs() as lines:
        for spans in (1, 2, 4):
            losses.add(spans, "refused")
        assert [line["spans"] for line in lines] == [1]
        monkeypatch.setattr(losses, "INTERVAL_SECONDS", 0)
        losses.add(8, "reset")
        losses.tell()

    assert [(line["log_level"], line["spans"], line["reason"]) for line in lines] == [
        ("warning", 1, "refused"),
        ("warning", 14, "reset"),
    ]
    assert (counted, losses.untold) == ([1, 2, 4, 8], 0)


def answer(status: int, body: bytes = b"", **headers: str) -> requests.Response:
    """What a collector answered."""
    response = requests.Response()
    response.status_code, response.reason = status, "Reason"
    response._content = body
    response.headers.update({name.replace("_", "-"): value for name, value in headers.items()})
    return response


@pytest.mark.parametrize(
    ("response", "rejected", "problem"),
    [
        (answer(200, content_type=PROTOBUF), 0, ""),
        (answer(200, REJECTED, content_type=PROTOBUF), 2, "rejected: too old"),
        (answer(200, b"{}", content_type="application/json"), 0, ""),
        (answer(202), 0, ""),
        (answer(200, b"<html>", content_type=PROTOBUF), 0, "DecodeError"),
        (answer(302, location="/login"), 0, "302 to /login"),
        (answer(304), 0, "304 to None"),
        (answer(503), 0, "503 Reason"),
    ],
)
def test_an_answer_tells_what_became_of_the_spans(
    monkeypatch: pytest.MonkeyPatch, response: requests.Response, rejected: int, problem: str
) -> None:
    monkeypatch.setattr(requests.Session, "send", lambda *_, **__: response)
    exporter, answers = otlp_exporter("http://127.0.0.1:9/v1/traces", timeout=0.1)

    result = exporter.export([])

    assert result is (SpanExportResult.SUCCESS if rejected or not problem else SpanExportResult.FAILURE)
    assert answers.rejected == rejected
    assert problem in answers.problem if problem else answers.problem == ""


def test_the_certificates_are_those_of_the_standard_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_CERTIFICATE", "ca.pem")
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_CLIENT_CERTIFICATE", "client.pem")
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_CLIENT_KEY", "client.key")

    _, answers = otlp_exporter("https://127.0.0.1:9/v1/traces", timeout=0.1)

    assert (answers.verify, answers.cert) == ("ca.pem", ("client.pem", "client.key"))


def test_what_keeps_a_collector_from_answering_is_told_in_one_word(monkeypatch: pytest.MonkeyPatch) -> None:
    def send(*_: object, **__: object) -> None:
        try:
            raise ConnectionRefusedError(111, "Connection refused")
        except OSError as error:
            raise requests.ConnectionError("url: /v1/traces?api-key=secret") from error

    monkeypatch.setattr(requests.Session, "send", send)
    exporter, answers = otlp_exporter("http://127.0.0.1:9/v1/traces", timeout=0.1)

    assert exporter.export([]) is SpanExportResult.FAILURE
    assert answers.problem == "ConnectionRefusedError(111, 'Connection refused')"


def test_the_exporter_logs_none_of_its_attempts(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(requests.Session, "send", lambda *_, **__: answer(503))
    exporter, _ = otlp_exporter("http://127.0.0.1:9/v1/traces", timeout=0.1)

    with caplog.at_level(logging.DEBUG, "opentelemetry"):
        exporter.export([])
        exporter.shutdown()  # type: ignore[no-untyped-call]
        exporter.export([])

    assert [record.getMessage() for record in caplog.records] == ["Exporter already shutdown, ignoring batch"]
