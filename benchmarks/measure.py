"""How each figure is measured."""

import json
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from typing import TypeVar

from figures import Costs, Latency, Results, Spans, with_routes
from load import Target, closed_loop, open_loop, request
from servers import BARE, ITEMS, ROUTES_ONLY, SERVICE, SERVICE_ALL, SERVICE_NONE, USUAL, USUAL_ALL, App, Server, Stage

T = TypeVar("T")

ITEM = {"name": "A benchmark item", "description": "What it is good for.", "price": "9.99"}
LISTED = 5

CONNECTIONS = 64
LATENCY_RATE = 200.0
LATENCY_CONNECTIONS = 16
WARM_UP_SECONDS = 2.0

# How long the last spans may take to arrive: a batch waits 5 s.
SPANS_SECONDS = 20.0


@dataclass(frozen=True)
class Plan:
    """What to measure, and how long.

    Args:
        requests: kinds of requests.
        windows: how often each comparison is repeated.
        seconds: how long a window is.
        routes: numbers of routes to compare, the fewest first.
        connections: numbers of connections to compare.
        payloads: bytes of text in a response.
        rounds: of latency, each of `seconds`.
        memory: after how many requests to look at memory.
        starts: how often to start each server.
    """

    requests: tuple[str, ...]
    windows: int
    seconds: float
    routes: tuple[int, ...]
    connections: tuple[int, ...]
    payloads: tuple[int, ...]
    rounds: int
    memory: tuple[int, ...]
    starts: int


FULL = Plan(
    requests=("list", "read", "create"),
    windows=6,
    seconds=8.0,
    routes=(5, 20, 100),
    connections=(1, 16, 64, 256),
    payloads=(100, 10_000, 200_000),
    rounds=6,
    memory=(1_000, 10_000, 100_000),
    starts=9,
)
QUICK = Plan(
    requests=("list",),
    windows=5,
    seconds=4.0,
    routes=(5, 100),
    connections=(),
    payloads=(),
    rounds=3,
    memory=(),
    starts=3,
)


def measure(stage: Stage, plan: Plan) -> Results:
    """Measure all that the plan asks for."""
    return Results(
        requests=_requests(stage, plan),
        routes=_routes(stage, plan),
        connections={number: _with_connections(stage, plan, number) for number in plan.connections},
        payloads=_payloads(stage, plan),
        latencies=_latencies(stage, plan),
        memory=_memory(stage, plan),
        starts=_starts(stage, plan),
        spans=_spans(stage, plan),
    )


def _requests(stage: Stage, plan: Plan) -> dict[str, Costs]:
    apps = (BARE, ROUTES_ONLY, SERVICE_NONE, SERVICE, SERVICE_ALL, USUAL, USUAL_ALL)
    with _compared(stage, apps) as servers:
        ids = [_seed(server) for server in servers]
        kinds: dict[str, Callable[[Server, str], Target]] = {
            "list": lambda server, _: server.target(request("GET", ITEMS)),
            "read": lambda server, item_id: server.target(request("GET", f"{ITEMS}/{item_id}")),
            # Last, because it makes the lists longer.
            "create": lambda server, _: server.target(request("POST", ITEMS, json.dumps(ITEM).encode()), status=201),
        }
        found = {}
        for kind in plan.requests:
            targets = [kinds[kind](*one) for one in zip(servers, ids, strict=True)]
            found[kind] = _costs(servers, targets, plan, f"{kind} items")
        return found


def _routes(stage: Stage, plan: Plan) -> Costs:
    apps = [
        replace(app.with_routes(number), name=with_routes(app.name, number))
        for app in (BARE, ROUTES_ONLY, SERVICE, USUAL_ALL)
        for number in plan.routes
    ]
    with _compared(stage, apps) as servers:
        # The last route that was registered is the last to be found.
        targets = [server.target(request("GET", server.app.last_route)) for server in servers]
        return _costs(servers, targets, plan, "routes")


def _with_connections(stage: Stage, plan: Plan, number: int) -> Costs:
    # The service would refuse what is over a hundred, and cheaply.
    admitted = {"MAX_CONCURRENT_REQUESTS": "1000"}
    compared = (BARE, SERVICE, SERVICE_ALL, USUAL_ALL)
    apps = [replace(app, environment={**app.environment, **admitted}) for app in compared]
    with _compared(stage, apps) as servers:
        for server in servers:
            _seed(server)
        targets = [server.target(request("GET", ITEMS)) for server in servers]
        return _costs(servers, targets, plan, f"{number} connections", number)


def _payloads(stage: Stage, plan: Plan) -> dict[int, Costs]:
    if not plan.payloads:
        return {}
    apps = [app.with_routes(5) for app in (BARE, SERVICE, SERVICE_ALL, USUAL_ALL)]
    found = {}
    with _compared(stage, apps) as servers:
        for size in plan.payloads:
            targets = [server.target(request("GET", f"{server.app.last_route}?size={size}")) for server in servers]
            found[size] = _costs(servers, targets, plan, f"{size} bytes")
    return found


