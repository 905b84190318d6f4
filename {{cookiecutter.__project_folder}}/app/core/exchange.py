"""A request and how far its response came, seen from between server and application: one look for all who ask."""

import asyncio
from collections.abc import Awaitable
from time import perf_counter

from starlette.types import Message, Receive, Scope, Send

from app.core import correlation, security
from app.core.http_protocol import client_has_left
from app.core.request_record import RequestRecord

# Where the layers around the application find it, in the scope.
_KEY = "app.exchange"


class Exchange(RequestRecord):
    """What every layer knows of a request: telemetry tells of it, the deadline ends it.

    Args:
        scope: of the request (ASGI 3.0), where `Exchange.of` finds the exchange until it is `over`.
        receive: the server's.
        send: the server's.

    Attributes:
        started: whether the head of the response was sent.
        complete: whether all of it was.
        awaits_body: whether the application waits for the body of the request.
        waiting_since: since when the client waits for the response, in seconds of `time.perf_counter`; once parts of it
            are sent, only the application knows when it ends, and what is waited for is a client that takes a part.
        expired: whether that took too long; then what the application sends is an echo of its being cancelled.
    """

    started = False
    complete = False
    awaits_body = False
    expired = False
    _has_body = False
    _streams = False

    def __init__(self, scope: Scope, receive: Receive, send: Send) -> None:
        super().__init__(scope)
        self.waiting_since: float | None = self.began
        self._receive = receive
        self._send = send
        scope[_KEY] = self

    @staticmethod
    def of(scope: Scope) -> "Exchange":
        """The exchange of a request that is not over."""
        exchange: Exchange = scope[_KEY]
        return exchange

    def over(self) -> None:
        """Let go of the scope, which would wait for the garbage collector otherwise."""
        del self.scope[_KEY]

    async def receive(self) -> Message:
        """Pass on what the client sends; notice when it leaves before it has its response."""
        self.awaits_body = not self._has_body
        message = await self._receive()
        self.awaits_body = False
        self._has_body = not message.get("more_body", False)
        if message["type"] == "http.disconnect" and not self.complete:
            self.broken_by = "disconnect"
        return message

    def send(self, message: Message) -> Awaitable[None]:
        """Pass on what the client gets, with the headers that every response has."""
        if self.expired and not self.started:
            return _nothing()
        kind = message["type"]
        if kind == "http.response.start":
            self.started = True
            self._notice_leaving()
            # What is sent to a client that has left is an echo of its leaving.
            if self.broken_by is None:
                self.status = message["status"]
            own = [*message.get("headers", ()), correlation.field(self.correlation_id)]
            names = {name for name, _ in own}
            # A route may know better: two policies would both hold.
            message["headers"] = own + [field for field in security.headers(self.scope) if field[0] not in names]
            return self._send(message)
        if kind == "http.response.body" and not (self._streams or message.get("more_body", False)):
            # Before sending: a client that has the whole response may leave before `send` returns.
            self.complete = True
            self.waiting_since = None
            self.ended = perf_counter()
            return self._send(message)
        self._streams = True
        return self._send_part(message)

    async def _send_part(self, message: Message) -> None:
        self._notice_leaving()
        self.complete = message["type"] == "http.response.body" and not message.get("more_body", False)
        self.waiting_since = perf_counter()
        try:
            await self._send(message)
        except asyncio.CancelledError:
            # It waits for nobody but a client that does not read.
            self.broken_by = "disconnect"
            raise
        self.waiting_since = None
        if self.complete:
            self.ended = perf_counter()

    def _notice_leaving(self) -> None:
        if not self.complete and client_has_left(self.scope):
            self.broken_by = "disconnect"

    def break_off(self, reason: str) -> None:
        """Note why the response never came to its end, unless it did, or the reason is known already."""
        if not self.complete and self.broken_by is None:
            self.broken_by = reason


async def _nothing() -> None:
    """Send nothing."""
