"""The kinds of requests there are, each as a client of `tests.zoo` that does something, and what must be seen of it."""

import re
import socket
import struct
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from email.message import Message
from typing import Any

import pytest
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import ClientConnection, connect

from app.core.route_templates import UNMATCHED
from tests.observe import PATIENCE, Answer, Observed, Series, read_answer, write_request
from tests.zoo import ORIGIN

# The limits that the zoo is given.
URI_BYTES, HEADER_BYTES, BODY_BYTES, CROWD = 256, 1024, 1024, 3


@dataclass(frozen=True)
class Kind:
    """A kind of request and what must be seen of it.

    Attributes:
        name: as the document has it.
        request: method and target.
        route: the label; None where it is no request, but refused by the protocol.
        status: the one that is counted.
        fields: further header fields.
        content: the body that is sent.
        client: what it does; gets the zoo, the kind and the request as it goes over the wire.
        seen: the status that the client sees, where it is another; 0 where it sees none.
        answer: the body that the client sees; None where any will do.
        incomplete: what keeps the response from its end.
        error: the exception that nobody handled.
        besides: events that are logged beside the access line and the exception.
        series: what else is counted.
        closed: the code that a WebSocket was closed with, and what kept it from its end.
        gets: header fields of the response.
        times: how often the request is made.
        otherwise: what is different behind a `BaseHTTPMiddleware`.
    """

    name: str
    request: str
    route: str | None
    status: int = 200
    fields: tuple[str, ...] = ()
    content: bytes = b""
    client: "Client" = field(default=lambda zoo, kind, raw: zoo.ask(raw, kind.method))
    seen: int | None = None
    answer: bytes | None = None
    incomplete: str | None = None
    error: str | None = None
    besides: tuple[str, ...] = ()
    series: tuple[Series, ...] = ()
    closed: tuple[int, str | None] | None = None
    gets: tuple[tuple[str, str], ...] = ()
    times: int = 1
    otherwise: Mapping[str, Any] = field(default_factory=dict)

    @property
    def method(self) -> str:
        """The method as it is sent."""
        return self.request.partition(" ")[0]

    @property
    def target(self) -> str:
        """The target as it is sent."""
        return self.request.partition(" ")[2]

    @property
    def path(self) -> str:
        """The path of the target."""
        return self.target.partition("?")[0]

    @property
    def scheme(self) -> str:
        """The scheme of the target."""
        return "ws" if self.path.startswith(("/ws/", "/tenant-ws/")) and self.method == "GET" else "http"

    @property
    def label(self) -> str:
        """The method as it is labelled."""
        return self.method if self.method in {"GET", "HEAD", "POST", "DELETE", "OPTIONS"} else "_OTHER"

    @property
    def failed(self) -> bool:
        """Whether it counts as a failure of the service."""
        return self.status >= 500 or self.incomplete == "error"

    @property
    def error_type(self) -> str | None:
        """What the span says was wrong."""
        if self.error and not self.closed:
            return self.error
        return (self.incomplete or str(self.status)) if self.failed else None

    def dispatched(self) -> "Kind":
        """The same behind a `BaseHTTPMiddleware`."""
        return replace(self, **self.otherwise)

    def __str__(self) -> str:
        return self.name


Client = Callable[[Observed, Kind, bytes], Answer | None]


def leave_at_once(zoo: Observed, kind: Kind, raw: bytes) -> None:
    """Send what there is, and go."""
    with zoo.connection() as connection:
        connection.sendall(raw)
        zoo.wait_inside(1)


def leave_before_the_answer(zoo: Observed, kind: Kind, raw: bytes) -> None:
    """Go while a route works on the answer."""
    leave_at_once(zoo, kind, raw)
    for _ in range(2):
        zoo.probe()
    zoo.order("release")


def leave_during_the_answer(zoo: Observed, kind: Kind, raw: bytes) -> None:
    """Go when the first part is there."""
    with zoo.connection() as connection:
        connection.sendall(raw)
        received = b""
        while b"first" not in received:
            received += connection.recv(65536)
        # Without waiting for what is on its way: the service's kernel hears of it at once.
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    zoo.probe()
    zoo.order("release")


