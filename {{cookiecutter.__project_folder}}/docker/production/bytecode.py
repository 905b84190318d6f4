"""Start the service in the build of its production image, and compile what it imports, by the Python that will run it.

A service that does not start fails the build. With byte code, also of the standard library, where the base has none, a
start takes a third less CPU time; byte code of what is not imported would weigh as much again. The arguments name
modules that a start does not import, but the service may. Times and modes do not tell when and where it was built.
"""

import os
import shutil
import signal
import subprocess
import sys
import sysconfig
import tempfile
import time
from collections.abc import Iterable
from http.client import HTTPConnection
from pathlib import Path
from threading import Thread

STANDARD_LIBRARY = Path(sysconfig.get_path("stdlib"))
SITE, SERVICE, BYTE_CODE = Path("/site"), Path("/service"), Path("/bytecode")

# The first moment that every archive format can hold.
LONG_AGO = 315_532_800

START_SECONDS = 60


def compile_used(modules: Iterable[str]) -> None:
    """Compile what a service imports, and these modules, which it may; then set all times and modes."""
    sources = {getattr(module, "__file__", None) for module in [*sys.modules.values()]}

    def note(event: str, arguments: tuple[object, ...]) -> None:
        # Also imports that fail, for want of an optional package: each start would compile the module again.
        if event == "exec":
            sources.add(getattr(arguments[0], "co_filename", None))

    sys.addaudithook(note)
    for module in modules:
        __import__(module)
    start_and_stop()
    candidates = {Path(file) for file in sources if file} | {*SERVICE.rglob("*.py")}
    files = sorted(str(path) for path in candidates - {Path(__file__)} if path.suffix == ".py" and path.is_file())
    # In a process of its own: what else is in memory shows in the bytes.
    command = [sys.executable, "-m", "compileall", "-qf", "--invalidation-mode", "unchecked-hash", "-i", "-"]
    subprocess.run(command, input="\n".join(files), text=True, check=True)  # noqa: S603
    for path in STANDARD_LIBRARY.rglob("*.pyc"):
        target = BYTE_CODE / path.relative_to("/")
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, target)
    for root in (SITE, SERVICE, BYTE_CODE):
        for path in (root, *root.rglob("*")):
            if not path.is_symlink():
                path.chmod(0o755 if path.is_dir() else 0o644)
            os.utime(path, (LONG_AGO, LONG_AGO), follow_symlinks=False)


def start_and_stop() -> None:
    """Run the service in this process until it has answered a few requests.

    Raises:
        SystemExit: it did not start, did not answer, or did not stop.
    """
    from app.__main__ import main

    os.chdir(tempfile.mkdtemp())
    os.environ |= {"ENVIRONMENT": "development", "DRAIN_SECONDS": "0", "TELEMETRY_FLUSH_SECONDS": "0.5"}
    # All spans go to nowhere: what tries to send them is compiled as well, and no chance decides about it.
    os.environ |= {"OTEL_TRACES_SAMPLER": "always_on", "OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:9"}
    answered: list[int] = []
    Thread(target=visit, args=(answered,), daemon=True).start()
    code = main(["serve"])
    if code or answered != [201, 200, 200, 404]:
        raise SystemExit(f"the service ended with {code} and answered {answered}")


def visit(answered: list[int]) -> None:
    """Wait until the service is ready, send it a few requests, and stop it."""
    from app.core.config import FACTS
    from app.core.probe import problem

    requests = (("POST", "/api/v1/items"), ("GET", "/api/v1/items"), ("GET", "/docs"), ("GET", "/nowhere"))
    item, kind = '{"name": "Widget", "price": "9.99"}', {"Content-Type": "application/json"}
    try:
        deadline = time.monotonic() + START_SECONDS
        while problem("ready") and time.monotonic() < deadline:
            time.sleep(0.1)
        for method, path in requests:
            connection = HTTPConnection("127.0.0.1", FACTS.ports.http, timeout=10)
            connection.request(method, path, item if method == "POST" else None, kind)
            answered.append(connection.getresponse().status)
    finally:
        os.kill(os.getpid(), signal.SIGTERM)


if __name__ == "__main__":
    if sys.version_info[:2] != (3, 13):
        sys.exit(f"the packages were installed for Python 3.13, but this base has {sys.version}")
    compile_used(sys.argv[1:])
