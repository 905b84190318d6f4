"""An OTLP/HTTP collector that only counts: `python sink.py <port>`.

Spans of one server arrive at `/<name>/v1/traces`; `GET /<name>` answers how many of them were the server's own kind.
They are decoded when asked for, so that receiving costs next to nothing while servers are measured.
"""

import json
import sys
from collections import Counter, defaultdict
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1.trace_pb2 import Span

_bodies: defaultdict[str, list[bytes]] = defaultdict(list)
_counts: Counter[str] = Counter()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        _bodies[self.path.split("/")[1]].append(body)
        self._answer("application/x-protobuf", b"")

    def do_GET(self) -> None:
        name = self.path.strip("/")
        bodies = _bodies[name]
        while bodies:
            export = ExportTraceServiceRequest.FromString(bodies.pop())
            spans = (span for one in export.resource_spans for scope in one.scope_spans for span in scope.spans)
            _counts[name] += sum(span.kind == Span.SPAN_KIND_SERVER for span in spans)
        self._answer("application/json", json.dumps(_counts[name]).encode())

    def _answer(self, content_type: str, body: bytes) -> None:
        self.send_response(200)
        self.send_header("Content-Type", content_type)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


if __name__ == "__main__":
    ThreadingHTTPServer(("127.0.0.1", int(sys.argv[1])), _Handler).serve_forever()
