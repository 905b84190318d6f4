#!/usr/bin/python3.13
"""Stands in for Loki where its image cannot be pulled: takes OTLP as Loki does, and answers the LogQL of our documents.

It proves what reaches Loki, under which labels, and that our queries ask for fields that are there. It cannot prove
that Loki takes its own configuration file. Of LogQL (https://grafana.com/docs/loki/latest/query/) it knows stream
selectors, line filters, `json`, label filters, `rate`, `count_over_time` and `sum`; anything else is refused, never
guessed.

Runs in the service's own image, which has OTLP's messages; it imports nothing else but the standard library. Lines are
kept in a file, as they survive a restart of Loki.
"""

import gzip
import json
import re
import signal
import sys
import threading
import time
import urllib.request
from collections import Counter
from collections.abc import Callable, Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import NamedTuple
from urllib.parse import parse_qs, urlsplit

from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest, ExportLogsServiceResponse

PORT = 3100
KEPT = Path("/loki/lines.json")
# As `otlp_config` in observability/loki/loki.yaml says.
INDEX_LABELS = ("service", "environment")


class Entry(NamedTuple):
    """A line as Loki keeps it: labels, which make its stream, and structured metadata, which does not."""

    time_ns: int
    line: str
    labels: Mapping[str, str]
    metadata: Mapping[str, str]


class QueryError(Exception):
    """What was asked is no LogQL, or none that is known here."""


ENTRIES: list[Entry] = []
LOCK = threading.Lock()


def keep(entries: list[Entry]) -> None:
    """Add lines, also to the file."""
    with LOCK, KEPT.open("a", encoding="utf-8") as file:
        file.writelines(f"{json.dumps(entry)}\n" for entry in entries)
        ENTRIES.extend(entries)


def entries_of(request: ExportLogsServiceRequest) -> list[Entry]:
    """What the Collector sent, by the rules of Loki's OTLP endpoint."""
    found = []
    for resource in request.resource_logs:
        attributes = {one.key: one.value.string_value for one in resource.resource.attributes}
        labels = {name: attributes.pop(name) for name in INDEX_LABELS if name in attributes}
        for record in (record for scope in resource.scope_logs for record in scope.log_records):
            metadata = attributes | {one.key: one.value.string_value for one in record.attributes}
            ids = {"trace_id": record.trace_id.hex(), "span_id": record.span_id.hex()}
            metadata |= {name: value for name, value in ids.items() if value}
            metadata |= {"severity_text": record.severity_text, "severity_number": str(int(record.severity_number))}
            named = {key.replace(".", "_"): value for key, value in metadata.items()}
            found.append(Entry(record.time_unix_nano, record.body.string_value, labels, named))
    return found


Test = Callable[[str, str], bool]
# Whether a line stays, by itself and its fields, to which it may add.
Stage = Callable[[Entry, dict[str, str]], bool]

COMPARE: dict[str, Test] = {
    "=": lambda value, wanted: value == wanted,
    "!=": lambda value, wanted: value != wanted,
    "=~": lambda value, wanted: re.fullmatch(wanted, value) is not None,
    "!~": lambda value, wanted: re.fullmatch(wanted, value) is None,
}
CONTAIN: dict[str, Test] = {
    "|=": lambda line, wanted: wanted in line,
    "!=": lambda line, wanted: wanted not in line,
    "|~": lambda line, wanted: re.search(wanted, line) is not None,
    "!~": lambda line, wanted: re.search(wanted, line) is None,
}
TEXT = r'("(?:[^"\\]|\\.)*"|`[^`]*`)'
COMPARISON = re.compile(rf"\s*(\w+)\s*(=~|!~|!=|=)\s*{TEXT}\s*")
LINE_FILTER = re.compile(rf"\s*(\|=|!=|\|~|!~)\s*{TEXT}\s*")
JSON_STAGE = re.compile(r"\s*\|\s*json\b(?!\s*(=|!|\w))\s*")
RANGE = re.compile(
    r"(?:(sum)\s*(?:by\s*\(([\w\s,]+)\)\s*)?\(\s*)?(rate|count_over_time)\s*\((.*)\[(\d+)([smh])\]\s*\)(\s*\))?",
    re.DOTALL,
)


def text(token: str) -> str:
    """The text that a quoted token means."""
    return token[1:-1] if token[0] == "`" else str(json.loads(token))


def line_stage(test: Test, part: str) -> Stage:
    """A stage that keeps lines by their text."""
    return lambda entry, _: test(entry.line, part)


def field_stage(name: str, test: Test, value: str) -> Stage:
    """A stage that keeps lines by one of their fields."""
    return lambda _, fields: test(fields.get(name, ""), value)


def selects(query: str) -> Callable[[Entry], dict[str, str] | None]:
    """A function that gives the fields of an entry that the log query wants, and nothing of one that it does not."""
    selector = re.match(r"\s*\{(.*?)\}(.*)", query, re.DOTALL)
    if not selector or not selector[1].strip():
        raise QueryError(f"no stream selector: {query}")
    wanted = []
    for part in selector[1].split(","):
        if not (found := COMPARISON.fullmatch(part)):
            raise QueryError(f"not understood: {part}")
        wanted.append((found[1], COMPARE[found[2]], text(found[3])))
    stages: list[Stage] = []
    rest = selector[2]
    while rest.strip():
        if found := LINE_FILTER.match(rest):
            stages.append(line_stage(CONTAIN[found[1]], text(found[2])))
        elif found := JSON_STAGE.match(rest):
            stages.append(extract_json)
        elif found := re.match(r"\s*\|" + COMPARISON.pattern, rest):
            stages.append(field_stage(found[1], COMPARE[found[2]], text(found[3])))
        else:
            raise QueryError(f"not understood: {rest}")
        rest = rest[found.end() :]

    def fields_of(entry: Entry) -> dict[str, str] | None:
        if not all(test(entry.labels.get(name, ""), value) for name, test, value in wanted):
            return None
        fields = {**entry.labels, **entry.metadata}
        return fields if all(stage(entry, fields) for stage in stages) else None

    return fields_of