def send_no_body(zoo: Observed, kind: Kind, raw: bytes) -> Answer:
    """Promise a body and wait for what happens."""
    with zoo.connection() as connection:
        connection.sendall(raw)
        return read_answer(connection)


def crowd(zoo: Observed, kind: Kind, raw: bytes) -> Answer:
    """Ask while others take all the room there is."""
    with ExitStack() as stack:
        others = [stack.enter_context(zoo.connection()) for _ in range(CROWD)]
        for other in others:
            other.sendall(write_request("GET", "/wait", "X-Correlation-ID: crowd"))
        zoo.wait_inside(CROWD)
        answer = zoo.ask(raw)
        zoo.order("release")
        assert [read_answer(other).status for other in others] == [200] * CROWD
        return answer


def pipeline(zoo: Observed, kind: Kind, raw: bytes) -> Answer:
    """Send the request twice before reading anything."""
    with zoo.connection() as connection:
        connection.sendall(raw.replace(b"Connection: close\r\n", b"") + raw)
        received = b""
        while block := connection.recv(65536):
            received += block
    first, second = re.split(rb"(?=HTTP/1\.1 )", received)[1:]
    assert first.rpartition(b"\r\n\r\n")[2] == second.rpartition(b"\r\n\r\n")[2]
    ours, theirs = socket.socketpair()
    with ours, theirs:
        theirs.sendall(second)
        return read_answer(ours)


def with_garbage(zoo: Observed, kind: Kind, raw: bytes) -> Answer:
    """Send what is no HTTP in the same packet."""
    return zoo.ask(raw.replace(b"Connection: close\r\n", b"") + b"no HTTP\r\n\r\n")


def websocket(talk: Callable[[Observed, ClientConnection], None]) -> Client:
    """Shake hands, and talk."""

    def client(zoo: Observed, kind: Kind, raw: bytes) -> Answer:
        fields = [line.split(": ", 1) for line in raw.decode().split("\r\n")[2:] if line]
        headers = [(name, value) for name, value in fields if name not in {"Connection", "User-Agent"}]
        address = f"ws://127.0.0.1:{zoo.port}{kind.target}"
        try:
            with connect(
                address, additional_headers=headers, user_agent_header="zoo", open_timeout=PATIENCE, proxy=None
            ) as connection:
                talk(zoo, connection)
                response = connection.response
        except InvalidStatus as refused:
            response = refused.response
        assert response is not None
        message = Message()
        for name, value in response.headers.raw_items():
            message[name] = value
        return Answer(response.status_code, message, bytes(response.body or b""))

    return client


def echo(_: Observed, connection: ClientConnection) -> None:
    connection.send("world")
    assert connection.recv(PATIENCE) == "hello world"
    wait_until_closed(4001)(_, connection)


def wait_until_closed(code: int) -> Callable[[Observed, ClientConnection], None]:
    def talk(_: Observed, connection: ClientConnection) -> None:
        with pytest.raises(ConnectionClosed):
            connection.recv(PATIENCE)
        assert connection.close_code == code

    return talk


def hang_up(_: Observed, connection: ClientConnection) -> None:
    connection.socket.shutdown(socket.SHUT_RDWR)


def say_goodbye(_: Observed, connection: ClientConnection) -> None:
    connection.close(1001)


def handshake(name: str, path: str, route: str, status: int = 101, **details: Any) -> Kind:
    return Kind(name, f"GET {path}", route, status, **{"client": websocket(lambda *_: None)} | details)


BODY = ("Content-Length: 10", "Content-Type: application/json")
HANDSHAKE = ("Upgrade: websocket", "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==", "Sec-WebSocket-Version: 13")
TIMED_OUT = "http_requests_timed_out_total"
SERVED = tuple((name, "GET", "/wait", "200") for name in ("http_requests_total", "http_request_duration_seconds_count"))
# A `BaseHTTPMiddleware` ends the response as if nothing had happened; the exception comes after that.
LOOKS_WHOLE = {"incomplete": None}

