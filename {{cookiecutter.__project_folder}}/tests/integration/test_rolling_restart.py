"""A roll-out under load loses no request, and would lose some without the drain.

Replicas are replaced one after the other, as Kubernetes does with one more than wanted (`maxSurge: 1`), behind a load
balancer that polls readiness; its clients keep their connections, and try nothing again.
"""

import signal
import ssl
import threading
from collections import Counter
from collections.abc import Callable
from typing import Self

import httpx
from hypothesis import settings as hypothesis_settings

from tests.support import Service, wait_for

Start = Callable[..., Service]

# `make test-all` restarts a service as often as its team does in months.
RESTARTS = 50 if hypothesis_settings.get_current_profile_name() == "thorough" else 4

CLIENTS = 4
POLL_SECONDS = 0.1

# For plain HTTP; the default would read the system's certificates for each client.
TLS = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)

SETTINGS = {
    "STORAGE_URL": "memory://",
    # Nobody reads the log until a replica has ended.
    "LOG_LEVEL": "WARNING",
    "HEALTH_CHECK_CACHE_SECONDS": "0",
}


class LoadBalancer:
    """Sends requests to the replicas that were ready when it last asked them, while a `with` block lasts.

    Like a real one it keeps connections, and notices when the other side has closed one before it sends.
    """

    def __init__(self) -> None:
        # Replaced and never changed: threads look at them.
        self._replicas: tuple[str, ...] = ()
        self._ready: tuple[str, ...] = ()
        self._outcomes: list[str] = []
        self._over = threading.Event()
        self._threads = [threading.Thread(target=self._poll)]
        self._threads += [threading.Thread(target=self._send, args=(number,)) for number in range(CLIENTS)]

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        for thread in self._threads:
            thread.join()

    def add(self, replica: Service) -> None:
        """Know of one more replica, and wait until requests reach it."""
        self._replicas += (replica.url,)
        wait_for(lambda: replica.url in self._ready, timeout=60)

    def wait_until_unready(self, replica: Service) -> None:
        """Wait until no more requests are sent to a replica."""
        wait_for(lambda: replica.url not in self._ready)
        self._replicas = tuple(url for url in self._replicas if url != replica.url)

    def outcomes(self) -> Counter[str]:
        """What came of all requests so far: statuses, and the errors of those without one."""
        return Counter(self._outcomes)

    def _poll(self) -> None:
        with httpx.Client(verify=TLS, timeout=1) as client:
            while not self._over.wait(POLL_SECONDS):
                self._ready = tuple(url for url in self._replicas if self._is_ready(client, url))

    def _is_ready(self, client: httpx.Client, url: str) -> bool:
        try:
            return client.get(f"{url}/health/ready").status_code == 200
        except httpx.TransportError:
            return False

    def _send(self, number: int) -> None:
        with httpx.Client(verify=TLS, timeout=30) as client:
            while not self._over.wait(0.02):
                if ready := self._ready:
                    number += 1
                    self._outcomes.append(self._ask(client, f"{ready[number % len(ready)]}/api/v1/items", number))

    def _ask(self, client: httpx.Client, url: str, number: int) -> str:
        try:
            if number % 3 == 0:
                return str(client.post(url, json={"name": "x"}).status_code)
            return str(client.get(url, params={"limit": 1}).status_code)
        except httpx.TransportError as error:
            return repr(error)


def test_restarts_under_load_lose_no_request(start: Start) -> None:
    # Time for many polls: this machine may be busy.
    settings = {**SETTINGS, "DRAIN_SECONDS": "2"}
    gone = []

    with LoadBalancer() as balancer:
        replicas = [start(**settings), start(**settings)]
        for replica in replicas:
            balancer.add(replica)
        # One more is always on its way, for the speed of the test.
        coming = start(**settings)
        for _ in range(RESTARTS):
            balancer.add(coming)
            replicas.append(coming)
            coming = start(**settings)
            gone.append(replicas.pop(0))
            gone[-1].process.send_signal(signal.SIGTERM)
            balancer.wait_until_unready(gone[-1])
        ends = [replica.end() for replica in gone]

    assert set(balancer.outcomes()) == {"200", "201"}
    assert {(code, err) for code, _, err in ends} == {(0, "")}
    assert [line for _, lines, _ in ends for line in lines] == []


def test_without_a_drain_restarts_lose_requests(start: Start) -> None:
    settings = {**SETTINGS, "DRAIN_SECONDS": "0"}

    with LoadBalancer() as balancer:
        balancer.add(start(**settings))
        for _ in range(10):
            replica = start(**settings)
            balancer.add(replica)
            assert replica.end(signal.SIGTERM)[0] == 0
            balancer.wait_until_unready(replica)
            if set(balancer.outcomes()) - {"200", "201"}:
                break

    assert set(balancer.outcomes()) - {"200", "201"}
