"""An OTLP/HTTP collector in this process, which behaves as a test tells it.

It takes what the official exporter sends, protobuf over HTTP (https://opentelemetry.io/docs/specs/otlp/#otlphttp), and
fails in the ways that collectors and the networks before them do.
"""

import gzip
import socket
import socketserver
import struct
import threading
import time
import zlib
from collections.abc import Callable, Iterable
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import NamedTuple, Self

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTracePartialSuccess,
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)
from opentelemetry.proto.common.v1.common_pb2 import KeyValue
from opentelemetry.proto.trace.v1.trace_pb2 import Span

from tests.support import wait_for

DECODE: dict[str, Callable[[bytes], bytes]] = {
    "identity": bytes,
    "gzip": gzip.decompress,
    "deflate": zlib.decompress,
}


class Received(NamedTuple):
    """A span that was taken, and the resource it came from."""

    span: Span
    resource: dict[str, object]

    @property
    def attributes(self) -> dict[str, object]:
        """The attributes of the span."""
        return _plain(self.span.attributes)


class Export(BaseHTTPRequestHandler):
    """One request of an exporter, as a behaviour sees it."""

    protocol_version = "HTTP/1.1"
    server: "_Server"

    def read(self) -> ExportTraceServiceRequest:
        """Read and decode the body."""
        body = self.rfile.read(int(self.headers["Content-Length"]))
        assert (self.path, self.headers["Content-Type"]) == ("/v1/traces", "application/x-protobuf")
        request = ExportTraceServiceRequest()
        request.ParseFromString(DECODE[self.headers.get("Content-Encoding", "identity")](body))
        return request

    def take(self, request: ExportTraceServiceRequest) -> None:
        """Keep the spans."""
        self.server.collector.spans += [
            Received(span, _plain(of_resource.resource.attributes))
            for of_resource in request.resource_spans
            for of_scope in of_resource.scope_spans
            for span in of_scope.spans
        ]

    def answer(
        self,
        status: int = 200,
        headers: dict[str, str] | None = None,
        response: ExportTraceServiceResponse | None = None,
    ) -> None:
        """Answer."""
        body = (response or ExportTraceServiceResponse()).SerializeToString()
        self.send_response(status)
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.send_header("Content-Type", "application/x-protobuf")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def reset(self) -> None:
        """Break the connection off, so that the exporter's kernel is told (RST)."""
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.connection.close()
        self.close_connection = True

    def do_POST(self) -> None:
        collector = self.server.collector
        collector.arrivals.append(time.monotonic())
        collector.headers = dict(self.headers.items())
        collector.behave(self)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the name is inherited
        """Log nothing."""


Behaviour = Callable[[Export], None]


def accept(export: Export) -> None:
    """Take the spans and say so."""
    export.take(export.read())
    export.answer()


def refuse(status: int, headers: dict[str, str] | None = None) -> Behaviour:
    """Take nothing, and answer with this."""

    def behave(export: Export) -> None:
        export.read()
        export.answer(status, headers)

    return behave


def reject(some: int) -> Behaviour:
    """Take all spans of a batch but some (OTLP specification, "Partial Success")."""

    def behave(export: Export) -> None:
        request = export.read()
        del request.resource_spans[0].scope_spans[0].spans[:some]
        export.take(request)
        rejected = ExportTracePartialSuccess(rejected_spans=some, error_message="too old")
        export.answer(response=ExportTraceServiceResponse(partial_success=rejected))

    return behave


def reset_half_way(export: Export) -> None:
    """Read a part of the body, and break off."""
    export.rfile.read(int(export.headers["Content-Length"]) // 2)
    export.reset()


def lose_the_answer(export: Export) -> None:
    """Take the spans, and break off before the answer."""
    export.take(export.read())
    export.reset()


def first(behaviour: Behaviour, times: int = 1) -> Behaviour:
    """Behave like this for some requests, and well from then on."""
    left = iter(range(times))

    def behave(export: Export) -> None:
        chosen = accept if next(left, None) is None else behaviour
        chosen(export)

    return behave


class Hold:
    """A behaviour that keeps exporters waiting for their answer until it is released."""

    def __init__(self) -> None:
        self.holding = threading.Event()
        self._released = threading.Event()

    def __call__(self, export: Export) -> None:
        request = export.read()
        self.holding.set()
        self._released.wait()
        export.take(request)
        export.answer()

    def release(self) -> None:
        """Answer those who wait, and the rest at once."""
        self._released.set()


class Collector:
    """A collector on the loopback, for as long as it is entered.

    Args:
        behave: what it does with a request; a test may replace it at any time.
        port: where it listens; a free one when absent.

    Attributes:
        spans: what was taken.
        arrivals: when each request came, by the monotonic clock.
        headers: those of the last request.
    """

    def __init__(self, behave: Behaviour = accept, port: int = 0) -> None:
        self.behave = behave
        self.spans: list[Received] = []
        self.arrivals: list[float] = []
        self.headers: dict[str, str] = {}
        self._server = _Server(self, port)

    @property
    def port(self) -> int:
        """Where it listens."""
        return self._server.server_port

    @property
    def endpoint(self) -> str:
        """The value for `OTEL_EXPORTER_OTLP_ENDPOINT`."""
        return f"http://127.0.0.1:{self.port}"

    def wait_for(self, spans: int) -> list[Received]:
        """Wait until so many spans were taken."""
        wait_for(lambda: len(self.spans) >= spans, f"fewer than {spans} spans arrived")
        return self.spans

    def __enter__(self) -> Self:
        """Start to serve."""
        threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        """Stop."""
        self.kill()

    def kill(self) -> None:
        """Listen no more, and break all connections off, as the end of a process does."""
        if isinstance(self.behave, Hold):
            self.behave.release()
        self._server.shutdown()
        self._server.server_close()


class _Server(ThreadingHTTPServer):
    block_on_close = False

    def __init__(self, collector: Collector, port: int) -> None:
        self.collector = collector
        self._connections: set[socket.socket] = set()
        super().__init__(("127.0.0.1", port), Export)

    def server_bind(self) -> None:
        # HTTPServer's own looks up the host's name, which can take seconds and leaves the machine.
        socketserver.TCPServer.server_bind(self)
        self.server_port = self.server_address[1]

    def process_request(self, request: socket.socket, client_address: tuple[str, int]) -> None:  # type: ignore[override]
        self._connections.add(request)
        super().process_request(request, client_address)

    def handle_error(self, request: object, client_address: object) -> None:
        """Say nothing of an exporter that left."""

    def server_close(self) -> None:
        super().server_close()
        for connection in self._connections:
            # Closed already, by the handler or by the client.
            with suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)


def _plain(attributes: Iterable[KeyValue]) -> dict[str, object]:
    return {pair.key: getattr(pair.value, pair.value.WhichOneof("value") or "string_value") for pair in attributes}
