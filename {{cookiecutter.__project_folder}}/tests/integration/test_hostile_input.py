"""What no honest client sends, over raw sockets: the service says what is wrong, and goes on.

Every service here must end without an error in its logs or metrics; `running` sees to that.
"""

import asyncio
import gzip
import json
import re
import signal
import socket
import sys
import time
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, closing, contextmanager, suppress
from email.message import Message
from functools import partial
from http.client import parse_headers
from pathlib import Path
from typing import Any, NamedTuple, Self

import httpx
import pytest
import uvicorn
from structlog.testing import capture_logs
from uvicorn.server import ServerState

from app.core.config import Settings
from app.core.http_protocol import BoundedHttp
from app.main import create_app
from tests.support import Service, client_of

ITEMS = b"/api/v1/items"
JSON = b"application/json"
GOOD = b'{"name":"x"}'
URI_BYTES, HEADER_BYTES, BODY_BYTES = (
    Settings.model_fields[f"max_{part}_bytes"].default for part in ("uri", "header", "body")
)

# Longer than any bound of the services here: whoever waits so long hangs.
PATIENCE = 10


@contextmanager
def running(folder: Path, log: list[dict[str, Any]], **environment: str) -> Iterator[Service]:
    """A service that serves, and that must end with nothing to complain of but its clients; then `log` is full."""
    service = Service(folder, {"STORAGE_URL": "memory://", "DRAIN_SECONDS": "0"} | environment)
    try:
        service.wait_until("/health/ready", 200)
        yield service
        metrics = httpx.get(service.metrics_url).text
    finally:
        code, lines, err = service.end(signal.SIGTERM)
        log += lines
    broken = re.findall(r'http_responses_incomplete_total\{.*reason="error".*\} (.+)', metrics)
    failed = re.findall(r'http_requests_total\{.*status="5..".*\} (.+)', metrics)
    assert broken
    assert {*broken, *failed} == {"0.0"}
    assert [line for line in lines if line["level"] in {"ERROR", "CRITICAL"} or "exception" in line] == []
    assert (code, err) == (0, "")


