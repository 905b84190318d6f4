"""Sampling, who the spans say they are from, and an end in bounded time."""

import threading
import time

import pytest
from opentelemetry.context import Context
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.trace.export import SimpleSpanProcessor, SpanExportResult
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.sdk.trace.sampling import Decision
from opentelemetry.trace import NonRecordingSpan, SpanContext, TraceFlags, set_span_in_context

from app.core.config import Sampler, Settings
from app.core.tracing import NO_PARENT, Tracing, record_exception, sampler


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


@pytest.mark.parametrize("parent", [None, *PARENT.values()])
@pytest.mark.parametrize("name", list(Sampler))
def test_a_disabled_sdk_samples_nothing(name: Sampler, parent: Context | None) -> None:
    chosen = settings(otel_sdk_disabled=True, otel_traces_sampler=name, otel_traces_sampler_arg=1)

    assert sampler(chosen).should_sample(parent, 1, "x").decision is Decision.DROP


def test_the_resource_tells_who_speaks() -> None:
    attributes = Tracing(
        settings(service_version="1.2.3", environment="test"), lambda _: None
    ).provider.resource.attributes

    assert (attributes["service.version"], attributes["deployment.environment.name"]) == ("1.2.3", "test")
    assert attributes["service.name"]


def test_an_exporter_that_hangs_delays_the_exit_by_the_timeout_only(monkeypatch: pytest.MonkeyPatch) -> None:
    release = threading.Event()

    def export(*_: object) -> SpanExportResult:
        release.wait(30)
        return SpanExportResult.SUCCESS

    monkeypatch.setattr(OTLPSpanExporter, "export", export)
    lost: list[int] = []
    tracing = Tracing(
        settings(otel_exporter_otlp_endpoint="http://127.0.0.1:9", otel_traces_sampler="always_on"), lost.append
    )
    tracing.tracer.start_span("x").end()

    began = time.monotonic()
    assert tracing.shutdown(timeout=0.05) == 1

    assert time.monotonic() - began < 5
    assert lost == [1]
    release.set()


def test_without_an_endpoint_nothing_waits() -> None:
    tracing = Tracing(settings(), lost=lambda _: None)

    tracing.tracer.start_span("x").end()
    assert tracing.shutdown(timeout=1) == 0


@pytest.mark.parametrize("name", list(Sampler))
def test_a_request_that_begins_a_trace_is_sampled_as_the_sdk_would_decide_for_its_trace_id(name: Sampler) -> None:
    chosen = settings(otel_traces_sampler=name, otel_traces_sampler_arg=0.3)
    tracing, decides = Tracing(chosen, lambda _: None), sampler(chosen)

    for _ in range(500):
        span = tracing.start_server_span("GET", NO_PARENT, dict)
        identity = span.get_span_context()
        sampled = decides.should_sample(None, identity.trace_id, "GET").decision is Decision.RECORD_AND_SAMPLE

        assert identity.is_valid
        assert (span.is_recording(), identity.trace_flags.sampled) == (sampled, sampled)


def test_an_exception_on_a_span_shows_no_secret() -> None:
    exporter = InMemorySpanExporter()
    tracing = Tracing(settings(otel_traces_sampler="always_on"), lambda _: None)
    tracing.provider.add_span_processor(SimpleSpanProcessor(exporter))

    with tracing.tracer.start_as_current_span("work") as span:
        record_exception(span, RuntimeError("cannot reach https://app:hunter2@billing/v1"))

    (event,) = exporter.get_finished_spans()[0].events
    told = dict(event.attributes or {})
    assert told["exception.type"] == "RuntimeError"
    assert "cannot reach https://" in str(told["exception.message"])
    assert "hunter2" not in str(told)
