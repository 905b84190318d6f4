"""The demo from start to end: `python -m demo`."""

import argparse
import os
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from types import FrameType

from demo import ports
from demo.evidence import collect, send_requests
from demo.failure import DemoError
from demo.otlp_receiver import OtlpReceiver
from demo.report import show_evidence, show_where_to_look, summary
from demo.screen import Screen
from demo.service import SETTINGS, Service, default_ports
from demo.workspace import Environment, claimed_folder, generate, one_at_a_time

START_SECONDS = 60.0
LOG_LINES = 15


def main(arguments: list[str] | None = None) -> int:
    """Run the demo; the exit code of the process: 0 only when everything was there and the service stopped cleanly."""
    argparse.ArgumentParser(
        prog="python -m demo",
        description="Generate the default service, run it, and show what one request leaves behind.",
    ).parse_args(arguments)
    try:
        with ExitStack() as stack:
            _run(stack)
    except DemoError as error:
        print(f"\nThe demo failed: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("\nInterrupted; nothing is left running.", file=sys.stderr)
        return 128 + signal.SIGINT
    except BrokenPipeError:
        # Whoever read the output has left; the interpreter would complain once more when it flushes at its end.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    return 0


def _run(stack: ExitStack) -> None:
    screen = Screen(steps=5)
    folder = stack.enter_context(claimed_folder())
    with screen.step("Generating a service with the default answers"):
        project = generate(folder)
    environment = Environment(project)
    reused, packages = environment.ready, f"{environment.packages} locked packages"
    with screen.step(f"Reusing {packages}" if reused else f"Installing {packages} (first run only)") as progress:
        environment.install(progress)

    receiver = stack.enter_context(OtlpReceiver())
    # A port that is free now could be another demo's before the service listens on it.
    with one_at_a_time("start"):
        wanted = default_ports(project)
        http_port, metrics_port = ports.available(wanted)
        service = Service(environment.python, project, http_port, metrics_port, receiver.endpoint)
        with _log_on_failure(service), screen.step("Starting it on SQLite, with every request traced"):
            stack.enter_context(service)
            service.wait_until_ready(START_SECONDS)
    for port, instead in zip(wanted, (http_port, metrics_port), strict=True):
        if port != instead:
            screen.say(f"Port {port} is taken: using {instead} in its place.")

    with _log_on_failure(service):
        with screen.step("Sending requests"):
            requests, read = send_requests(service.api)
        screen.say(*map(summary, requests))
        with screen.step(f"Looking for what {read.correlation_id} left behind"):
            evidence = collect(read, service, receiver)
        show_evidence(screen, read, evidence)
        show_where_to_look(screen, service, project)
        _wait(service)
        _stop(service)


@contextmanager
def _log_on_failure(service: Service) -> Iterator[None]:
    try:
        yield
    except DemoError as error:
        lines = "\n".join(service.last_lines(LOG_LINES)) or "nothing"
        raise DemoError(f"{error}\n\nThe end of the service's log:\n{lines}") from None


def _wait(service: Service) -> None:
    """Leave the service to whoever sits at the terminal; without one, go on."""
    print()
    if not (sys.stdin.isatty() and sys.stdout.isatty()):
        return
    try:
        with _terminal_of_our_own():
            print(f"The service runs (pid {service.pid}). Ctrl-C stops it.", flush=True)
            code = service.wait()
    except KeyboardInterrupt:
        # Behind the terminal's ^C.
        print()
    else:
        raise DemoError(f"the service ended by itself, with exit code {code}")


@contextmanager
def _terminal_of_our_own() -> Iterator[None]:
    """Let Ctrl-C reach this process alone: `make` would take it for a failure and say so (POSIX, job control)."""
    group = os.getpgrp()
    if group == os.getpid():
        yield
        return
    # The writer of a background group is stopped by SIGTTOU, and nobody could continue what Ctrl-Z stops.
    for number in (signal.SIGTTOU, signal.SIGTSTP):
        signal.signal(number, signal.SIG_IGN)
    os.setpgid(0, 0)
    os.tcsetpgrp(sys.stdin.fileno(), os.getpid())
    try:
        yield
    finally:
        os.tcsetpgrp(sys.stdin.fileno(), group)
        os.setpgid(0, group)


def _stop(service: Service) -> None:
    drain = SETTINGS["DRAIN_SECONDS"]
    print(f"Stopping the service (pid {service.pid}): SIGTERM, {drain} s drain ... ", end="", flush=True)
    began = time.monotonic()
    code = service.stop()
    print(f"exit code {code} after {time.monotonic() - began:.1f} s", flush=True)
    if code:
        raise DemoError(f"the service ended with exit code {code} instead of 0")
    if service.find(lambda fields: fields.get("event") == "draining", timeout=0) is None:
        raise DemoError("the service stopped without draining")


def _exit(number: int, _: FrameType | None) -> None:
    """End as a signal asks, but in order: what was entered is left, the service among it."""
    sys.exit(128 + number)


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, _exit)
    # A script's background job is started with it ignored, but the terminal's Ctrl-C is announced to work.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    # nohup has it ignored, and means it.
    if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:
        signal.signal(signal.SIGHUP, _exit)
    sys.exit(main())