@pytest.fixture(scope="module")
def patient(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """A service with the limits that it has by default."""
    with running(tmp_path_factory.mktemp("patient"), []) as service:
        yield service


@pytest.fixture(scope="module")
def impatient(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """A service that waits for nobody."""
    folder = tmp_path_factory.mktemp("impatient")
    with running(folder, [], REQUEST_TIMEOUT_SECONDS="1", KEEP_ALIVE_SECONDS="3") as service:
        yield service


class Answer(NamedTuple):
    """A response."""

    status: int
    headers: Message
    body: bytes

    def check(self) -> Self:
        """Every error is a problem document that can be found in the logs."""
        if self.status < 400:
            return self
        assert self.status < 500, self.body
        problem = json.loads(self.body)
        assert self.headers["Content-Type"] == "application/problem+json"
        assert self.headers["X-Correlation-ID"] == problem["correlation_id"]
        assert (problem["status"], bool(problem["title"])) == (self.status, True)
        # Without a path it was no request, and the application has not seen it.
        if "instance" in problem:
            assert self.headers["X-Content-Type-Options"] == "nosniff"
            assert self.headers["Content-Security-Policy"].endswith("; frame-ancestors 'none'")
        return self


class Connection:
    """A client that can do everything wrong."""

    def __init__(self, service: Service) -> None:
        self.socket = socket.create_connection(("127.0.0.1", service.port), timeout=PATIENCE)
        self._stream = self.socket.makefile("rb")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._stream.close()
        self.socket.close()

    def send(self, *parts: bytes) -> None:
        """Send the parts one after the other, as long as they are taken."""
        with suppress(ConnectionError):
            for part in parts:
                self.socket.sendall(part)

    def flood(self, first: bytes, unit: bytes) -> None:
        """Send the first part, and then 64 MiB of the other."""
        self.socket.sendall(first)
        block = unit * (1_048_576 // len(unit))
        for _ in range(64):
            self.socket.sendall(block)

    def answer(self) -> Answer | None:
        """The next response, or None where the service has closed the connection instead."""
        line = b""
        # A service that closes before it has read everything resets the connection.
        with suppress(ConnectionResetError):
            line = self._stream.readline()
        if not line:
            return None
        status, headers = int(line.split()[1]), parse_headers(self._stream)
        if status == 100:
            return self.answer()
        length = 0 if status in {204, 304} else int(headers["Content-Length"])
        return Answer(status, headers, self._stream.read(length)).check()


def ask(service: Service, *parts: bytes, answers: int = 1) -> list[Answer]:
    """The answers to a request that is sent in parts."""
    with Connection(service) as connection:
        connection.send(*parts)
        found = [connection.answer() for _ in range(answers)]
    return [answer for answer in found if answer is not None]


def request(method: bytes, target: bytes, *fields: bytes, body: bytes = b"") -> bytes:
    return b"\r\n".join([b"%b %b HTTP/1.1" % (method, target), b"Host: test", *fields, b"", body])


def get(target: bytes, *fields: bytes) -> bytes:
    return request(b"GET", target, *fields)


def post(body: bytes, *fields: bytes, kind: bytes = JSON) -> bytes:
    return request(b"POST", ITEMS, b"Content-Type: " + kind, b"Content-Length: %d" % len(body), *fields, body=body)


def get_item(*fields: bytes) -> bytes:
    return get(b"{item}", *fields)


def delete(*fields: bytes) -> bytes:
    return request(b"DELETE", b"{item}", *fields)


def put(*fields: bytes) -> bytes:
    return request(b"PUT", b"{item}", b"Content-Type: " + JSON, b"Content-Length: %d" % len(GOOD), *fields, body=GOOD)


def framed(body: bytes, *fields: bytes) -> bytes:
    """A creation whose body is as long as its fields say, or as they do not agree on."""
    return request(b"POST", ITEMS, b"Content-Type: " + JSON, *fields, body=body)


def chunked(body: bytes, *fields: bytes) -> bytes:
    return framed(body, b"Transfer-Encoding: chunked", *fields)


def chunk(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)


def case(name: str, raw: bytes, *statuses: int) -> Any:
    return pytest.param(raw, set(statuses), id=name[:60])


LAST = b"0\r\n\r\n"
PREFIX = len(ITEMS + b"limit=1&x=")
H2C = (b"Connection: Upgrade, HTTP2-Settings", b"Upgrade: h2c", b"HTTP2-Settings: AAEAAEAAAAIAAAAB")
HANDSHAKE = b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ=="


def deep(depth: int) -> bytes:
    return b"[" * depth + b"]" * depth


def header_of(length: int) -> bytes:
    """A request whose names and values of header fields have so many bytes together."""
    return get(b"/", b"X-Long: " + b"a" * (length - sum(map(len, ("Host", "test", "X-Long")))))


BODIES = [
    *(case(f"type {kind!r}", post(GOOD, kind=kind), 415) for kind in (b"text/plain", b"application/xml", b"", b";;;")),
    *(case(f"type {kind!r}", post(GOOD, kind=kind), 415) for kind in (b"multipart/form-data; boundary=x", b"\xff\xfe")),
    *(case(f"type {kind!r}", post(GOOD, kind=kind), 201) for kind in (b"APPLICATION/JSON", b"application/a+json")),
    case("no type", request(b"POST", ITEMS, b"Content-Length: 12", body=GOOD), 415),
    case("gzip", post(gzip.compress(GOOD), b"Content-Encoding: gzip"), 415),
    case("unknown encoding", post(b"\x1b" + GOOD, b"Content-Encoding: x"), 415),
    case("no encoding at all", post(GOOD, b"Content-Encoding: identity"), 201),
    *(
        case(f"JSON {body[:12]!r}", post(body), 422)
        for body in (b"", b"{", b'{"name"', b"{'name':'x'}", b"[1,]", b'{"name":"a\nb"}', b'{"name":01}', b"\x00")
    ),
    *(case(f"JSON {body!r}", post(body), 422) for body in (b"null", b"true", b"1", b'"x"', b"[]", b"{}", b"NaN")),
    *(case(f"UTF-8 {text!r}", post(b'{"name":"%b"}' % text), 400) for text in (b"\xff\xfe", b"\xc0\x80", b"\xe2\x82")),
    *(
        case(f"{name} as name", post(b'{"name":%b}' % value), 422)
        for name, value in {
            "NUL": b'"a\\u0000b"',
            "a lone surrogate": b'"\\ud800"',
            "a reversed surrogate pair": b'"\\udc00\\ud800"',
            "a number": b"1",
            "a list": b"[]",
            "nothing": b"null",
            "spaces": b'"' + b" " * 100_000 + b'"',
        }.items()
    ),
    *(
        case(f"price {value[:12]!r} of {len(value)}", post(b'{"name":"x","price":%b}' % value), 422)
        for value in (b"true", b"[1]", b"NaN", b"-1", b"1e999999", b'"1e-999999"', b'"sNaN"', b'"1_000"', b'"\\u0661"')
    ),
    case("a huge integer as text", post(b'{"name":"x","price":"%b"}' % (b"9" * 100_000)), 422),
    case("a huge integer", post(b'{"name":"x","price":%b}' % (b"9" * 5000)), 400),
    case("a huge integer that nobody asked for", post(b'{"name":"x","y":%b}' % (b"9" * 5000)), 400),
    *(case(f"{depth} lists", post(deep(depth)), 400, 422) for depth in (500, 1000, 100_000, 500_000)),
    *(case(f"{depth} lists, never closed", post(b"[" * depth), 400, 422) for depth in (1000, 1_000_000)),
    case("100 000 objects", post(b'{"a":' * 100_000 + b"1" + b"}" * 100_000), 400),
    case("60 000 keys", post(b'{"name":"x"%b}' % b"".join(b',"%d":1' % key for key in range(60_000))), 201),
]

LIMITS = [
    case("body at the limit", post(GOOD.ljust(BODY_BYTES)), 201),
    case("body over the limit", framed(b"", b"Content-Length: %d" % (BODY_BYTES + 1)), 413),
    case("body of 2**64 - 1 bytes", framed(b"", b"Content-Length: %d" % (2**64 - 1)), 413),
    case("body that is not wanted, over the limit", get(b"/", b"Content-Length: %d" % (BODY_BYTES + 1)), 413),
    case("chunked body at the limit", chunked(chunk(GOOD.ljust(BODY_BYTES)) + LAST), 201),
    case("chunked body over the limit", chunked(chunk(GOOD.ljust(BODY_BYTES)) + chunk(b" ")), 413),
    case("body over the limit, on demand", framed(b"", b"Expect: 100-continue", b"Content-Length: 9999999"), 413),
    case("target at the limit", get(ITEMS + b"?limit=1&x=" + b"a" * (URI_BYTES - PREFIX)), 200),
    case("target over the limit", get(ITEMS + b"?limit=1&x=" + b"a" * (URI_BYTES - PREFIX + 1)), 414),
    case("path over the limit", get(b"/" + b"%ff" * URI_BYTES), 414),
    case("target far over the limit", get(b"/" + b"a" * 1_000_000), 431),
    case("header at the limit", header_of(HEADER_BYTES), 200),
    case("header over the limit", header_of(HEADER_BYTES + 1), 431),
    case("header far over the limit", header_of(1_000_000), 431),
    case("10 000 header fields", get(b"/", *(b"X-%d: 1" % number for number in range(10_000))), 431),
]

TARGETS = [
    *(
        case(f"query {query!r}", get(ITEMS + b"?" + query), 422)
        for query in (
            *(b"limit=0", b"limit=101", b"limit=-1", b"limit=x", b"limit=", b"limit=%00", b"limit=" + b"9" * 5000),
            *(b"cursor=", b"cursor=a", b"cursor=%00", b"cursor=%ff", b"cursor=%ed%a0%80", b"cursor=" + b"_" * 32),
            *(b"limit=1&limit=x", b"cursor=" + b"A" * 31 + b"=", b"cursor=" + b"A" * 5000),
        )
    ),
    *(
        case(f"id {item!r}", get(ITEMS + b"/" + item), 422)
        for item in (b"1", b"%00", b"%ff", b"%", b"%ed%a0%80", b"{item_id}", b"a" * 8000)
    ),
    *(
        case(f"path {path!r}", get(path), 404)
        for path in (b"/%00", b"/%zz", b"//", b"//evil.example/", b"/%2e%2e/etc/passwd", b"/%0d%0aX-Evil:1", b"/" * 99)
    ),
    *(
        case(f"path {path!r}", get(b"/docs/static/" + path), 404)
        for path in (b"../../app/main.py", b"%2e%2e/%2e%2e/pyproject.toml", b"..%2f..%2f", b"%00", b"%5c..", b"a/" * 99)
    ),
    case("a path that is split in two lines", get(ITEMS + b"/%0d%0aX-Evil:1/"), 404),
    *(case(f"target {target!r}", get(target), 400) for target in (b"x", b"/a b", b"/\xff", b"/\x7f", b"http://[::1/")),
    case("every resource", request(b"OPTIONS", b"*"), 404),
]

FRAMES = [
    case("lengths that differ", framed(GOOD, b"Content-Length: 12", b"Content-Length: 5"), 400),
    case("two lengths in a line", framed(GOOD, b"Content-Length: 12, 12"), 400),
    *(
        case(f"length {length!r}", framed(GOOD, b"Content-Length: " + length), 400)
        for length in (b"-1", b"+12", b"0x0c", b"", b"a", b"9" * 5000, b"\xd9\xa1")
    ),
    case("length and chunks", chunked(chunk(GOOD) + LAST, b"Content-Length: 5"), 400),
    case("chunks and length", framed(LAST + get(b"/"), b"Content-Length: 60", b"Transfer-Encoding: chunked"), 400),
    *(
        case(f"transfer {coding!r}", framed(chunk(GOOD) + LAST, b"Transfer-Encoding: " + coding), 400)
        for coding in (b"xchunked", b"chunked, identity", b"gzip", b"\x0bchunked", b"chunked\r\nTransfer-Encoding: x")
    ),
    case("compressed chunks", framed(chunk(gzip.compress(GOOD)) + LAST, b"Transfer-Encoding: gzip, chunked"), 400),
    *(
        case(f"chunk {body[:20]!r}", chunked(body), 400)
        for body in (b"zz\r\n", b"-5\r\nab\r\n", b"f" * 18 + b"\r\nab", b"2\r\nabcd\r\n", b'3\r\n{"n\r\nZZ\r\n', b"c\n")
    ),
    *(
        case(f"field {field!r}", get(b"/", field), 400)
        for field in (b"X: a\x00b", b"X: a\x01b", b"X\x00: 1", b"X Y: 1", b"X : 1", b": 1", b"X", b"X: 1\r\n folded")
    ),
    *(
        case(f"field {field!r}", get(b"/", field), 200)
        for field in (b"X: \xff", b"X-Correlation-ID: \xff", b"traceparent: \xff", b"tracestate: \xff=1", b"Accept: ;")
    ),
    case("no host", b"GET / HTTP/1.1\r\n\r\n", 400),
    case("two hosts", get(b"/", b"Host: other"), 400),
    case("no host in HTTP/1.0", b"GET / HTTP/1.0\r\n\r\n", 200),
    case("line feeds only", b"GET / HTTP/1.1\nHost: test\n\n", 400),
    case("carriage returns only", b"GET / HTTP/1.1\rHost: test\r\r", 400),
    case("HTTP/9.9", b"GET / HTTP/9.9\r\nHost: test\r\n\r\n", 400),
    case("HTTP/2 preface", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\4\0\0\0\0\0", 400),
    case("TLS hello", b"\x16\x03\x01\x00\xc8\x01\x00\x00\xc4\x03\x03" + bytes(range(200)), 400),
    case("SSH", b"SSH-2.0-x\r\n", 400),
    case("PROXY protocol", b"PROXY TCP4 192.0.2.1 192.0.2.2 1 2\r\n" + get(b"/"), 400),
    case("a response", b"HTTP/1.1 200 OK\r\n\r\n", 400),
    case("a method that nobody knows", request(b"FOO", b"/"), 400),
    case("a method in lower case", request(b"get", b"/"), 400),
    *(case(f"proxy {target!r}", request(b"CONNECT", target), 400) for target in (b"/", ITEMS, b"x:443", b"http://x/")),
]

CONDITIONS = [
    *(
        case(f"{method}, If-None-Match {tags!r}", make(b"If-None-Match: " + tags), known if matches else success)
        for method, make, known, success in (
            ("GET", get_item, 304, 200),
            ("PUT", put, 412, 200),
            ("DELETE", delete, 412, 204),
        )
        for tags, matches in {
            b"*": True,
            b"{tag}": True,
            b"W/{tag}": True,
            b'"7", W/{tag}': True,
            b'"7"\r\nIf-None-Match: {tag}': True,
            b'"7"': False,
            b"1": False,
            b'"': False,
            b"": False,
            b",,,,": False,
            b"\xff": False,
            b'"a,*,b"': False,
            b"{tag}," * 600: True,
        }.items()
    ),
    *(
        case(f"{method}, If-Match {tags!r}", make(b"If-Match: " + tags), success if matches else 412)
        for method, make, success in (("GET", get_item, 200), ("PUT", put, 200), ("DELETE", delete, 204))
        for tags, matches in {
            b"*": True,
            b"{tag}": True,
            b'"7", {tag}': True,
            b'"a,b", {tag}': True,
            b"{tag}\r\nIf-Match: {tag}": True,
            b"W/{tag}": False,
            b"1": False,
            b'"1"': False,
            b'"0"': False,
            b'"': False,
            b"": False,
            b"\xff": False,
            b'"\xb2"': False,
            b'"%b"' % (b"9" * 5000): False,
            b"," * 5000: False,
        }.items()
    ),
    case("PUT, both", put(b"If-Match: {tag}", b'If-None-Match: "7"'), 200),
]


@pytest.mark.parametrize(("raw", "statuses"), [*BODIES, *LIMITS, *TARGETS, *FRAMES, *CONDITIONS])
def test_whatever_is_sent_is_answered_and_the_next_client_is_served(
    patient: Service, raw: bytes, statuses: set[int]
) -> None:
    if b"{item}" in raw:
        (created,) = ask(patient, post(GOOD))
        raw = raw.replace(b"{item}", created.headers["Location"].encode())
        raw = raw.replace(b"{tag}", created.headers["ETag"].encode())

    (answer,) = ask(patient, raw)

    assert answer.status in statuses, answer.body
    assert "X-Evil" not in answer.headers
    assert ask(patient, get(b"/health/live"))[0].status == 200


@pytest.mark.parametrize("method", [b"PATCH", b"TRACE", b"OPTIONS", b"PROPFIND", b"PURGE"])
@pytest.mark.parametrize(
    ("path", "allowed"),
    [
        (b"/", "GET, HEAD"),
        (ITEMS, "GET, HEAD, POST"),
        (ITEMS + b"/1", "DELETE, GET, HEAD, PUT"),
        (b"/health/live", "GET, HEAD"),
    ],
)
def test_a_method_that_a_path_does_not_have_is_told_those_that_it_has(
    patient: Service, method: bytes, path: bytes, allowed: str
) -> None:
    (answer,) = ask(patient, request(method, path))

    assert (answer.status, answer.headers["Allow"]) == (405, allowed)


def test_garbage_behind_a_request_ends_the_connection_and_nothing_else(patient: Service) -> None:
    with Connection(patient) as connection:
        connection.send(get(b"/"))
        first = connection.answer()
        connection.send(get(b"/")[:-2] + b"\0garbage\r\n\r\n")
        second = connection.answer()
        assert connection.answer() is None

    assert (first and first.status, second and second.status) == (200, 400)


class Small:
    """A server of this protocol, and nothing else, for one connection."""

    def __init__(self, app: Any) -> None:
        self.protocols: list[BoundedHttp] = []
        config = uvicorn.Config(app, log_config=None, lifespan="off")
        config.load()
        http = partial(BoundedHttp, config=config, server_state=ServerState(), app_state={})
        self._http = partial(http, head_bytes=999, head_seconds=9, draining=lambda: False)

    def _accept(self) -> BoundedHttp:
        self.protocols.append(self._http())
        return self.protocols[-1]

    @asynccontextmanager
    async def connection(self) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
        """A connection to it."""
        async with await asyncio.get_running_loop().create_server(self._accept, "127.0.0.1", 0) as server:
            reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
            with closing(writer):
                yield reader, writer


GARBAGE = b"\0garbage\r\n\r\n"


@pytest.mark.parametrize(
    ("sent", "later", "answers"),
    [
        pytest.param(get(b"/") + GARBAGE, (), 1, id="in one packet"),
        pytest.param(get(b"/"), (GARBAGE,), 1, id="while the request is answered"),
        pytest.param(get(b"/") + GARBAGE, (get(b"/"), GARBAGE), 1, id="and more behind it"),
        pytest.param(post(GOOD) + get(b"/") + GARBAGE, (), 2, id="behind two requests"),
        pytest.param(get(b"/") + chunked(b"zz\r\n"), (), 1, id="in the body of a request that waits"),
        pytest.param(get(b"/"), (b"GET /", b"a" * 1000, b"a"), 1, id="in a head that is too long"),
    ],
)
async def test_whole_requests_before_garbage_are_answered_and_end_the_connection(
    sent: bytes, later: tuple[bytes, ...], answers: int
) -> None:
    entered, released = asyncio.Event(), asyncio.Event()

    async def answer(scope: Any, receive: Any, send: Any) -> None:
        entered.set()
        await released.wait()
        body = (await receive())["body"]
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"%d" % len(body))]})
        await send({"type": "http.response.body", "body": body})

    small = Small(answer)
    with capture_logs() as logs:
        async with small.connection() as (reader, writer):
            writer.write(sent)
            await entered.wait()
            for part in later:
                small.protocols[0].data_received(part)
            released.set()
            async with asyncio.timeout(PATIENCE):
                received = await reader.read()

    closes = [b"connection: close" in head for head in received.split(b"HTTP/1.1 200 OK")[1:]]
    assert closes == [False] * (answers - 1) + [True]
    assert received.count(b"HTTP/1.1") == answers
    assert [line["event"] for line in logs] == ["request refused"]


