"""An HTTP client that costs next to nothing for each request, so that a flood is measured and not the client.

httpx looks through all its connections for each request: with hundreds that wait for an answer, it is slower than what
it asks. This one knows what the service answers with, HTTP/1.1 with a length, and no more.
"""

import asyncio
import ssl
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple
from urllib.parse import urlsplit

# So long a connection is used. Users come and go, and a replica that is new gets requests by new connections only.
CONNECTION_SECONDS = 5.0


class _Connection(NamedTuple):
    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter
    until: float


class NoAnswerError(Exception):
    """The connection failed, or what came is no answer."""


@dataclass(frozen=True)
class Answer:
    """What came back; names of header fields in lower case."""

    status: int
    headers: Mapping[str, str]


class Client:
    """Asks one service, on as many connections as there are requests at a time; those that are idle are used again.

    Args:
        base_url: of the service.
    """

    def __init__(self, base_url: str) -> None:
        where = urlsplit(base_url)
        secure = where.scheme == "https"
        self._host = where.hostname or ""
        self._port = where.port or (443 if secure else 80)
        self._named = where.netloc
        self._prefix = where.path.rstrip("/")
        self._tls = ssl.create_default_context() if secure else None
        self._idle: list[_Connection] = []

    async def send(self, method: str, path: str, headers: Mapping[str, str], body: bytes = b"") -> Answer:
        """Send one request.

        Raises:
            NoAnswerError: there is no answer.
        """
        fields = {"Host": self._named, "Content-Length": str(len(body)), **headers}
        head = "".join(f"{name}: {value}\r\n" for name, value in fields.items())
        try:
            connection = self._unused() or await self._connect()
        except OSError as error:
            raise NoAnswerError(str(error)) from error
        reader, writer, until = connection
        try:
            writer.write(f"{method} {self._prefix}{path} HTTP/1.1\r\n{head}\r\n".encode() + body)
            answer = parsed(await reader.readuntil(b"\r\n\r\n"))
            await reader.readexactly(int(answer.headers.get("content-length", "0")))
        except BaseException as error:
            writer.close()
            if isinstance(error, OSError | EOFError | ValueError | asyncio.LimitOverrunError):
                raise NoAnswerError(str(error)) from error
            raise
        if answer.headers.get("connection", "").lower() == "close" or time.monotonic() > until:
            writer.close()
        else:
            self._idle.append(connection)
        return answer

    async def _connect(self) -> _Connection:
        reader, writer = await asyncio.open_connection(self._host, self._port, ssl=self._tls)
        return _Connection(reader, writer, time.monotonic() + CONNECTION_SECONDS)

    def _unused(self) -> _Connection | None:
        """The connection that was used last, if there is any that the service has not closed meanwhile."""
        while self._idle:
            connection = self._idle.pop()
            if not connection.reader.at_eof():
                return connection
            connection.writer.close()
        return None

    def close(self) -> None:
        """Close the connections that are idle."""
        for connection in self._idle:
            connection.writer.close()
        self._idle.clear()


def parsed(head: bytes) -> Answer:
    """The answer whose head this is.

    Raises:
        ValueError: it is none.
    """
    first, *lines = head.decode("latin-1").split("\r\n")
    _, status, *_ = first.split(maxsplit=2)
    fields = (line.partition(":") for line in lines if line)
    return Answer(int(status), {name.lower(): value.strip() for name, _, value in fields})
