"""Traces: the OpenTelemetry SDK, its sampler and its resource, and an end in bounded time.

The SDK would register an exit handler that can wait half a minute for a dead collector; here the process waits for a
bounded time and counts what it could not send.
"""

import threading
from collections.abc import Callable

from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.sampling import (
    ALWAYS_OFF,
    ALWAYS_ON,
    DEFAULT_OFF,
    DEFAULT_ON,
    ParentBased,
    TraceIdRatioBased,
)
from opentelemetry.sdk.trace.sampling import Sampler as SpanSampler
from opentelemetry.trace import Tracer

from app.core.config import FACTS, Sampler, Settings
from app.core.span_export import CountingProcessor, Losses, otlp_exporter


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
        self.provider = TracerProvider(resource=resource, sampler=sampler(settings), shutdown_on_exit=False)
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
