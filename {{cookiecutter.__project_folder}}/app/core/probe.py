"""Ask a service on this machine for its health, from a container that has neither a shell nor curl.

It runs every few seconds beside the service, on the same CPU limit, hence a bare socket and nothing of the framework.
"""

import os
import socket
import sys
import time
from pathlib import Path

PROBES = ("live", "ready", "startup")
PATHS = frozenset(f"/health/{probe}" for probe in PROBES)

TIMEOUT_SECONDS = 4.0

# An address that a server may listen on, but nobody can call.
_WILDCARDS = {"": "127.0.0.1", "0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104 - nothing listens here


def health(arguments: list[str]) -> int:
    """`python -m app health [live|ready|startup]`: exit 0 if the probe passes, 1 with the reason on standard error."""
    probe, *more = arguments or ["ready"]
    if probe not in PROBES or more:
        sys.stderr.write(f"usage: python -m app health [{'|'.join(PROBES)}]\n")
        return 2
    if reason := problem(probe):
        sys.stderr.write(f"{probe}: {reason}\n")
        return 1
    return 0


def problem(probe: str, timeout: float = TIMEOUT_SECONDS) -> str | None:
    """Why the probe fails, if it does; after so many seconds, because there is no answer."""
    host = os.environ.get("HTTP_HOST", "")
    try:
        status, body = _ask(_WILDCARDS.get(host, host), _port(), f"/health/{probe}", time.monotonic() + timeout)
    except (OSError, ValueError) as error:
        return str(error) or type(error).__name__
    return None if status == "200" else f"{status} {body}"


def _port() -> int:
    """The port of the service, as its environment or else its facts have it."""
    if given := os.environ.get("HTTP_PORT"):
        return int(given)
    import tomllib

    facts = tomllib.loads(Path(__file__).parents[1].joinpath("service.toml").read_text(encoding="utf-8"))
    return int(facts["ports"]["http"])


def _ask(host: str, port: int, path: str, deadline: float) -> tuple[str, str]:
    """The status and the body of the answer to a GET.

    Raises:
        OSError: there is no connection, or no whole answer before the deadline.
        ValueError: the answer is not HTTP.
    """
    answer = b""
    with socket.create_connection((host, port), timeout=deadline - time.monotonic()) as connection:
        connection.sendall(f"GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n".encode())
        while part := connection.recv(65536):
            answer += part
            connection.settimeout(max(deadline - time.monotonic(), 0.001))
    head, _, body = answer.decode(errors="replace").partition("\r\n\r\n")
    if not head.startswith("HTTP/1.1 "):
        raise ValueError(f"no HTTP: {head[:80]!r}")
    return head[9:12], body
