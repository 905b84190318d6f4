"""Sampling, and that every span is either sent or counted as lost, in bounded time."""

import threading
import time
from collections.abc import Sequence

import pytest
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SpanExporter, SpanExportResult
from opentelemetry.trace import NonRecordingSpan, SpanContext, TraceFlags, set_span_in_context

from app.core.config import Sampler, Settings
from app.core.tracing import CountingProcessor, Tracing, sampler


def settings(**values: object) -> Settings:
    return Settings.model_validate({"storage_url": "memory://", **values})


PARENT = {
    flag: set_span_in_context(NonRecordingSpan(SpanContext(1, 2, is_remote=True, trace_flags=TraceFlags(flag))))
    for flag in (0, 1)
}


@pytest.mark.parametrize(
    ("name", "ratio", "root", "unsampled_parent", "sampled_parent"),
    [
        (Sampler.ALWAYS_ON, 0, True, True, True),
        (Sampler.ALWAYS_OFF, 1, False, False, False),
        (Sampler.TRACE_ID_RATIO, 1, True, True, True),
        (Sampler.TRACE_ID_RATIO, 0, False, False, False),
        (Sampler.PARENT_ALWAYS_ON, 0, True, False, True),
        (Sampler.PARENT_ALWAYS_OFF, 1, False, False, True),
        (Sampler.PARENT_TRACE_ID_RATIO, 1, True, False, True),
        (Sampler.PARENT_TRACE_ID_RATIO, 0, False, False, True),
    ],
)
def test_the_sampler_is_the_one_the_settings_name(
    name: Sampler, ratio: float, root: bool, unsampled_parent: bool, sampled_parent: bool
) -> None:
    tracing = Tracing(settings(otel_traces_sampler=name, otel_traces_sampler_arg=ratio), lost=lambda _: None)

    def sampled(parent: object) -> bool:
        return tracing.tracer.start_span("x", parent).get_span_context().trace_flags.sampled  # type: ignore[arg-type]

    assert (sampled(None), sampled(PARENT[0]), sampled(PARENT[1])) == (root, unsampled_parent, sampled_parent)


def test_a_disabled_sdk_samples_nothing() -> None:
    assert (
        sampler(settings(otel_sdk_disabled=True, otel_traces_sampler="always_on")).get_description()
        == "AlwaysOffSampler"
    )


def test_the_resource_tells_who_speaks() -> None:
    attributes = Tracing(
        settings(service_version="1.2.3", environment="test"), lambda _: None
    ).provider.resource.attributes

    assert (attributes["service.version"], attributes["deployment.environment.name"]) == ("1.2.3", "test")
    assert attributes["service.name"]


class Exporter(SpanExporter):
    """An exporter that succeeds, fails, raises or hangs."""

    def __init__(self, behaviour: str) -> None:
        self.behaviour = behaviour
        self.sent = 0
        self.release = threading.Event()

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        match self.behaviour:
            case "fail":
                return SpanExportResult.FAILURE
            case "raise":
                raise RuntimeError("boom")
            case "hang":
                self.release.wait(10)
        self.sent += len(spans)
        return SpanExportResult.SUCCESS


@pytest.mark.parametrize(
    ("behaviour", "counted"), [("succeed", False), ("fail", True), ("raise", True)], ids=["succeed", "fail", "raise"]
)
def test_every_span_is_sent_or_counted(behaviour: str, counted: bool) -> None:
    exporter = Exporter(behaviour)
    lost: list[int] = []
    provider = TracerProvider(shutdown_on_exit=False)
    processor = CountingProcessor(exporter, lost.append, capacity=5000)
    provider.add_span_processor(processor)

    for _ in range(3000):
        provider.get_tracer("x").start_span("x").end()
    provider.shutdown()

    assert (exporter.sent, sum(lost)) == ((0, 3000) if counted else (3000, 0))
    assert processor.count_unsent() == 0


def test_a_span_that_does_not_fit_is_counted_at_once() -> None:
    exporter = Exporter("hang")
    lost: list[int] = []
    provider = TracerProvider(shutdown_on_exit=False)
    processor = CountingProcessor(exporter, lost.append, capacity=100, delay_ms=1)
    provider.add_span_processor(processor)

    for _ in range(1000):
        provider.get_tracer("x").start_span("x").end()

    assert sum(lost) == 900
    exporter.release.set()
    provider.shutdown()
    assert (exporter.sent, sum(lost), processor.count_unsent()) == (100, 900, 0)


def test_an_exporter_that_hangs_delays_the_exit_by_the_timeout_only() -> None:
    lost: list[int] = []
    tracing = Tracing(
        settings(otel_exporter_otlp_endpoint="http://127.0.0.1:9", otel_traces_sampler="always_on"), lost.append
    )
    assert tracing._processor is not None
    hanging = Exporter("hang")
    tracing._processor._batch_processor._exporter._exporter = hanging  # type: ignore[attr-defined]
    tracing.tracer.start_span("x").end()

    began = time.monotonic()
    assert tracing.shutdown(timeout=0.05) == 1

    assert time.monotonic() - began < 5
    assert lost == [1]
    hanging.release.set()


def test_without_an_endpoint_nothing_waits() -> None:
    tracing = Tracing(settings(), lost=lambda _: None)

    assert tracing._processor is None
    assert tracing.shutdown(timeout=1) == 0
