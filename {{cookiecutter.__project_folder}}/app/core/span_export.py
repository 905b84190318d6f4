"""Sending spans to a collector: each one arrives or is counted as lost, whatever the collector does.

The SDK's batch processor and its official OTLP/HTTP exporter do the work. By themselves they lose spans without a word
that a program could count: those pushed out of a full queue, those that an answer rejects which is a success otherwise,
those sent to an address that redirects, and those that wait when the process ends. And they log every attempt at a
collector that is down.
"""

import logging
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any

import requests
import structlog
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceResponse
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult

log = structlog.get_logger()


class Losses:
    """Counts lost spans, and tells of them in the log: of the first at once, of the next ones after a minute.

    What followed is told with the first loss after that minute, or at the end.

    A collector that is down is one fact, however many spans it costs.

    Args:
        count: called with each number of spans that were lost.
    """

    INTERVAL_SECONDS = 60

    def __init__(self, count: Callable[[int], None]) -> None:
        self._count = count
        self._lock = threading.Lock()
        self._told_at = float("-inf")
        self._reason = ""
        self.untold = 0

    def add(self, spans: int, reason: str) -> None:
        """Count some; called from any thread."""
        self._count(spans)
        with self._lock:
            self.untold += spans
            self._reason = reason
            due = time.monotonic() - self._told_at >= self.INTERVAL_SECONDS
        if due:
            self.tell()

    def tell(self) -> None:
        """Log what was lost since the last time, if anything was; then nothing for the interval."""
        with self._lock:
            spans, self.untold = self.untold, 0
            self._told_at = time.monotonic()
        if spans:
            log.warning("spans lost", spans=spans, reason=self._reason)


class Answers(requests.Session):
    """The exporter's connections; remembers how its last request ended.

    Attributes:
        problem: why it failed, or why spans were rejected.
        rejected: how many spans the collector did not take, though it answered with success.
    """

    problem = ""
    rejected = 0

    def send(self, request: requests.PreparedRequest, **options: Any) -> requests.Response:
        """Send one request.

        Raises:
            Exception: no answer came, or one that tells nothing of the spans.
        """
        self.problem, self.rejected = "", 0
        try:
            response = super().send(request, **options)
            self._judge(response)
        except Exception as error:
            self.problem = repr(_root(error))
            raise
        return response

    def _judge(self, response: requests.Response) -> None:
        if not response.ok:
            self.problem = f"{response.status_code} {response.reason}"
        elif response.status_code >= 300:  # noqa: PLR2004 - RFC 9110, section 15.4
            # The exporter does not follow it, and takes it for success.
            raise requests.TooManyRedirects(f"{response.status_code} to {response.headers.get('location')}")
        elif response.headers.get("content-type") == "application/x-protobuf":
            # OTLP specification, "Partial Success". In another format it is a success of which no more is known.
            partial = ExportTraceServiceResponse.FromString(response.content).partial_success
            if partial.rejected_spans > 0:
                self.rejected, self.problem = partial.rejected_spans, f"rejected: {partial.error_message}"


def _root(error: BaseException) -> BaseException:
    """What an error began with: `ConnectionRefusedError` says more, and less of the URL, than what wraps it."""
    while error.__context__:
        error = error.__context__
    return error


def otlp_exporter(endpoint: str, timeout: float) -> tuple[OTLPSpanExporter, Answers]:
    """The official exporter, and where it leaves how its requests end.

    The other `OTEL_EXPORTER_OTLP_*` variables (headers, compression, certificates) it reads by itself.

    Args:
        endpoint: the full URL.
        timeout: seconds that one export, its retries included, may go on without hearing from the collector.
    """
    answers = Answers()
    logging.getLogger(OTLPSpanExporter.__module__).addFilter(_no_attempts)
    return OTLPSpanExporter(endpoint, timeout=timeout, session=answers), answers


def _no_attempts(record: logging.LogRecord) -> bool:
    """Drop what the exporter logs of each attempt: `Losses` tells of them all, with their cause."""
    return not str(record.msg).startswith(("Transient error", "Failed to export"))


class CountingProcessor(BatchSpanProcessor):
    """A batch processor that tells of every span it could not deliver.

    It bounds the queue itself: what does not fit is refused, and counted at once. A batch that arrived but whose answer
    did not counts as lost: a span may be both there and counted, never neither.

    Args:
        exporter: sends the batches.
        answers: how the exporter's last request ended.
        lost: called with the number of spans that did not fit, that the collector did not take, or that were unsent at
            the end; and with the reason.
        capacity: how many spans may wait, those on their way included.
        delay_ms: how long a span waits for others to be sent with, in milliseconds.
    """

    def __init__(
        self,
        exporter: SpanExporter,
        answers: Answers,
        lost: Callable[[int, str], None],
        *,
        capacity: int = 2048,
        delay_ms: int = 5000,
    ) -> None:
        self._lost = lost
        self._capacity = capacity
        self._pending = 0
        self._lock = threading.Lock()
        super().__init__(
            _Settling(exporter, answers, self._settle),
            max_queue_size=capacity,
            schedule_delay_millis=delay_ms,
            max_export_batch_size=min(512, capacity),
        )

    def on_end(self, span: ReadableSpan) -> None:
        """Take a finished span."""
        if not (span.context and span.context.trace_flags.sampled):
            return
        with self._lock:
            if fits := self._pending < self._capacity:
                self._pending += 1
        if fits:
            super().on_end(span)
        else:
            self._lost(1, "queue full")

    def _settle(self, spans: int, lost: int, reason: str) -> None:
        with self._lock:
            # After `close` an export may still come back; its spans were counted.
            spans = min(spans, self._pending)
            self._pending -= spans
        if lost := min(lost, spans):
            self._lost(lost, reason)

    def close(self) -> None:
        """Count what still waits as lost, and each span that may follow. To be called after `shutdown`."""
        with self._lock:
            unsent, self._pending, self._capacity = self._pending, 0, 0
        if unsent:
            self._lost(unsent, "unsent at exit")


class _Settling(SpanExporter):
    """Tells how each batch ended: how many spans it had, how many of them were lost, and why."""

    def __init__(self, exporter: SpanExporter, answers: Answers, settle: Callable[[int, int, str], None]) -> None:
        self._exporter = exporter
        self._answers = answers
        self._settle = settle

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        result = SpanExportResult.FAILURE
        try:
            result = self._exporter.export(spans)
        finally:
            lost = self._answers.rejected if result is SpanExportResult.SUCCESS else len(spans)
            self._settle(len(spans), lost, self._answers.problem)
        return result

    def shutdown(self) -> None:
        self._exporter.shutdown()