async def test_garbage_is_not_answered_into_a_response_that_has_begun() -> None:
    async def stream(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"a part", "more_body": True})
        while (await receive())["type"] != "http.disconnect":
            pass

    async with Small(stream).connection() as (reader, writer):
        writer.write(get(b"/"))
        await reader.readuntil(b"a part\r\n")
        writer.write(GARBAGE)

        assert await reader.read() == b""


def test_pipelined_requests_are_answered_in_order(patient: Service) -> None:
    unread = request(b"POST", b"/nowhere", b"Content-Length: 2", body=b"{}")
    raw = [get(b"/"), post(GOOD), post(b"{"), unread, get(ITEMS)]

    answers = ask(patient, b"".join(raw * 20), answers=len(raw) * 20)

    assert [answer.status for answer in answers] == [200, 201, 422, 404, 200] * 20


def test_what_is_no_http_is_not_answered_in_the_place_of_a_request_before_it(patient: Service) -> None:
    with Connection(patient) as connection:
        connection.send(post(GOOD) + b"no HTTP\r\n\r\n")

        answers = [answer.status for answer in iter(connection.answer, None)]

    assert answers == [201]


@pytest.mark.parametrize("framing", [b"Content-Length: 12", b"Transfer-Encoding: chunked"])
@pytest.mark.parametrize("cut", [0, 1, 60, -40, -10, -1], ids=lambda cut: f"cut at {cut}")
def test_an_offer_of_http_2_is_declined_and_its_body_arrives(patient: Service, framing: bytes, cut: int) -> None:
    body = chunk(GOOD) + LAST if b"chunked" in framing else GOOD
    raw = framed(body, framing, *H2C)

    parts = (raw[:cut], raw[cut:]) if cut else (raw,)
    answers = ask(patient, *parts, get(b"/nowhere"), get(b"/", *H2C), get(b"/"), answers=4)

    assert [answer.status for answer in answers] == [201, 404, 200, 200]
    assert json.loads(answers[0].body)["name"] == "x"