def extract_json(entry: Entry, fields: dict[str, str]) -> bool:
    """Add the line's own fields; one whose name is taken is called `…_extracted`, as in Loki. Keeps every line."""
    try:
        parsed = json.loads(entry.line)
    except ValueError:
        fields["__error__"] = "JSONParserErr"
        return True
    for name, value in parsed.items():
        key = f"{name}_extracted" if name in fields else name
        fields[key] = value if isinstance(value, str) else json.dumps(value)
    return True


def answer(query: str, start_ns: int, end_ns: int, limit: int) -> dict[str, object]:
    """What Loki's query API answers: streams, newest first, or a vector at `end_ns`."""
    with LOCK:
        entries = sorted(ENTRIES, key=lambda entry: entry.time_ns, reverse=True)
    metric = RANGE.fullmatch(query.strip())
    if metric is None:
        fields_of = selects(query)
        streams: dict[tuple[tuple[str, str], ...], list[list[str]]] = {}
        kept = [
            (entry, fields)
            for entry in entries
            if start_ns <= entry.time_ns <= end_ns and (fields := fields_of(entry)) is not None
        ]
        for entry, fields in kept[:limit]:
            streams.setdefault(tuple(sorted(fields.items())), []).append([str(entry.time_ns), entry.line])
        result: list[dict[str, object]] = [{"stream": dict(key), "values": values} for key, values in streams.items()]
        return {"resultType": "streams", "result": result}
    summed, groups, function, inner, amount, unit = metric.group(1, 2, 3, 4, 5, 6)
    if bool(summed) != bool(metric[7]):
        raise QueryError(f"brackets do not fit: {query}")
    seconds = int(amount) * {"s": 1, "m": 60, "h": 3600}[unit]
    fields_of = selects(inner)
    by = None if not summed else [name.strip() for name in (groups or "").split(",") if name.strip()]
    counts: Counter[tuple[tuple[str, str], ...]] = Counter()
    for entry in entries:
        if end_ns - seconds * 10**9 < entry.time_ns <= end_ns and (fields := fields_of(entry)) is not None:
            shown = fields if by is None else {name: fields.get(name, "") for name in by}
            counts[tuple(sorted(shown.items()))] += 1
    divisor = seconds if function == "rate" else 1
    vector = [{"metric": dict(key), "value": [end_ns / 1e9, str(count / divisor)]} for key, count in counts.items()]
    return {"resultType": "vector", "result": vector}


class Handler(BaseHTTPRequestHandler):
    """Loki's HTTP API, as far as the stack and its tests use it."""

    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        """Take lines."""
        body = self.rfile.read(int(self.headers["content-length"]))
        if self.headers.get("content-encoding") == "gzip":
            body = gzip.decompress(body)
        if self.path != "/otlp/v1/logs":
            self._reply(404, b"", "text/plain")
            return
        keep(entries_of(ExportLogsServiceRequest.FromString(body)))
        self._reply(200, ExportLogsServiceResponse().SerializeToString(), "application/x-protobuf")

    def do_GET(self) -> None:
        """Answer queries, probes and Prometheus."""
        url = urlsplit(self.path)
        if url.path == "/ready":
            self._reply(200, b"ready\n", "text/plain")
        elif url.path == "/metrics":
            with LOCK:
                lines = len(ENTRIES)
            text = (
                f"# TYPE loki_distributor_lines_received_total counter\nloki_distributor_lines_received_total {lines}\n"
            )
            self._reply(200, text.encode(), "text/plain; version=0.0.4")
        elif url.path in {"/loki/api/v1/query", "/loki/api/v1/query_range"}:
            asked = {name: values[0] for name, values in parse_qs(url.query).items()}
            now = time.time_ns()
            end = int(asked.get("end", asked.get("time", now)))
            start = int(asked.get("start", end - 3600 * 10**9))
            try:
                data = answer(asked["query"], start, end, int(asked.get("limit", "100")))
            except QueryError as error:
                self._reply(400, f"parse error : {error}".encode(), "text/plain")
                return
            self._reply(200, json.dumps({"status": "success", "data": data}).encode(), "application/json")
        else:
            self._reply(404, b"", "text/plain")

    def _reply(self, status: int, body: bytes, kind: str) -> None:
        self.send_response(status)
        self.send_header("content-type", kind)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Say nothing of requests."""


def main(arguments: list[str]) -> int:
    """Do what Loki's command line asks for, as far as the compose file does; the exit code of the process."""
    if "-health" in arguments:
        urllib.request.urlopen(f"http://localhost:{PORT}/ready", timeout=5).close()
        return 0
    if "-verify-config" in arguments:
        sys.stderr.write("This stands in for Loki, and cannot judge its configuration.\n")
        return 1
    if KEPT.exists():
        ENTRIES.extend(Entry(*json.loads(line)) for line in KEPT.read_text(encoding="utf-8").splitlines())
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    ThreadingHTTPServer(("", PORT), Handler).serve_forever()
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
