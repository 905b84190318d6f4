"""What telemetry costs a request, in CPU time, against bare FastAPI and against the usual stack."""

import argparse
import statistics
import sys
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from tempfile import TemporaryDirectory

import servers
from load import Target, closed_loop, request
from servers import ITEMS, App, Server, Stage

ROOT = Path(__file__).resolve().parent.parent
PYTHON = ROOT / ".cache" / "benchmarks" / "bin" / "python"


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--service", type=Path)
    parser.add_argument("--python", type=Path, default=PYTHON)
    parser.add_argument("--windows", type=int, default=6)
    parser.add_argument("--seconds", type=float, default=6)
    parser.add_argument("--connections", type=int, default=64)
    options = parser.parse_args(arguments)
    with ExitStack() as stack:
        folder = Path(stack.enter_context(TemporaryDirectory()))
        stage = stack.enter_context(Stage(options.service.resolve(), options.python, folder))
        apps = [
            servers.bare(),
            servers.bare("bare again"),
            servers.plain(),
            servers.service(0),
            servers.service(0.1),
            servers.service(1),
            servers.usual(0.1),
            servers.usual(1),
        ]
        running = [stack.enter_context(Server(app, stage)) for app in apps]
        ids = [seed(server) for server in running]
        for name, targets in {
            "list": [Target(s.port, request("GET", ITEMS)) for s in running],
            "read": [Target(s.port, request("GET", f"{ITEMS}/{i}")) for s, i in zip(running, ids, strict=True)],
        }.items():
            closed_loop(targets, options.connections, 2)
            costs = [window(running, targets, options.connections, options.seconds) for _ in range(options.windows)]
            print(f"\n{name}: µs a request; bare / app [min..max]; usual 10% / app, usual 100% / app")
            for index, app in enumerate(apps):
                us = statistics.median(c[index] for c in costs)
                ratios = [c[0] / c[index] for c in costs]
                extra = ", ".join(f"{statistics.median(c[other] / c[index] for c in costs):.2f}" for other in (2, 6, 7))
                print(
                    f"{app.name:14} {us:7.1f}  {statistics.median(ratios):.3f} "
                    f"[{min(ratios):.3f}..{max(ratios):.3f}]  routes only, usual, usual: {extra}"
                )
    return 0


def seed(server: Server) -> str:
    import json

    for number in range(5):
        item = json.loads(server.ask("POST", ITEMS, {"name": f"Item {number}", "price": "9.99"}))
    return str(item["id"])


def window(running: Sequence[Server], targets: Sequence[Target], connections: int, seconds: float) -> list[float]:
    before = [server.cpu_ns() for server in running]
    counts = closed_loop(targets, connections, seconds)
    after = [server.cpu_ns() for server in running]
    return [(b - a) / 1000 / count for a, b, count in zip(before, after, counts, strict=True)]


if __name__ == "__main__":
    sys.exit(main())
