"""How long a generation takes, as its user waits for it: whole processes, with the hooks and without them."""

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple

ROOT = Path(__file__).resolve().parent.parent
PAGE = ROOT / "docs" / "generation-speed.md"

TOTAL_BAR = 2.0
HOOKS_BAR = 0.3


class Pair(NamedTuple):
    """Seconds of two generations, one right after the other."""

    with_hooks: float
    without_hooks: float


def main(arguments: list[str] | None = None) -> int:
    """Measure, print the page, and write it when that is asked for."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=10, help="pairs of generations to measure (default: 10)")
    parser.add_argument("--write", action="store_true", help=f"also write {PAGE.relative_to(ROOT)}")
    parser.add_argument("--date", default=f"{datetime.now(UTC):%Y-%m-%d}", help="the date to state (default: today)")
    options = parser.parse_args(arguments)
    if options.runs < 1:
        parser.error("--runs must be at least 1")
    pairs = []
    for pair in measure(options.runs):
        pairs.append(pair)
        times = f"{pair.with_hooks:.2f} s with hooks, {pair.without_hooks:.2f} s without"
        print(f"{len(pairs)} of {options.runs}: {times}", file=sys.stderr)
    text = page(pairs, options.date)
    print(text, end="")
    if options.write:
        PAGE.parent.mkdir(exist_ok=True)
        PAGE.write_text(text, encoding="utf-8")
    return 0


def measure(runs: int) -> Iterator[Pair]:
    """Yield the times of pairs of generations."""
    with TemporaryDirectory() as folder:
        # The first two fill the disk cache, and the byte code cache after an update: they are not counted.
        for number in range(runs + 1):
            # Each goes first as often as the other: whatever slows the machine down slows both.
            hooks = (True, False) if number % 2 else (False, True)
            seconds = {each: generation(Path(folder, f"{number}-{each}"), hooks=each) for each in hooks}
            if number:
                yield Pair(with_hooks=seconds[True], without_hooks=seconds[False])


def generation(folder: Path, *, hooks: bool) -> float:
    """Generate with the default answers into a new folder; how many seconds the process took."""
    folder.mkdir()
    # The user's own configuration could change the answers, and the replay file belongs to the user.
    config = folder / "config.yaml"
    config.write_text(json.dumps({"cookiecutters_dir": str(folder), "replay_dir": str(folder)}), encoding="utf-8")
    command = [sys.executable, "-m", "cookiecutter", str(ROOT), "--no-input", "--config-file", str(config)]
    command += ["--output-dir", str(folder / "output"), "--accept-hooks", "yes" if hooks else "no"]
    began = time.perf_counter()
    subprocess.run(command, check=True, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
    return time.perf_counter() - began


def page(pairs: list[Pair], date: str) -> str:
    """Return the results as a page of the documentation."""
    with_hooks = [pair.with_hooks for pair in pairs]
    without = [pair.without_hooks for pair in pairs]
    total = statistics.median(with_hooks)
    share = statistics.median(pair.with_hooks - pair.without_hooks for pair in pairs)
    ratio = total / statistics.median(without)
    return f"""# Generation speed

How long `cookiecutter` takes with the default answers, as a whole process. `make bench` measures it, and writes this.

| Generation | Min | Median | Max |
|---|---|---|---|
| with hooks | {_spread(with_hooks)} |
| without hooks | {_spread(without)} |

| Figure | Measured | Bar | |
|---|---|---|---|
| median with hooks | {total:.2f} s | <= {TOTAL_BAR:g} s | {_verdict(total, TOTAL_BAR)} |
| the hooks' share: median difference of the pairs | {share:.2f} s | <= {HOOKS_BAR:g} s | {_verdict(share, HOOKS_BAR)} |
| median with hooks / median without | {ratio:.2f} | none | |

{len(pairs)} pairs on {date}: Python {platform.python_version()}, cookiecutter {version("cookiecutter")},
{platform.system()} on {platform.machine()} with {os.cpu_count()} cores.
"""


def _spread(seconds: list[float]) -> str:
    return " | ".join(f"{value:.2f} s" for value in (min(seconds), statistics.median(seconds), max(seconds)))


def _verdict(measured: float, bar: float) -> str:
    return "met" if measured <= bar else "missed"


if __name__ == "__main__":
    sys.exit(main())