def _latencies(stage: Stage, plan: Plan) -> dict[str, list[Latency]]:
    """One server at a time, in turns: the pauses of one would be seen in the other's latencies."""
    apps = [BARE, SERVICE, SERVICE_ALL, USUAL_ALL]
    found: dict[str, list[Latency]] = {app.name: [] for app in apps}
    with ExitStack() as stack:
        servers = [stack.enter_context(Server(app, stage)) for app in apps]
        targets = {}
        for server in servers:
            _seed(server)
            targets[server.app.name] = server.target(request("GET", ITEMS))
        closed_loop(list(targets.values()), LATENCY_CONNECTIONS, WARM_UP_SECONDS)
        for number in range(plan.rounds):
            _say(f"latency, round {number + 1} of {plan.rounds}")
            for name in _rotated(list(targets), number):
                found[name].append(
                    Latency.of(open_loop(targets[name], LATENCY_RATE, LATENCY_CONNECTIONS, plan.seconds))
                )
    return found


def _memory(stage: Stage, plan: Plan) -> dict[str, dict[int, int]]:
    if not plan.memory:
        return {}
    with ExitStack() as stack:
        servers = [stack.enter_context(Server(app, stage)) for app in (BARE, SERVICE, SERVICE_ALL)]
        for server in servers:
            _seed(server)
        targets = [server.target(request("GET", ITEMS)) for server in servers]
        found: dict[str, dict[int, int]] = {server.app.name: {} for server in servers}
        done = 0
        for number in plan.memory:
            _say(f"memory after {number} requests")
            closed_loop(targets, CONNECTIONS, float("inf"), limit=number - done)
            done = number
            for server in servers:
                found[server.app.name][number] = server.resident_bytes()
        return found


def _starts(stage: Stage, plan: Plan) -> dict[str, list[float]]:
    apps = [BARE, SERVICE, USUAL]
    found: dict[str, list[float]] = {app.name: [] for app in apps}
    for number in range(plan.starts):
        _say(f"cold start {number + 1} of {plan.starts}")
        for app in _rotated(apps, number):
            with Server(app, stage) as server:
                found[app.name].append(server.start_seconds)
    return found


def _spans(stage: Stage, plan: Plan) -> Spans:
    _say("spans of a saturated service")
    with Server(SERVICE_ALL, stage) as server:
        target = server.target(request("GET", ITEMS))
        (answered,) = closed_loop([target], CONNECTIONS, plan.seconds)
        requests = answered + server.asked
        deadline = time.monotonic() + SPANS_SECONDS
        while True:
            spans = Spans(requests, server.spans(), server.dropped_spans())
            if spans.missing <= 0 or time.monotonic() > deadline:
                return spans
            time.sleep(0.5)


@contextmanager
def _compared(stage: Stage, apps: Sequence[App]) -> Iterator[list[Server]]:
    """Start all, and a second copy of the first one at the end."""
    with ExitStack() as stack:
        yield [stack.enter_context(Server(app, stage)) for app in (*apps, replace(apps[0], name="copy"))]


def _costs(
    servers: Sequence[Server], targets: Sequence[Target], plan: Plan, what: str, connections: int = CONNECTIONS
) -> Costs:
    """CPU time a request of servers that all run at once: what disturbs one disturbs the others."""
    closed_loop(targets, connections, WARM_UP_SECONDS)
    windows, shares = [], []
    for number in range(plan.windows):
        _say(f"{what}, window {number + 1} of {plan.windows}")
        began, before = time.monotonic_ns(), [server.cpu_ns() for server in servers]
        counts = closed_loop(targets, connections, plan.seconds)
        ended, after = time.monotonic_ns(), [server.cpu_ns() for server in servers]
        used = [b - a for a, b in zip(before, after, strict=True)]
        windows.append([one / count / 1000 for one, count in zip(used, counts, strict=True)])
        shares.append(sum(used) / (ended - began))
    *columns, copy = zip(*windows, strict=True)
    return Costs({server.app.name: column for server, column in zip(servers, columns, strict=False)}, copy, shares)


def _seed(server: Server) -> str:
    """Give a server its items; the id of one of them."""
    for _ in range(LISTED):
        item = json.loads(server.ask("POST", ITEMS, ITEM))
    return str(item["id"])


def _rotated(every: Sequence[T], by: int) -> list[T]:
    """Start with another one each time: what comes first, or after a busy one, may fare better or worse."""
    first = by % len(every)
    return [*every[first:], *every[:first]]


def _say(what: str) -> None:
    print(what, file=sys.stderr)