def test_pipelined_offers_of_http_2_are_declined_one_by_one(patient: Service) -> None:
    offer = post(GOOD, *H2C)

    answers = ask(patient, get(b"/") + offer + offer + get(b"/nowhere"), answers=4)

    assert [answer.status for answer in answers] == [200, 201, 201, 404]


def test_who_offers_http_2_for_the_last_request_of_a_connection_gets_it_answered(patient: Service) -> None:
    raw = post(GOOD, *H2C).replace(b"Upgrade,", b"close, Upgrade,")

    with Connection(patient) as connection:
        connection.send(raw + get(b"/"))
        answer = connection.answer()
        assert connection.answer() is None

    assert answer
    assert (answer.status, answer.headers["Connection"]) == (201, "close")


@pytest.mark.parametrize(
    "fields",
    [
        (b"Connection: Upgrade", b"Upgrade: websocket", HANDSHAKE),
        (b"Connection: upgrade", b"Upgrade: x"),
        (b"Connection: upgrade", b"Connection: keep-alive", b"Upgrade: x"),
        (b"Connection: upgrade", b"Upgrade:"),
        (b"Connection: upgrade",),
        (b"Upgrade: x",),
    ],
)
def test_other_upgrades_are_declined_as_well(patient: Service, fields: tuple[bytes, ...]) -> None:
    assert [answer.status for answer in ask(patient, post(GOOD, *fields), get(b"/"), answers=2)] == [201, 200]


