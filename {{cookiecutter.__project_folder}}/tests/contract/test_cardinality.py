"""Whatever strangers send, the number of series is bounded and memory stays level."""

import random
import re
import string
import subprocess
from collections.abc import Iterator

import pytest

from app.core.route_templates import UNMATCHED
from tests.observe import Observed, write_request
from tests.otlp import Collector

# What no template, header or word of the service contains.
SIGN = "zq"

REQUESTS, PIPELINED = 10_000, 100

# Methods that the parser knows (RFC 9110, WebDAV and others); what it does not know is no request.
METHODS = (
    *("GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS", "TRACE", "PATCH"),
    *("COPY", "LOCK", "MKCOL", "MOVE", "PROPFIND", "PROPPATCH", "SEARCH", "UNLOCK", "BIND", "REBIND", "UNBIND", "ACL"),
    *("REPORT", "MKACTIVITY", "CHECKOUT", "MERGE", "M-SEARCH", "NOTIFY", "SUBSCRIBE", "UNSUBSCRIBE", "PURGE", "LINK"),
)
# Flags of a traceparent: few of those who send one want a trace.
SAMPLED = ("00",) * 9 + ("01",)
LABELS = {*METHODS[:8], "_OTHER"}

PATHS = (
    *("/{}", "/{}/{}", "/{}/", "//{}", "/%2f{}", "/api/v1/items/{}", "/api/v1/{}", "/docs/{}", "/word/{}", "/word/{}/"),
    *("/files/{}/{}", "/tenant/{}/x/{}", "/tenant/{}/x/{}/", "/tenant/{}/{}", "/deep/{}/lower/{}/x/{}", "/static/{}"),
    *("/raw/{}/{}", "/outer/inner/{}", "/outer/inner/mount/{}/x/{}", "/starlettes/y/{}", "/one/{}", "/{}?{}={}"),
)


@pytest.fixture(scope="module")
def zoo(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Observed]:
    """A zoo that traces a tenth of what it serves."""
    with Collector() as collector:
        zoo = Observed(
            tmp_path_factory.mktemp("zoo"),
            collector,
            OTEL_TRACES_SAMPLER="parentbased_traceidratio",
            OTEL_TRACES_SAMPLER_ARG="0.1",
        )
        yield zoo
        zoo.kill()


def word(dice: random.Random) -> str:
    return SIGN + "".join(dice.choices(string.ascii_letters + string.digits, k=dice.randrange(1, 20)))


def anything(dice: random.Random, method: str, path: str) -> bytes:
    """A request that was never sent before."""
    fields = {
        word(dice): word(dice),
        "X-Correlation-ID": word(dice),
        "User-Agent": word(dice),
        "traceparent": f"00-{dice.randrange(1, 2**128):032x}-{dice.randrange(1, 2**64):016x}-{dice.choice(SAMPLED)}",
        "tracestate": f"{word(dice).lower()}={word(dice)}",
        "Origin": f"https://{word(dice)}.example",
    }
    target = path.format(*(word(dice) for _ in range(path.count("{}"))))
    return write_request(method, target, *(f"{name}: {value}" for name, value in fields.items()), "Content-Length: 0")


def flood(zoo: Observed, requests: list[bytes]) -> None:
    """Send the requests, many at a time, and read all that comes back."""
    for start in range(0, len(requests), PIPELINED):
        some = requests[start : start + PIPELINED]
        with zoo.connection() as connection:
            connection.sendall(b"".join([*some, write_request("GET", "/plain", "Connection: close")]))
            received = b""
            while part := connection.recv(262_144):
                received += part
        assert received.count(b"HTTP/1.1 ") >= len(some) + 1


def samples(zoo: Observed) -> set[str]:
    """The names and labels of all samples."""
    return {line.rpartition(" ")[0] for line in zoo.scrape().text.splitlines() if not line.startswith("#")}


def resident_bytes(zoo: Observed) -> int:
    """The memory that the process has, as the system sees it."""
    command = ["ps", "-o", "rss=", "-p", str(zoo.process.pid)]
    return 1024 * int(subprocess.run(command, check=True, capture_output=True, text=True).stdout)  # noqa: S603


def objects(zoo: Observed) -> dict[str, int]:
    """How many objects of those kinds that telemetry is made of are alive, after a collection."""
    zoo.order("census")
    return next(line["objects"] for line in zoo.lines() if line["event"] == "census")


def test_ten_thousand_requests_of_a_stranger_add_no_series_and_no_memory(zoo: Observed) -> None:
    dice = random.Random(1)  # noqa: S311 - the same at each run
    # Every method on every path, a few times: from then on, only what a stranger chose is new.
    flood(zoo, [anything(dice, method, path) for method in METHODS for path in PATHS for _ in range(3)])
    known, memory, alive = samples(zoo), resident_bytes(zoo), objects(zoo)

    flood(zoo, [anything(dice, dice.choice(METHODS), dice.choice(PATHS)) for _ in range(REQUESTS)])

    assert samples(zoo) - known == set()
    assert objects(zoo) == alive
    # 400 bytes a request: whoever keeps something of each keeps more.
    assert resident_bytes(zoo) - memory < 4 * 2**20
    text = "\n".join(known)
    assert SIGN not in text.lower()
    assert set(re.findall(r'^http_requests_total\{method="([^"]+)"', text, re.MULTILINE)) <= LABELS
    routes = set(re.findall(r'route="([^"]+)"', text))
    assert UNMATCHED in routes
    assert "/tenant/{tenant}/x/{word}" in routes
    assert zoo.process.poll() is None
