"""What telemetry costs a request, in CPU time, against bare FastAPI and against the usual stack."""

import argparse
import os
import platform
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Iterable
from contextlib import ExitStack
from datetime import UTC, datetime
from pathlib import Path
from tempfile import TemporaryDirectory

from figures import Results
from generation import generation
from load import BenchmarkError
from measure import FULL, QUICK, measure
from report import markdown, plot, summary
from servers import Stage

ROOT = Path(__file__).resolve().parent.parent
PYTHON = ROOT / ".cache" / "benchmarks" / "bin" / "python"
PAGE = ROOT / "docs" / "telemetry-cost.md"
PLOT = PAGE.with_suffix(".svg")

# Between these lines the page is written by `--write`, the rest of it by people.
BEGIN, END = "<!-- measured by make bench -->\n", "<!-- end -->\n"

PACKAGES = (
    "fastapi",
    "starlette",
    "uvicorn",
    "uvloop",
    "httptools",
    "pydantic",
    "structlog",
    "prometheus-client",
    "opentelemetry-sdk",
    "opentelemetry-instrumentation-fastapi",
    "prometheus-fastapi-instrumentator",
    "asgi-correlation-id",
)


def main(arguments: list[str] | None = None) -> int:
    """Measure, print what was found, and write the page when that is asked for."""
    parser = _parser()
    options = parser.parse_args(arguments)
    if options.quick and options.write:
        parser.error("--write needs a whole run, without --quick")
    if not options.python.exists():
        parser.error(f"{options.python} does not exist; `make bench-quick` installs it")
    # Whatever ends this, the servers end before.
    signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))
    # Each connection is a file, on both sides.
    most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    began = time.monotonic()
    try:
        with ExitStack() as stack:
            folder = Path(stack.enter_context(TemporaryDirectory()))
            service = options.service or generated(folder / "service")
            stage = stack.enter_context(Stage(service.resolve(), options.python, folder))
            results = measure(stage, QUICK if options.quick else FULL)
    except (BenchmarkError, OSError) as error:
        print(error, file=sys.stderr)
        return 1
    text = markdown(results, list(_facts(options.python, options.date, time.monotonic() - began)))
    print(f"{text}\n{summary(results)}")
    if options.write:
        write(results, text)
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="the most important figures, in two minutes")
    parser.add_argument("--write", action="store_true", help=f"also write {PAGE.name} and {PLOT.name} in docs")
    parser.add_argument("--service", type=Path, help="a generated service (default: generate one)")
    parser.add_argument("--python", type=Path, default=PYTHON, help="the interpreter of the benchmark's environment")
    parser.add_argument("--date", default=f"{datetime.now(UTC):%Y-%m-%d}", help="the date to state (default: today)")
    return parser


def generated(folder: Path) -> Path:
    """Generate the default service below a new folder, and return where it is."""
    generation(folder, hooks=True)
    (project,) = (folder / "output").iterdir()
    return project


def write(results: Results, text: str) -> None:
    """Put what was measured into the page, and draw its plot."""
    before, _, rest = PAGE.read_text(encoding="utf-8").partition(BEGIN)
    _, _, after = rest.partition(END)
    PAGE.write_text(f"{before}{BEGIN}\n{text}\n{END}{after}", encoding="utf-8")
    PLOT.write_text(plot(results.requests["list"], "CPU time of GET /api/v1/items, five items"), encoding="utf-8")


def _facts(python: Path, date: str, seconds: float) -> Iterable[str]:
    """Where and with what it was measured."""
    yield f"{date}, in {seconds / 60:.0f} minutes."
    yield f"{_processor()}, {os.cpu_count()} cores, {platform.system()} {platform.release()}."
    code = "import platform, sys; from importlib.metadata import version; print(platform.python_version())\n"
    code += "for name in sys.argv[1:]: print(name, version(name))"
    command = [str(python), "-c", code, *PACKAGES]
    interpreter, *packages = subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()
    yield f"Python {interpreter}: {', '.join(packages)}."


def _processor() -> str:
    lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    return next((line.partition(": ")[2] for line in lines if line.startswith("model name")), platform.machine())


if __name__ == "__main__":
    sys.exit(main())