def test_trailers_do_not_become_headers(patient: Service) -> None:
    trailers = b"Content-Type: %b\r\nX-Correlation-ID: trailer\r\n\r\n" % JSON
    raw = request(b"POST", ITEMS, b"Transfer-Encoding: chunked", body=chunk(GOOD) + b"0\r\n" + trailers)

    refused, served = ask(patient, raw, get(b"/"), answers=2)

    assert (refused.status, served.status) == (415, 200)
    assert "trailer" not in {refused.headers["X-Correlation-ID"], served.headers["X-Correlation-ID"]}


ANNOUNCED = request(b"POST", ITEMS, b"Content-Type: " + JSON, b"Content-Length: 1000")
ENDLESS_TRAILERS = chunked(chunk(GOOD) + b"0\r\n")


def test_slow_clients_are_told_so_in_time_while_an_idle_connection_stays_open(impatient: Service) -> None:
    slow: dict[str, tuple[bytes, bytes, list[int]]] = {
        # Browsers connect ahead of time: they would take an answer for that of their request.
        "nothing": (b"", b"", []),
        "half a line": (b"GET /ap", b"", [408]),
        "half a head": (ANNOUNCED[:-2], b"", [408]),
        "half a second line": (get(b"/") + b"GET /ap", b"", [200, 408]),
        "a head byte by byte": (b"GET / HTTP/1.1\r\nX: ", b"a", [408]),
        "empty lines": (b"\r\n", b"\r\n", [408]),
        "no body": (ANNOUNCED, b"", [408]),
        "no body after 100 Continue": (ANNOUNCED[:-2] + b"Expect: 100-continue\r\n\r\n", b"", [408]),
        "a body byte by byte": (ANNOUNCED, b" ", [408]),
        "no chunk": (chunked(b""), b"", [408]),
        "trailers byte by byte": (ENDLESS_TRAILERS + b"X: ", b"a", [408]),
    }

    def statuses(name: str) -> list[int]:
        first, drip, _ = slow[name]
        with Connection(impatient) as connection:
            connection.send(first)
            connection.socket.settimeout(0.1)
            deadline = time.monotonic() + PATIENCE
            while time.monotonic() < deadline:
                connection.send(drip)
                with suppress(TimeoutError):
                    connection.socket.recv(1, socket.MSG_PEEK)
                    break
            connection.socket.settimeout(PATIENCE)
            return [answer.status for answer in iter(connection.answer, None)]

    with Connection(impatient) as idle, ThreadPoolExecutor(len(slow)) as pool:
        idle.send(get(b"/"))
        before = idle.answer()
        found = dict(zip(slow, pool.map(statuses, slow), strict=True))
        idle.send(get(b"/"))
        after = idle.answer()

    assert (before and before.status, after and after.status) == (200, 200)
    assert found == {name: expected for name, (_, _, expected) in slow.items()}


