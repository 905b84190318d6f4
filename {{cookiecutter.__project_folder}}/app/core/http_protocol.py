"""HTTP/1.1 as uvicorn speaks it by httptools, made fit for clients that are hostile, broken, or Java.

uvicorn's other parser, h11, has none of these faults, and costs a request a third more CPU time; so they are mended
here. Each method says which one.
"""

import asyncio
import base64
import binascii
from collections.abc import Callable, Sequence
from typing import Any

import httptools
import structlog
from starlette.types import Scope
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol, RequestResponseCycle

from app.core import correlation, errors

log = structlog.get_logger()

# An extension of the scope (ASGI, "Extensions") that other servers do not have.
_CONNECTION = "app.connection"

_UPGRADE_FIELDS = (b"upgrade", b"http2-settings")

# The package `websockets` takes so much, and leaves the client without an answer for more.
_WEBSOCKET_FIELDS = 128
_WEBSOCKET_LINE_BYTES = 8192 - len(b"GET  HTTP/1.1\r\n")


def client_has_left(scope: Scope) -> bool:
    """Whether the connection was lost before the response was complete, as far as the server knows."""
    extensions = scope.get("extensions")
    connection = extensions and extensions.get(_CONNECTION)
    return connection is not None and connection.is_lost


class BoundedHttp(HttpToolsProtocol):
    """One connection.

    Args:
        arguments: uvicorn's.
        head_bytes: how long request line and header fields may be together; a safety net over the exact limits that
            `core/limits.py` enforces where telemetry sees it.
        head_seconds: how long they may take to arrive; a client may read nothing for a third of it.
        draining: whether responses ask clients to go elsewhere.
        options: uvicorn's.
    """

    def __init__(
        self, *arguments: Any, head_bytes: int, head_seconds: float, draining: Callable[[], bool], **options: Any
    ) -> None:
        super().__init__(*arguments, **options)
        self._draining = draining
        self._head_bytes = head_bytes
        self._head_seconds = head_seconds
        # A client that stops reading is noticed at the second look: before the deadline of a request that waits for it.
        self._look_seconds = head_seconds / 3
        self._in_head = True
        self._steps = 0
        self._received = 0
        self._impatience: asyncio.TimerHandle | None = None
        self._next_look: asyncio.TimerHandle | None = None
        self._running: RequestResponseCycle | None = None
        self._has_refused = False
        self.is_lost = False
        self._declines_upgrade = False

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Wait for a head for a limited time; uvicorn would wait for ever."""
        super().connection_made(transport)
        self._impatience = self.loop.call_later(self._head_seconds, self._too_slow)

    def connection_lost(self, exc: Exception | None) -> None:
        """Tell the request that is being answered; of pipelined ones, uvicorn tells only the last that it parsed."""
        self.is_lost = True
        self._be_patient()
        self._look_no_more()
        self.pipeline.clear()
        if self._running is not None and not self._running.response_complete:
            self._running.disconnected = True
            self._running.message_event.set()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Parse what arrived, and refuse a head or trailers that are too long; httptools would collect without end."""
        if self._has_refused:
            # Read nevertheless: what is unread when the connection closes takes the answer with it.
            return
        steps = self._steps
        try:
            self.parser.feed_data(data)
        except httptools.HttpParserUpgrade as upgrade:
            if self._declines_upgrade:
                self._parse_without_upgrade(data[upgrade.args[0] :])
            else:
                self.handle_websocket_upgrade()
            return
        except httptools.HttpParserError:
            self.send_400_response("This is no valid HTTP request.")
            return
        if self.transport.is_closing():
            return
        # A part that brings a request forward may hold whole ones; its size says nothing.
        self._received = self._received + len(data) if self._steps == steps else 1
        if self._received > self._head_bytes:
            self._refuse(431, f"Request line and header fields may have {self._head_bytes} bytes together.")
        elif self._in_head and self._impatience is None:
            self._impatience = self.loop.call_later(self._head_seconds, self._too_slow)

    def on_message_begin(self) -> None:
        """Note that a head has begun: only that ends idleness. For uvicorn a stray byte does, and for ever."""
        self._unset_keepalive_if_required()
        super().on_message_begin()
        self._in_head = True
        self._steps += 1

    def on_headers_complete(self) -> None:
        """Begin the request, unless it offers an upgrade that nobody here speaks.

        Raises:
            ValueError: it is for a proxy (RFC 9110, section 9.3.6), or names no host, or two (RFC 9112, section 3.2).
        """
        parser = self.parser
        hosts = [name for name, _ in self.headers].count(b"host")
        if parser.get_method() == b"CONNECT" or (hosts != 1 and parser.get_http_version() == "1.1"):
            raise ValueError("the parser turns this into its own error")
        # A response that ended while this head arrived has begun to count idleness.
        self._unset_keepalive_if_required()
        self._in_head = False
        self._steps += 1
        self._be_patient()
        offers_upgrade = parser.should_upgrade()
        self._declines_upgrade = offers_upgrade and not self._should_upgrade()
        if not self._declines_upgrade:
            super().on_headers_complete()
        if not offers_upgrade:
            # What comes now are trailers: uvicorn would add them to the header of the request under way.
            self.headers = []

    def on_body(self, body: bytes) -> None:
        """Take a part of the body."""
        self._steps += 1
        super().on_body(body)

    def on_message_complete(self) -> None:
        """End the request, unless it is to be parsed anew."""
        if not self._declines_upgrade:
            super().on_message_complete()

    def on_response_complete(self) -> None:
        """Begin the next pipelined request; read no more while any waits, else a client could queue without end."""
        super().on_response_complete()
        if self.pipeline and not self.transport.is_closing():
            self.flow.pause_reading()

    def pause_writing(self) -> None:
        """Let the application wait until the client has read, but not for one that does not read at all."""
        super().pause_writing()
        self._look_again()

    def resume_writing(self) -> None:
        """Let the application go on."""
        self._look_no_more()
        super().resume_writing()

    def send_400_response(self, msg: str) -> None:
        """Answer what is no HTTP."""
        self._refuse(400, msg)

    def announce_close(self) -> None:
        """Let the response under way say that it is the last one of this connection, unless its head is gone already.

        A client that keeps a connection learns only so that it has to make another, which then leads elsewhere (RFC
        9112, section 9.6). uvicorn just closes, and may meet a request that is on its way.
        """
        if self._running is not None and not self._running.response_started:
            self._running.keep_alive = False

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: Any) -> None:
        """Begin a request, and let it know whether its client is still there: uvicorn tells only who waits for that."""
        self._running = cycle
        # Not the cycle, which knows its scope: only the garbage collector could free the two.
        cycle.scope["extensions"] = {_CONNECTION: self}  # type: ignore[dict-item]
        if self._draining():
            self.announce_close()
        super()._start_asgi_task(cycle, app)

    def _should_upgrade(self) -> bool:
        """Whether a WebSocket is offered, and in a way that can succeed."""
        parser = self.parser
        return super()._should_upgrade() and is_handshake(
            parser.get_method(), parser.get_http_version(), self.url, self.headers
        )

    def _parse_without_upgrade(self, rest: bytes) -> None:
        """Parse the request again without its offer to upgrade, which a server may ignore (RFC 9110, section 7.8).

        httptools drops the body of such a request. Java's client offers `h2c` with all it sends (uvicorn issue 2722).
        """
        self._declines_upgrade = False
        fields = [(name, value) for name, value in self.headers if name not in (*_UPGRADE_FIELDS, b"connection")]
        if any(name == b"connection" and b"close" in value.lower() for name, value in self.headers):
            fields.append((b"connection", b"close"))
        line = b"%b %b HTTP/%b" % (self.parser.get_method(), self.url, self.parser.get_http_version().encode())
        head = b"\r\n".join([line, *(b"%b: %b" % field for field in fields), b"", b""])
        self.parser = httptools.HttpRequestParser(self)
        self.parser.set_dangerous_leniencies(lenient_data_after_close=True)
        self.data_received(head + rest)

    def _be_patient(self) -> None:
        if self._impatience is not None:
            self._impatience.cancel()
            self._impatience = None

    def _too_slow(self) -> None:
        self._impatience = None
        if self._received:
            self._refuse(408, f"The request did not arrive within {self._head_seconds:g} s.")
        else:
            # Nothing was asked: browsers connect ahead of time, and would take an answer for that of their request.
            self.transport.close()

    def _look_again(self) -> None:
        unread = self.transport.get_write_buffer_size()
        self._next_look = self.loop.call_later(self._look_seconds, self._look, unread)

    def _look(self, unread: int) -> None:
        if self.transport.get_write_buffer_size() < unread:
            self._look_again()
        else:
            log.warning("client does not read", client=self.client and self.client[0])
            self.transport.abort()

    def _look_no_more(self) -> None:
        if self._next_look is not None:
            self._next_look.cancel()
            self._next_look = None

    def _refuse(self, status: int, detail: str) -> None:
        """Answer what cannot become a request, unless a response before it is to come, and close the connection."""
        self._has_refused = True
        self._be_patient()
        identity = correlation.new()
        token = correlation.correlation_id.set(identity)
        try:
            log.warning("request refused", status=status, detail=detail, client=self.client and self.client[0])
            response = errors.problem(None, status, detail, headers={"Connection": "close"})
        finally:
            correlation.correlation_id.reset(token)
        before = None if self._running is None or self._running.response_complete else self._running
        # What is written before that one is complete would be read as a part of it, or as all of it.
        if before and before.response_started:
            self.transport.close()
        elif before and not before.more_body:
            self._end_with_what_arrived(before)
        else:
            fields = [*self.server_state.default_headers, *response.raw_headers, correlation.field(identity)]
            head = b"".join(b"%b: %b\r\n" % field for field in fields)
            self.transport.write(b"%b%b\r\n%b" % (STATUS_LINE[status], head, bytes(response.body)))
            self.transport.close()

    def _end_with_what_arrived(self, running: RequestResponseCycle) -> None:
        """Let the connection end with the response to the last request that is whole (RFC 9112, section 9.3.2)."""
        if self.pipeline and self.pipeline[0][0].more_body:
            self.pipeline.popleft()
        last = self.pipeline[0][0] if self.pipeline else running
        last.keep_alive = False


def is_handshake(method: bytes, version: str, target: bytes, fields: Sequence[tuple[bytes, bytes]]) -> bool:
    """Whether a request that offers WebSocket is an opening handshake (RFC 6455, section 4.1) that can be answered.

    A server may ignore any other offer (RFC 9110, section 7.8), and so answer the request in its own words.

    Args:
        method: as it was sent.
        version: of HTTP.
        target: as it was sent.
        fields: the header, names in lower case.
    """
    values = dict(fields)
    try:
        key = base64.b64decode(values.get(b"sec-websocket-key", b""), validate=True)
    except binascii.Error:
        return False
    return (
        (method, version) == (b"GET", "1.1")
        and (len(key), values.get(b"sec-websocket-version")) == (16, b"13")
        and not values.keys() & {b"content-length", b"transfer-encoding"}
        and len(fields) <= _WEBSOCKET_FIELDS
        and max(len(target), *(len(name) + len(value) for name, value in fields)) < _WEBSOCKET_LINE_BYTES
    )
