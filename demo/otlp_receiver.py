"""An OTLP/HTTP receiver in this process: what a service exports can be looked at, without a collector.

It takes what the official exporters send: protobuf over HTTP, gzip or not
(https://opentelemetry.io/docs/specs/otlp/#otlphttp).
"""

import gzip
import socketserver
import threading
import zlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any, Self

from google.protobuf.message import DecodeError
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)
from opentelemetry.proto.common.v1.common_pb2 import AnyValue, KeyValue
from opentelemetry.proto.trace.v1.trace_pb2 import Span as ProtoSpan
from opentelemetry.proto.trace.v1.trace_pb2 import Status

from demo.inbox import Inbox
from demo.ports import LOOPBACK

PATH = "/v1/traces"
CONTENT_TYPE = "application/x-protobuf"


@dataclass(frozen=True)
class Span:
    """One span, in the words of people: ids in hexadecimal, `kind` as server, `status` one of unset, ok and error."""

    name: str
    kind: str
    trace_id: str
    span_id: str
    parent_span_id: str | None
    status: str
    attributes: dict[str, Any]
    resource: dict[str, Any]


class OtlpReceiver:
    """Receives spans on a free loopback port for as long as it is entered.

    Args:
        capacity: how many spans are kept; older ones are forgotten.
    """

    def __init__(self, capacity: int = 10_000) -> None:
        self._spans: Inbox[Span] = Inbox(capacity)
        self._server = _Server(self._spans)
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,), name="otlp", daemon=True)

    @property
    def endpoint(self) -> str:
        """The value for `OTEL_EXPORTER_OTLP_ENDPOINT`."""
        return f"http://{LOOPBACK}:{self._server.server_address[1]}"

    @property
    def spans(self) -> list[Span]:
        """What arrived, oldest first."""
        return self._spans.all()

    def wait_for(self, wanted: Callable[[Span], bool], timeout: float) -> Span:
        """Return the first span that is wanted, whether it is there or still to come.

        Raises:
            TimeoutError: there was none within `timeout` seconds; the message names those that arrived.
        """
        span = self._spans.first(wanted, timeout)
        if span is None:
            names = ", ".join(sorted({other.name for other in self.spans})) or "no span at all"
            raise TimeoutError(f"no such span within {timeout:g} s; received: {names}")
        return span

    def __enter__(self) -> Self:
        """Start to receive."""
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Stop, and free the port."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


class _Server(ThreadingHTTPServer):
    def __init__(self, spans: Inbox[Span]) -> None:
        self.spans = spans
        super().__init__((LOOPBACK, 0), _Handler)

    def server_bind(self) -> None:
        # HTTPServer's own looks up the host's name, which can take seconds and leaves the machine.
        socketserver.TCPServer.server_bind(self)


class _RefusedError(Exception):
    """A request that is not taken."""

    def __init__(self, status: HTTPStatus, reason: str) -> None:
        super().__init__(reason)
        self.status = status


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: _Server

    def do_POST(self) -> None:
        try:
            export = self._export()
        except _RefusedError as refused:
            # What was not read would be taken for the next request.
            self.close_connection = True
            self._answer(refused.status, "text/plain; charset=utf-8", f"{refused}\n".encode())
            return
        self.server.spans.put(*_spans(export))
        self._answer(HTTPStatus.OK, CONTENT_TYPE, ExportTraceServiceResponse().SerializeToString())

    def _export(self) -> ExportTraceServiceRequest:
        if self.path != PATH:
            raise _RefusedError(HTTPStatus.NOT_FOUND, f"spans are received at {PATH} only")
        content_type = self.headers.get_content_type()
        if content_type != CONTENT_TYPE:
            raise _RefusedError(
                HTTPStatus.UNSUPPORTED_MEDIA_TYPE, f"the content type must be {CONTENT_TYPE}, not {content_type}"
            )
        length = self.headers.get("Content-Length", "")
        if not length.isdecimal():
            raise _RefusedError(HTTPStatus.BAD_REQUEST, "a Content-Length is required")
        body = self._decoded(self.rfile.read(int(length)))
        export = ExportTraceServiceRequest()
        try:
            export.ParseFromString(body)
        except DecodeError as error:
            raise _RefusedError(HTTPStatus.BAD_REQUEST, f"no ExportTraceServiceRequest: {error}") from error
        return export

    def _decoded(self, body: bytes) -> bytes:
        encoding = self.headers.get("Content-Encoding", "identity")
        if encoding == "identity":
            return body
        if encoding != "gzip":
            raise _RefusedError(
                HTTPStatus.UNSUPPORTED_MEDIA_TYPE, f"the content encoding must be gzip or identity, not {encoding}"
            )
        try:
            return gzip.decompress(body)
        except (OSError, EOFError, zlib.error) as error:
            raise _RefusedError(HTTPStatus.BAD_REQUEST, f"not gzip: {error}") from error

    def _answer(self, status: HTTPStatus, content_type: str, body: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Type", content_type)
        self.send_header("Content-Length", str(len(body)))
        if self.close_connection:
            self.send_header("Connection", "close")
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Say nothing: stderr belongs to whoever uses the receiver."""


def _spans(export: ExportTraceServiceRequest) -> Iterator[Span]:
    for of_resource in export.resource_spans:
        resource = _attributes(of_resource.resource.attributes)
        for of_scope in of_resource.scope_spans:
            for span in of_scope.spans:
                yield Span(
                    name=span.name,
                    kind=ProtoSpan.SpanKind.Name(span.kind).removeprefix("SPAN_KIND_").lower(),
                    trace_id=span.trace_id.hex(),
                    span_id=span.span_id.hex(),
                    parent_span_id=span.parent_span_id.hex() or None,
                    status=Status.StatusCode.Name(span.status.code).removeprefix("STATUS_CODE_").lower(),
                    attributes=_attributes(span.attributes),
                    resource=resource,
                )


def _attributes(pairs: Iterable[KeyValue]) -> dict[str, Any]:
    return {pair.key: _value(pair.value) for pair in pairs}


def _value(value: AnyValue) -> Any:
    kind = value.WhichOneof("value")
    if kind is None:
        return None
    if kind == "array_value":
        return [_value(item) for item in value.array_value.values]
    if kind == "kvlist_value":
        return _attributes(value.kvlist_value.values)
    return getattr(value, kind)