def test_a_stray_byte_does_not_keep_a_connection_open(impatient: Service) -> None:
    with Connection(impatient) as connection:
        connection.send(get(b"/", b"Content-Length: 5") + b"abc")
        answer = connection.answer()
        assert answer
        assert answer.status == 200
        connection.send(b"d")

        assert connection.answer() is None


def resident_bytes(service: Service) -> int:
    status = Path(f"/proc/{service.process.pid}/status").read_text()
    return 1024 * int(re.findall(r"VmRSS:\s+(\d+)", status)[0])


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.parametrize(
    ("first", "unit"),
    [
        pytest.param(b"", b"A", id="method"),
        pytest.param(b"", b"\r\n", id="empty lines"),
        pytest.param(b"GET /", b"a", id="target"),
        pytest.param(b"GET / HTTP/1.1\r\n", b"a", id="field name"),
        pytest.param(b"GET / HTTP/1.1\r\nX: ", b"a", id="field"),
        pytest.param(b"GET / HTTP/1.1\r\n", b"a:b\r\n", id="fields"),
        pytest.param(ENDLESS_TRAILERS + b"X: ", b"a", id="trailer"),
        pytest.param(ENDLESS_TRAILERS, b"a:b\r\n", id="trailers"),
        pytest.param(chunked(b"5;"), b"a", id="chunk extension"),
        pytest.param(chunked(b""), chunk(b" " * 65_536), id="chunks"),
        pytest.param(get(b"/", b"Connection: upgrade", b"Upgrade: x"), b"a", id="after an upgrade"),
        pytest.param(b"", get(b"/openapi.json"), id="requests whose answers are not read"),
        pytest.param(ANNOUNCED + b" " * 1000, get(b"/openapi.json"), id="requests behind one with a body"),
    ],
)
def test_what_has_no_end_is_cut_off_and_not_collected(impatient: Service, first: bytes, unit: bytes) -> None:
    before = resident_bytes(impatient)

    with Connection(impatient) as connection, pytest.raises(ConnectionError):
        connection.flood(first, unit)

    assert resident_bytes(impatient) - before < 16_777_216
    assert ask(impatient, get(b"/health/live"))[0].status == 200


