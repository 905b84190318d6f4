"""A service seen from outside: what its clients, its metrics, its log and its collector tell of it."""

import http.client
import json
import socket
from collections import Counter
from collections.abc import Iterator
from contextlib import closing, contextmanager
from email.message import Message
from itertools import count
from pathlib import Path
from typing import Any, NamedTuple

import httpx
from prometheus_client.parser import text_string_to_metric_families

from tests.otlp import Collector, Received
from tests.support import Service, wait_for

# Longer than any bound of the services here: whoever waits so long hangs.
PATIENCE = 20

# A name and the values of its labels, in the order of their names.
Series = tuple[str, ...]


class Answer(NamedTuple):
    """A response; `whole` unless the connection ended before it."""

    status: int
    headers: Message
    body: bytes
    whole: bool = True


class Observed(Service):
    """A process whose metrics, log lines and spans are told apart by what caused them.

    Args:
        folder: its working directory, and that of its log.
        collector: takes its spans.
        environment: variables beyond those that observing needs.
        module: what is run; only `tests.zoo` follows orders.
    """

    def __init__(self, folder: Path, collector: Collector, *, module: str = "tests.zoo", **environment: str) -> None:
        self._log = folder / "stdout"
        self._read = 0
        self._later: list[dict[str, Any]] = []
        self._marks = count()
        self.collector = collector
        variables = {
            "STORAGE_URL": "memory://",
            "OTEL_EXPORTER_OTLP_ENDPOINT": collector.endpoint,
            "OTEL_BSP_SCHEDULE_DELAY": "20",
            "OTEL_TRACES_SAMPLER": "parentbased_always_off",
            **environment,
        }
        with self._log.open("w") as stdout:
            super().__init__(folder, variables, module=module, stdout=stdout)
        self.wait_until("/health/ready", 200)

    def order(self, order: str) -> None:
        """Have the zoo do something."""
        assert self.process.stdin is not None
        self.process.stdin.write(f"{order}\n")
        self.process.stdin.flush()

    def lines(self) -> list[dict[str, Any]]:
        """The log lines since the last call, up to now."""
        mark = str(next(self._marks))
        lines: list[dict[str, Any]] = []

        def marked() -> bool:
            lines.extend(self.written())
            return mark in {line.get("mark") for line in lines}

        self.order(f"mark {mark}")
        wait_for(marked, "the log has no mark")
        at = next(index for index, line in enumerate(lines) if line.get("mark") == mark)
        self._later = lines[at + 1 :]
        return lines[:at]

    def written(self) -> list[dict[str, Any]]:
        """The lines that nobody has got yet, as far as they are written."""
        with self._log.open("rb") as log:
            log.seek(self._read)
            new = log.read()
        new = new[: new.rfind(b"\n") + 1]
        self._read += len(new)
        later, self._later = self._later, []
        return later + [json.loads(line) for line in new.splitlines()]

    def scrape(self, accept: str = "*/*") -> httpx.Response:
        """The metrics."""
        return self._client.get(self.metrics_url, headers={"Accept": accept}, timeout=PATIENCE)

    def series(self, *names: str) -> Counter[Series]:
        """The samples of these names that are not zero; all are whole numbers."""
        text = "".join(line for line in self.scrape().text.splitlines(keepends=True) if line.startswith(names))
        return Counter(
            {
                (sample.name, *(value for _, value in sorted(sample.labels.items()))): int(sample.value)
                for family in text_string_to_metric_families(text)
                for sample in family.samples
                if sample.name in names and sample.value
            }
        )

    def probe(self) -> None:
        """Have one request answered that is seen nowhere: all that came before it has been noticed then."""
        assert self._client.get("/health/live").status_code == 200

    def wait_inside(self, requests: int) -> None:
        """Wait until so many requests are being answered."""
        name = "http_requests_in_progress"
        wait_for(lambda: self.series(name) == {(name,): requests}, "the request did not arrive")

    def spans_of(self, trace_id: str) -> list[Received]:
        """The spans of a trace that have arrived."""
        return [received for received in list(self.collector.spans) if received.span.trace_id.hex() == trace_id]

    @contextmanager
    def connection(self) -> Iterator[socket.socket]:
        """A connection to the API."""
        with socket.create_connection(("127.0.0.1", self.port), timeout=PATIENCE) as connection:
            yield connection

    def ask(self, raw: bytes, method: str = "GET") -> Answer:
        """Send a request as it is, and read its response to the end, whichever that is."""
        with self.connection() as connection:
            connection.sendall(raw)
            return read_answer(connection, method)


def read_answer(connection: socket.socket, method: str = "GET") -> Answer:
    """The next response on a connection.

    A server may close it while a client still sends, hence the resets.
    """
    with closing(http.client.HTTPResponse(connection, method=method)) as response:
        response.begin()
        try:
            body, whole = response.read(), True
        except http.client.IncompleteRead as error:
            body, whole = error.partial, False
    return Answer(response.status, response.headers, body, whole)


def write_request(method: str, target: str, *fields: str, body: bytes = b"") -> bytes:
    """A request as it goes over the wire."""
    return "\r\n".join([f"{method} {target} HTTP/1.1", "Host: zoo", *fields, "", ""]).encode("latin-1") + body
