"""Ports that can be listened on."""

import socket
from collections.abc import Iterable
from contextlib import ExitStack

LOOPBACK = "127.0.0.1"


def available(preferred: Iterable[int]) -> list[int]:
    """Return each preferred port, or a free one in the place of a port that is taken; all differ."""
    with ExitStack() as held:
        # Held until all are chosen: the system would give a port twice.
        return [held.enter_context(_bound(port)).getsockname()[1] for port in preferred]


def _bound(port: int) -> socket.socket:
    listener = socket.socket()
    # As servers do: connections of an earlier run that are still closing do not take the port.
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((LOOPBACK, port))
    except OSError:
        listener.bind((LOOPBACK, 0))
    return listener