@pytest.mark.parametrize(("allowed", "trusted"), [("127.0.0.1,192.0.2.0/24", True), ("10.0.0.0/8", False), ("", False)])
def test_only_what_a_trusted_proxy_says_of_a_client_counts(tmp_path: Path, allowed: str, trusted: bool) -> None:
    claims = {
        "one": "203.0.113.7",
        "spoofed": "6.6.6.6, 203.0.113.7",
        "two-proxies": "6.6.6.6, 203.0.113.7, 192.0.2.1",
        "two-lines": "6.6.6.6\r\nX-Forwarded-For: 203.0.113.7",
    }

    log: list[dict[str, Any]] = []

    with running(tmp_path, log, FORWARDED_ALLOW_IPS=allowed) as service:
        answers = [
            answer
            for name, claim in claims.items()
            for answer in ask(
                service,
                get(
                    ITEMS,
                    b"X-Forwarded-Proto: https",
                    f"X-Forwarded-For: {claim}".encode(),
                    f"X-Correlation-ID: {name}".encode(),
                ),
            )
        ]

    clients = {line["correlation_id"]: line["client"] for line in log if line["event"] == "request"}
    assert clients == dict.fromkeys(claims, "203.0.113.7" if trusted else "127.0.0.1")
    assert {answer.headers["Strict-Transport-Security"] is not None for answer in answers} == {trusted}


