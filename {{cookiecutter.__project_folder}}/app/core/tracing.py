"""Traces: the OpenTelemetry SDK, its sampler and its resource, and an end in bounded time.

The SDK would register an exit handler that can wait half a minute for a dead collector; here the process waits for a
bounded time and counts what it could not send.
"""

import threading
import traceback
from collections.abc import Callable, Mapping
from random import getrandbits
from typing import Any

from opentelemetry.context import Context
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.id_generator import RandomIdGenerator
from opentelemetry.sdk.trace.sampling import ParentBased, TraceIdRatioBased
from opentelemetry.sdk.trace.sampling import Sampler as SpanSampler
from opentelemetry.trace import NonRecordingSpan, Span, SpanContext, SpanKind, TraceFlags, Tracer

from app.core.config import FACTS, Sampler, Settings
from app.core.redaction import text, traceback_text
from app.core.span_export import CountingProcessor, Losses, otlp_exporter

# The context of a request that names no trace.
NO_PARENT = Context()

# What `TraceIdRatioBased` compares.
_LOWER_HALF = TraceIdRatioBased.TRACE_ID_LIMIT

# As the SDK has it: not sampled, and the trace id is random (W3C Trace Context level 2).
_NOT_SAMPLED = TraceFlags(TraceFlags.RANDOM_TRACE_ID)


class Tracing:
    """The tracer of one application, and its exporter when the settings name a collector.

    Args:
        settings: sampler, endpoint and identity.
        lost: called with the number of spans that will never arrive.
    """

    def __init__(self, settings: Settings, lost: Callable[[int], None]) -> None:
        # What logs and metrics say too, so that one signal leads to the other: it wins over OTEL_SERVICE_NAME and
        # OTEL_RESOURCE_ATTRIBUTES, of which the SDK adds the rest (OpenTelemetry specification, "Resource SDK").
        resource = Resource.create(
            {
                "service.name": FACTS.service.name,
                "service.version": settings.service_version,
                "deployment.environment.name": settings.environment.value,
            }
        )
        self._ids = _HandedIds()
        # Traces that begin here are sampled if the lower half of their id is below this.
        self._bound = _root_sampler(settings).bound
        self.provider = TracerProvider(
            resource=_FixedResource(resource), sampler=sampler(settings), id_generator=self._ids, shutdown_on_exit=False
        )
        self._losses = Losses(lost)
        self._processor: CountingProcessor | None = None
        if settings.traces_endpoint:
            self._processor = CountingProcessor(
                *otlp_exporter(settings.traces_endpoint, settings.otel_exporter_otlp_timeout),
                self._losses.add,
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
            trace_id = getrandbits(128) or 1
            if trace_id & _LOWER_HALF >= self._bound:
                span_id = getrandbits(64) or 1
                return NonRecordingSpan(SpanContext(trace_id, span_id, is_remote=False, trace_flags=_NOT_SAMPLED))
            self._ids.hand(trace_id)
        return self.tracer.start_span(name, parent, SpanKind.SERVER, attributes())

    def shutdown(self, timeout: float) -> int:
        """Send what waits, for at most `timeout` seconds; count the rest as lost, and return how many did not arrive.

        The SDK's own timeouts do not hold while an export is under way, hence the thread that may be left behind.
        """
        self._losses.tell()
        flush = threading.Thread(target=self.provider.shutdown, name="trace-flush", daemon=True)
        flush.start()
        flush.join(timeout)
        if self._processor:
            self._processor.close()
        return self._losses.untold


def record_exception(span: Span, error: BaseException) -> None:
    """Note an exception on a span, with no secret that its message or traceback may hold."""
    if span.is_recording():
        told = {
            "exception.message": text(str(error)),
            "exception.stacktrace": traceback_text("".join(traceback.format_exception(error))),
        }
        span.record_exception(error, told)


class _FixedResource(Resource):
    """A resource that works out its hash once; the SDK makes JSON of it for each span sent, a tenth of its encoding.

    Args:
        resource: what it says.
    """

    def __init__(self, resource: Resource) -> None:
        super().__init__(resource.attributes, resource.schema_url)
        self._hash = super().__hash__()

    def __hash__(self) -> int:
        return self._hash


class _HandedIds(RandomIdGenerator):
    """Gives out a trace id that was drawn before, to whoever asks next in the same thread."""

    def __init__(self) -> None:
        self._handed = threading.local()

    def hand(self, trace_id: int) -> None:
        self._handed.trace_id = trace_id

    def generate_trace_id(self) -> int:
        return self._handed.__dict__.pop("trace_id", None) or super().generate_trace_id()


def sampler(settings: Settings) -> SpanSampler:
    """The sampler the settings name (OpenTelemetry specification, "General SDK Configuration")."""
    root = _root_sampler(settings)
    parent_based = settings.otel_traces_sampler.startswith("parentbased") and not settings.otel_sdk_disabled
    return ParentBased(root) if parent_based else root


def _root_sampler(settings: Settings) -> TraceIdRatioBased:
    """The sampler of traces that begin here: all of them, none, or a share."""
    match settings.otel_traces_sampler:
        case _ if settings.otel_sdk_disabled:
            return TraceIdRatioBased(0)
        case Sampler.ALWAYS_OFF | Sampler.PARENT_ALWAYS_OFF:
            return TraceIdRatioBased(0)
        case Sampler.ALWAYS_ON | Sampler.PARENT_ALWAYS_ON:
            return TraceIdRatioBased(1)
        case _:
            return TraceIdRatioBased(settings.otel_traces_sampler_arg)
