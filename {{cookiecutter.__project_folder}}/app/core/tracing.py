"""Traces: the OpenTelemetry SDK and its official OTLP/HTTP exporter, put together so that neither delays anything.

The SDK would register an exit handler that can wait half a minute for a dead collector; here the process waits for a
bounded time and counts what it could not send.
"""

import threading
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from opentelemetry.context import Context
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult
from opentelemetry.sdk.trace.id_generator import RandomIdGenerator
from opentelemetry.sdk.trace.sampling import (
    ALWAYS_OFF,
    ALWAYS_ON,
    DEFAULT_OFF,
    DEFAULT_ON,
    ParentBased,
    TraceIdRatioBased,
)
from opentelemetry.sdk.trace.sampling import Sampler as SpanSampler
from opentelemetry.trace import NonRecordingSpan, Span, SpanContext, SpanKind, TraceFlags, Tracer

from app.core.config import FACTS, Sampler, Settings

# The context of a request that names no trace.
NO_PARENT = Context()


class Tracing:
    """The tracer of one application, and its exporter when the settings name a collector.

    Args:
        settings: sampler, endpoint and identity.
        lost: called with the number of spans that will never arrive.
    """

    def __init__(self, settings: Settings, lost: Callable[[int], None]) -> None:
        resource = Resource.create(
            {
                "service.name": FACTS.service.name,
                "service.version": settings.service_version,
                "deployment.environment.name": settings.environment.value,
            }
        )
        self._ids = _HandedIds()
        self._bound = _bound(settings)
        self.provider = TracerProvider(
            resource=resource, sampler=sampler(settings), id_generator=self._ids, shutdown_on_exit=False
        )
        self._processor: CountingProcessor | None = None
        if settings.traces_endpoint:
            exporter = OTLPSpanExporter(settings.traces_endpoint, timeout=settings.otel_exporter_otlp_timeout)
            self._processor = CountingProcessor(
                exporter,
                lost,
                capacity=settings.otel_bsp_max_queue_size,
                delay_ms=settings.otel_bsp_schedule_delay,
            )
            self.provider.add_span_processor(self._processor)
        self.tracer: Tracer = self.provider.get_tracer("app")

    def start_server_span(self, name: str, parent: Context, attributes: Callable[[], Mapping[str, Any]]) -> Span:
        """Begin the span of a request.

        Most requests begin a trace that is not sampled. The SDK would spend 5 us on each to find that out; the same
        comparison made here leaves 1 us.

        Args:
            name: of the span.
            parent: the trace that the request belongs to, or `NO_PARENT`.
            attributes: called for what is known at its beginning, if it may be sampled.
        """
        if parent is NO_PARENT:
            trace_id = self._ids.generate_trace_id()
            if trace_id & TraceIdRatioBased.TRACE_ID_LIMIT >= self._bound:
                flags = TraceFlags(TraceFlags.RANDOM_TRACE_ID)
                identity = SpanContext(trace_id, self._ids.generate_span_id(), is_remote=False, trace_flags=flags)
                return NonRecordingSpan(identity)
            self._ids.hand(trace_id)
        return self.tracer.start_span(name, parent, SpanKind.SERVER, attributes())

    def shutdown(self, timeout: float) -> int:
        """Send what waits, for at most `timeout` seconds; count the rest as lost, and return how many those are.

        The SDK's own timeouts do not hold while an export is under way, hence the thread that may be left behind.
        """
        flush = threading.Thread(target=self.provider.shutdown, name="trace-flush", daemon=True)
        flush.start()
        flush.join(timeout)
        return self._processor.count_unsent() if self._processor else 0


class _HandedIds(RandomIdGenerator):
    """Gives out a trace id that was drawn before, to whoever asks next in the same thread."""

    def __init__(self) -> None:
        self._handed = threading.local()

    def hand(self, trace_id: int) -> None:
        self._handed.trace_id = trace_id

    def generate_trace_id(self) -> int:
        return self._handed.__dict__.pop("trace_id", None) or super().generate_trace_id()


class CountingProcessor(BatchSpanProcessor):
    """A batch processor that tells of every span it could not deliver.

    The SDK pushes spans out of a full queue without a word that a program could count, so this one bounds the queue
    itself: what does not fit is refused, and counted at once.

    Args:
        exporter: sends the batches.
        lost: called with the number of spans that did not fit, that the collector refused, or that were unsent at the
            end.
        capacity: how many spans may wait, those on their way included.
        delay_ms: how long a span waits for others to be sent with, in milliseconds.
    """

    def __init__(
        self, exporter: SpanExporter, lost: Callable[[int], None], *, capacity: int = 2048, delay_ms: int = 5000
    ) -> None:
        self._lost = lost
        self._capacity = capacity
        self._pending = 0
        self._lock = threading.Lock()
        super().__init__(
            _Settling(exporter, self._settle),
            max_queue_size=capacity,
            schedule_delay_millis=delay_ms,
            max_export_batch_size=min(512, capacity),
        )

    def on_end(self, span: ReadableSpan) -> None:
        """Take a finished span."""
        if not (span.context and span.context.trace_flags.sampled):
            return
        with self._lock:
            fits = self._pending < self._capacity
            self._pending += fits
        if fits:
            super().on_end(span)
        else:
            self._lost(1)

    def _settle(self, count: int, *, sent: bool) -> None:
        with self._lock:
            # After `count_unsent` an export may still come back; its spans were counted.
            count = min(count, self._pending)
            self._pending -= count
        if not sent:
            self._lost(count)

    def count_unsent(self) -> int:
        """Count the spans that are still waiting as lost; how many those are. Nothing is sent after this."""
        with self._lock:
            unsent, self._pending = self._pending, 0
        self._lost(unsent)
        return unsent


class _Settling(SpanExporter):
    """Tells how each batch ended."""

    def __init__(self, exporter: SpanExporter, settle: Callable[..., None]) -> None:
        self._exporter = exporter
        self._settle = settle

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        result = SpanExportResult.FAILURE
        try:
            result = self._exporter.export(spans)
        finally:
            self._settle(len(spans), sent=result is SpanExportResult.SUCCESS)
        return result

    def shutdown(self) -> None:
        self._exporter.shutdown()


def sampler(settings: Settings) -> SpanSampler:
    """The sampler the settings name (OpenTelemetry specification, "General SDK Configuration")."""
    if settings.otel_sdk_disabled:
        return ALWAYS_OFF
    ratio = TraceIdRatioBased(settings.otel_traces_sampler_arg)
    return {
        Sampler.ALWAYS_ON: ALWAYS_ON,
        Sampler.ALWAYS_OFF: ALWAYS_OFF,
        Sampler.TRACE_ID_RATIO: ratio,
        Sampler.PARENT_ALWAYS_ON: DEFAULT_ON,
        Sampler.PARENT_ALWAYS_OFF: DEFAULT_OFF,
        Sampler.PARENT_TRACE_ID_RATIO: ParentBased(ratio),
    }[settings.otel_traces_sampler]


def _bound(settings: Settings) -> int:
    """Traces whose id is below this, by its lower 64 bits, are sampled if they begin here (see `TraceIdRatioBased`)."""
    match settings.otel_traces_sampler:
        case _ if settings.otel_sdk_disabled:
            ratio = 0.0
        case Sampler.ALWAYS_OFF | Sampler.PARENT_ALWAYS_OFF:
            ratio = 0.0
        case Sampler.ALWAYS_ON | Sampler.PARENT_ALWAYS_ON:
            ratio = 1.0
        case _:
            ratio = settings.otel_traces_sampler_arg
    return TraceIdRatioBased.get_bound_for_rate(ratio)
