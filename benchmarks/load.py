"""Load on HTTP servers of this machine, from one thread, and exact counts of what was answered.

wrk and its like stop in the middle of requests and count only those that ended: at 64 connections to a slow server that
is a large part of all. This client lets every request end, so CPU time can be divided by the number of requests. In the
open model it spins: a timer that wakes late would count as the server's latency.
"""

import re
import socket
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from selectors import EVENT_READ, BaseSelector, DefaultSelector
from time import perf_counter

_LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)", re.IGNORECASE)

# What a browser behind a proxy sends; no traceparent, so the server decides about sampling.
_HEADERS = """\
Host: 127.0.0.1
User-Agent: Mozilla/5.0 (X11; Linux x86_64; rv:140.0) Gecko/20100101 Firefox/140.0
Accept: application/json
Accept-Language: en-GB,en;q=0.5
Accept-Encoding: gzip, deflate, br
X-Forwarded-For: 198.51.100.7
X-Forwarded-Proto: http
"""


_ANSWER_SECONDS = 30.0


class BenchmarkError(Exception):
    """Something that is measured did not work; what it said."""


@dataclass(frozen=True)
class Target:
    """A request to one server, repeated.

    Args:
        port: where the server listens.
        request: all its bytes.
        status: the only status that counts as an answer.
    """

    port: int
    request: bytes
    status: int = 200


def request(method: str, path: str, body: bytes = b"") -> bytes:
    """The bytes of a request."""
    headers = f"Content-Type: application/json\nContent-Length: {len(body)}\n" if body else ""
    head = f"{method} {path} HTTP/1.1\n{_HEADERS}{headers}\n"
    return head.replace("\n", "\r\n").encode() + body


class _Connection:
    def __init__(self, target: Target, index: int) -> None:
        self.index = index
        self.target = target
        self.began = 0.0
        self._status = str(target.status).encode()
        self._answer = b""
        self.socket = socket.create_connection(("127.0.0.1", target.port), timeout=10)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def ask(self) -> None:
        self.socket.sendall(self.target.request)

    def answered(self) -> bool:
        """Read what is there; whether the answer is complete."""
        answer = self._answer + self.socket.recv(1 << 20)
        head = answer.find(b"\r\n\r\n")
        if head >= 0 and answer[9:12] == self._status and (length := _LENGTH.search(answer, 0, head)):
            complete = len(answer) >= head + 4 + int(length[1])
            self._answer = b"" if complete else answer
            return complete
        if head >= 0 or not answer:
            raise BenchmarkError(f"{self.target.request[:60]!r}... was answered {answer[:500]!r}")
        self._answer = answer
        return False


@contextmanager
def _connected(targets: Sequence[Target], connections: int) -> Iterator[tuple[BaseSelector, list[_Connection]]]:
    """As many connections to each target, and what tells when one of them can be read."""
    every = [_Connection(target, index) for _ in range(connections) for index, target in enumerate(targets)]
    with DefaultSelector() as selector:
        for one in every:
            selector.register(one.socket, EVENT_READ, one)
        try:
            yield selector, every
        finally:
            for one in every:
                one.socket.close()


def closed_loop(targets: Sequence[Target], connections: int, seconds: float, limit: int | None = None) -> list[int]:
    """Ask all targets at once, each connection again as soon as it is answered; how many requests each has answered.

    Args:
        targets: what to ask.
        connections: to each target.
        seconds: how long to begin requests; those begun are waited for.
        limit: how many requests each target gets at most.

    Raises:
        BenchmarkError: an answer was none, or a wrong one.
    """
    counts = [0] * len(targets)
    sent = [connections] * len(targets)
    with _connected(targets, connections) as (selector, every):
        end = perf_counter() + seconds
        for one in every:
            one.ask()
        waiting = len(every)
        while waiting:
            ready = selector.select(_ANSWER_SECONDS)
            if not ready:
                raise BenchmarkError(f"{waiting} requests have no answer after {_ANSWER_SECONDS:g} s")
            more = perf_counter() < end
            for key, _ in ready:
                one = key.data
                if one.answered():
                    counts[one.index] += 1
                    if more and (limit is None or sent[one.index] < limit):
                        sent[one.index] += 1
                        one.ask()
                    else:
                        # A server may close what idles while the others are still asked.
                        selector.unregister(one.socket)
                        waiting -= 1
    return counts


def open_loop(target: Target, rate: float, connections: int, seconds: float) -> list[float]:
    """Ask at a fixed rate, whatever the answers take; the seconds from when each request was due to its answer.

    A request that is due while all connections wait is sent late, and the wait counts: "coordinated omission" is what
    leaving it out is called (https://www.scylladb.com/2021/04/22/on-coordinated-omission/).

    Raises:
        BenchmarkError: an answer was none, or a wrong one.
    """
    latencies: list[float] = []
    total = int(rate * seconds)
    with _connected([target], connections) as (selector, every):
        # Each has its turn: servers close connections that idle, uvicorn after five seconds.
        free = deque(every)
        late: deque[float] = deque()
        began = perf_counter()
        sent = 0
        while len(latencies) < total:
            now = perf_counter()
            while sent < total and began + sent / rate <= now:
                late.append(began + sent / rate)
                sent += 1
            while late and free:
                one = free.popleft()
                one.began = late.popleft()
                one.ask()
            for key, _ in selector.select(0):
                one = key.data
                if one.answered():
                    latencies.append(perf_counter() - one.began)
                    free.append(one)
    return latencies