ROUTES = {
    "/": {"GET", "HEAD"},
    "/api/v1/items": {"GET", "HEAD", "POST"},
    "/api/v1/items/{item_id}": {"DELETE", "GET", "HEAD", "PUT"},
    "/health/live": {"GET", "HEAD"},
    "/health/ready": {"GET", "HEAD"},
    "/health/startup": {"GET", "HEAD"},
}
DOCUMENTATION = {"/docs", "/docs/oauth2-redirect", "/docs/static", "/openapi.json"}


@pytest.mark.parametrize(
    ("environment", "more"), [("production", set()), ("staging", DOCUMENTATION), ("development", DOCUMENTATION)]
)
def test_nothing_is_served_that_is_not_known(environment: str, more: set[str]) -> None:
    app = create_app(Settings.model_validate({"environment": environment, "storage_url": "memory://"})).fastapi

    served: dict[str, set[str]] = {}
    for route in app.routes:
        served.setdefault(getattr(route, "path", repr(route)), set()).update(getattr(route, "methods", None) or ())

    assert {path: methods for path, methods in served.items() if path not in DOCUMENTATION} == ROUTES
    assert served.keys() - ROUTES.keys() == more
    assert not app.debug


async def test_production_shows_neither_its_documentation_nor_its_insides() -> None:
    app = create_app(Settings.model_validate({"environment": "production", "storage_url": "memory://"}))

    @app.fastapi.get("/fail")
    async def fail() -> None:
        raise RuntimeError("the secret cause")

    async with client_of(app) as client:
        for path in ("/docs", "/redoc", "/openapi.json", "/docs/static/swagger-ui.css", "/docs/oauth2-redirect"):
            assert (await client.get(path)).status_code == 404
        assert (await client.get("/")).json()["documentation"] is None
        failure = await client.get("/fail", headers={"Accept": "text/html"})

    assert (failure.status_code, failure.headers["content-type"]) == (500, "application/problem+json")
    for inside in ("secret", "Traceback", "RuntimeError", "fail()", ".py"):
        assert inside not in failure.text