KINDS = [
    Kind("route", "GET /plain", "/plain", answer=b'"ok"'),
    Kind("route with a parameter", "GET /word/a?b=c", "/word/{word}", answer=b'"a"'),
    Kind("route whose parameter spans segments", "GET /files/a/b.txt", "/files/{word}", answer=b'"a/b.txt"'),
    Kind("one function for two routes", "GET /also/a", "/also/{word}", answer=b'"a"'),
    Kind("route that runs in a thread", "GET /thread", "/thread", answer=b'"ok"'),
    Kind("plain Starlette route", "GET /starlette/a", "/starlette/{word}", answer=b"ok"),
    Kind("the service's own route", "GET /api/v1/items?limit=1", "/api/v1/items"),
    Kind("documentation", "GET /openapi.json", "/openapi.json"),
    Kind("registered router", "GET /flat/a", "/flat/{word}", answer=b'"a"'),
    Kind("nested routers", "GET /outer/inner/a", "/outer/inner/{word}", answer=b'"a"'),
    Kind("router included twice", "GET /again/outer/inner/a", "/again/outer/inner/{word}", answer=b'"a"'),
    Kind("mount in a router", "GET /outer/mount/a/x/b", "/outer/mount/{tenant}/x/{word}", answer=b'"b"'),
    Kind("mounted application", "GET /one/x/a", "/one/x/{word}", answer=b'"a"'),
    Kind("application mounted twice", "GET /two/x/a", "/two/x/{word}", answer=b'"a"'),
    Kind("mount with a parameter", "GET /tenant/a/x/b", "/tenant/{tenant}/x/{word}", answer=b'"b"'),
    Kind("mounts within mounts", "GET /deep/1/lower/2/x/c", "/deep/{depth}/lower/{level}/x/{word}", answer=b'"c"'),
    Kind("mounted Starlette application", "GET /starlettes/y/a", "/starlettes/y/{word}", answer=b"ok"),
    Kind("static file", "GET /static/service.toml", "/static/{path}"),
    Kind("static file that is not there", "GET /static/a", "/static/{path}", 404),
    Kind("mounted ASGI function", "GET /raw/a/b", "/raw/{path}", answer=b"raw"),
    Kind("redirect of a route", "GET /moved/a", "/moved/{word}", 307, gets=(("Location", "/word/a"),)),
    Kind("redirect within a mount", "GET /tenant/a/index", "/tenant/{tenant}/index/", 307),
    Kind("slash that no route has", "GET /word/a/", UNMATCHED, 404),
    Kind("mount without its slash", "GET /raw", UNMATCHED, 404),
    Kind("HEAD of a registered router", "HEAD /flat/a", "/flat/{word}", answer=b""),
    Kind("HEAD that no route takes", "HEAD /plain", "/plain", 405, answer=b"", gets=(("Allow", "GET"),)),
    Kind("OPTIONS that no route takes", "OPTIONS /plain", "/plain", 405),
    Kind("method that no route takes", "DELETE /word/a", "/word/{word}", 405),
    Kind("method that few know", "PROPFIND /word/a", "/word/{word}", 405),
    Kind(
        "CORS preflight",
        "OPTIONS /plain",
        UNMATCHED,
        fields=(f"Origin: {ORIGIN}", "Access-Control-Request-Method: GET"),
        answer=b"OK",
        gets=(("Access-Control-Allow-Origin", ORIGIN),),
    ),
    Kind(
        "CORS request",
        "GET /plain",
        "/plain",
        fields=(f"Origin: {ORIGIN}",),
        answer=b'"ok"',
        gets=(("Access-Control-Allow-Origin", ORIGIN),),
    ),
    Kind("path that nobody knows", "GET /nowhere", UNMATCHED, 404),
    Kind(
        "path that a mount does not know",
        "GET /tenant/a/nowhere",
        "/tenant/{tenant}/{path}",
        404,
        answer=b'{"detail":"Not Found"}',
    ),
    Kind("two requests in one packet", "GET /fresh", "/fresh", client=pipeline, answer=b'"ok"', times=2),
    Kind(
        "request with garbage behind it",
        "GET /plain",
        "/plain",
        client=with_garbage,
        answer=b'"ok"',
        besides=("request refused",),
        gets=(("Connection", "close"),),
    ),
    Kind("answer of a middleware", "GET /door/closed", UNMATCHED, 401, answer=b""),
    Kind("HTTPException", "GET /teapot", "/teapot", 418),
    Kind("HTTPException of the service's own fault", "GET /busy", "/busy", 503),
    Kind("stream", "GET /stream", "/stream", answer=b"ab"),
    Kind("server-sent events", "GET /events", "/events", answer=b'data: {"n":1}\n\ndata: {"n":2}\n\n'),
    Kind(
        "stream that dies half-way",
        "GET /half",
        "/half",
        answer=b"half",
        incomplete="error",
        error="RuntimeError",
        otherwise=LOOKS_WHOLE,
    ),
    Kind(
        "threaded stream that dies half-way",
        "GET /half/threaded",
        "/half/threaded",
        answer=b"half",
        incomplete="error",
        error="RuntimeError",
        otherwise=LOOKS_WHOLE,
    ),
    Kind("background task", "GET /background", "/background", answer=b'"ok"', besides=("background task",)),
    Kind("background task that fails", "GET /background/fails", "/background/fails", error="RuntimeError"),
    Kind("exception in a route", "GET /fail", "/fail", 500, error="RuntimeError"),
    Kind("exception in a dependency", "GET /fail/dependency", "/fail/dependency", 500, error="RuntimeError"),
    Kind("dependency that fails to open", "GET /fail/opening", "/fail/opening", 500, error="RuntimeError"),
    Kind("dependency that fails to close", "GET /fail/closing", "/fail/closing", answer=b'"ok"', error="RuntimeError"),
    Kind(
        "answer that is not what was promised",
        "GET /fail/promise",
        "/fail/promise",
        500,
        error="ResponseValidationError",
    ),
    Kind("exception in a middleware", "GET /door/broken", UNMATCHED, 500, error="RuntimeError"),
    Kind(
        "exception in a BaseHTTPMiddleware",
        "GET /dispatch/broken",
        UNMATCHED,
        404,
        otherwise={"status": 500, "error": "RuntimeError"},
    ),
    Kind(
        "exception in a mounted application",
        "GET /tenant/a/fail",
        "/tenant/{tenant}/fail",
        500,
        answer=b"Internal Server Error",
        error="RuntimeError",
    ),
    Kind("exception in an ASGI function", "GET /raw-fails/a", "/raw-fails/{path}", 500, error="RuntimeError"),
    Kind(
        "application that answers nothing",
        "GET /raw-says-nothing/a",
        "/raw-says-nothing/{path}",
        500,
        otherwise={"error": "RuntimeError"},
    ),
    Kind(
        "client that leaves before its body is sent",
        "POST /upload",
        "/upload",
        499,
        (*BODY,),
        b'{"a',
        leave_at_once,
        seen=0,
        incomplete="disconnect",
    ),
    Kind(
        "client that leaves before its JSON is sent",
        "POST /json",
        "/json",
        499,
        (*BODY,),
        b'{"a',
        leave_at_once,
        seen=0,
        incomplete="disconnect",
    ),
    Kind(
        "client that leaves before the answer",
        "GET /wait",
        "/wait",
        499,
        client=leave_before_the_answer,
        seen=0,
        incomplete="disconnect",
    ),
    Kind(
        "the same, where the route looks",
        "GET /watch",
        "/watch",
        499,
        client=leave_at_once,
        seen=0,
        incomplete="disconnect",
        # There `is_disconnected` is never true.
        otherwise={"besides": ("deadline exceeded",), "series": ((TIMED_OUT, "response"),)},
    ),
    Kind(
        "client that leaves during the answer",
        "GET /endless",
        "/endless",
        client=leave_during_the_answer,
        seen=0,
        incomplete="disconnect",
    ),
    Kind(
        "request that is shed",
        "GET /plain",
        UNMATCHED,
        503,
        client=crowd,
        besides=("load shedding began", *["request"] * CROWD, "load shedding ended"),
        gets=(("Retry-After", "1"),),
        series=(("http_requests_shed_total",), *SERVED * CROWD),
    ),
    Kind(
        "request that takes too long",
        "GET /wait",
        "/wait",
        504,
        besides=("deadline exceeded",),
        series=((TIMED_OUT, "response"),),
    ),
    Kind(
        "body that takes too long",
        "POST /upload",
        "/upload",
        408,
        BODY,
        client=send_no_body,
        besides=("deadline exceeded",),
        series=((TIMED_OUT, "body"),),
    ),
    Kind("body that is too long", "POST /upload", UNMATCHED, 413, (f"Content-Length: {BODY_BYTES + 1}",)),
    Kind(
        "body of unknown length that is too long",
        "POST /upload",
        "/upload",
        413,
        ("Transfer-Encoding: chunked",),
        b"%x\r\n%b\r\n0\r\n\r\n" % (BODY_BYTES + 1, b"a" * (BODY_BYTES + 1)),
    ),
    Kind("target that is too long", f"GET /{'a' * URI_BYTES}", UNMATCHED, 414),
    Kind("header that is too long", "GET /plain", UNMATCHED, 431, (f"X-Long: {'a' * HEADER_BYTES}",)),
    Kind(
        "body that is invalid",
        "POST /json",
        "/json",
        422,
        ("Content-Type: application/json", "Content-Length: 1"),
        b"{",
    ),
    Kind("parameter that is invalid", "GET /api/v1/items?limit=x", "/api/v1/items", 422),
    Kind("method that is no method", "BREW /plain", None, 400, besides=("request refused",)),
    Kind("what is no HTTP", "GET /plain", None, 400, ("no field",), besides=("request refused",)),
    Kind("header far too long", "GET /plain", None, 431, ("X: " + "a" * 300_000,), besides=("request refused",)),
    handshake("WebSocket", "/ws/echo/hello", "/ws/echo/{word}", client=websocket(echo), closed=(4001, None)),
    handshake(
        "WebSocket of a mount",
        "/tenant-ws/a/echo/hello",
        "/tenant-ws/{tenant}/echo/{word}",
        client=websocket(echo),
        closed=(4001, None),
    ),
    handshake(
        "WebSocket that its client closes",
        "/ws/listen",
        "/ws/listen",
        client=websocket(say_goodbye),
        closed=(1001, None),
    ),
    handshake(
        "WebSocket whose client is gone", "/ws/listen", "/ws/listen", client=websocket(hang_up), closed=(1005, None)
    ),
    handshake(
        "WebSocket whose route just ends",
        "/ws/return",
        "/ws/return",
        client=websocket(wait_until_closed(1000)),
        closed=(1000, None),
    ),
    handshake("WebSocket that is refused", "/ws/refuse", "/ws/refuse", 403),
    handshake("WebSocket that is refused by an HTTPException", "/ws/deny", "/ws/deny", 401),
    handshake("WebSocket that nobody knows", "/ws/nowhere", UNMATCHED, 403),
    handshake("exception before a WebSocket is accepted", "/ws/fail", "/ws/fail", 500, error="RuntimeError"),
    handshake(
        "exception after a WebSocket is accepted",
        "/ws/fail/later",
        "/ws/fail/later",
        client=websocket(wait_until_closed(1011)),
        error="RuntimeError",
        closed=(1011, "error"),
    ),
    Kind(
        "handshake that is none",
        "POST /ws/return",
        UNMATCHED,
        404,
        (*HANDSHAKE, "Content-Length: 2"),
        b"{}",
    ),
    Kind(
        "client that leaves before its WebSocket is accepted",
        "GET /ws/wait",
        "/ws/wait",
        499,
        HANDSHAKE,
        client=leave_before_the_answer,
        seen=0,
        incomplete="disconnect",
    ),
]
