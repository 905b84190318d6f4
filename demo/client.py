"""HTTP requests to one port of this machine, proxies and all their settings aside."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from http import HTTPStatus
from http.client import HTTPConnection, HTTPException
from typing import Any

from demo.failure import DemoError
from demo.ports import LOOPBACK


class NoAnswerError(DemoError):
    """Nobody answered a request; the message says which, and why."""


@dataclass(frozen=True)
class Response:
    """The answer to a request; names of headers are in lower case."""

    method: str
    url: str
    path: str
    status: int
    headers: Mapping[str, str]
    body: str

    @property
    def status_line(self) -> str:
        """The first line of the response."""
        return f"HTTP/1.1 {self.status} {HTTPStatus(self.status).phrase}"


class Client:
    """Asks whoever listens on a port.

    Args:
        port: where.
        timeout: how many seconds an answer may take.
    """

    def __init__(self, port: int, timeout: float = 10.0) -> None:
        self.url = f"http://{LOOPBACK}:{port}"
        self._port = port
        self._timeout = timeout

    def send(self, method: str, path: str, headers: Mapping[str, str] | None = None, content: Any = None) -> Response:
        """Send one request, with `content` as JSON.

        Raises:
            NoAnswerError: nobody answered, or not in HTTP.
        """
        connection = HTTPConnection(LOOPBACK, self._port, timeout=self._timeout)
        try:
            body = None if content is None else json.dumps(content)
            kind = {} if content is None else {"Content-Type": "application/json"}
            connection.request(method, path, body, {**kind, **(headers or {})})
            answer = connection.getresponse()
            text = answer.read().decode()
            names = {name.lower(): value for name, value in answer.getheaders()}
            return Response(method, f"{self.url}{path}", path, answer.status, names, text)
        except (OSError, HTTPException) as error:
            raise NoAnswerError(f"{method} {self.url}{path} was not answered: {error!r}") from error
        finally:
            connection.close()
