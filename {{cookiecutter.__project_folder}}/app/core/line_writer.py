"""Lines to a file descriptor from a thread of their own: whoever writes one never waits for who reads them."""

import os
import threading
import time
from collections.abc import Callable
from queue import SimpleQueue

# How long a line waits for others, so that a busy service wakes the thread a hundred times a second and not for each
# line: every change of threads takes the interpreter from the event loop.
_GATHER_SECONDS = 0.01


class LineWriter:
    """Writes lines in the order they came; memory is bounded, what does not fit is counted.

    Args:
        descriptor: where lines go, 1 for stdout.
        capacity: how many bytes may wait, those on their way included.
        dropped: called with the number of lines that were lost.
    """

    def __init__(self, descriptor: int, capacity: int, dropped: Callable[[int], None]) -> None:
        self._descriptor = descriptor
        self._capacity = capacity
        self._dropped = dropped
        # Reentrant: the garbage collector may run a finaliser that logs while its thread holds the lock.
        self._lock = threading.RLock()
        self._lines: list[bytes] = []
        self._size = 0
        self._asleep = True
        self._wake: SimpleQueue[None] = SimpleQueue()
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._run, name="log-writer", daemon=True)
        self._thread.start()

    def write(self, line: bytes) -> None:
        """Take one line, without its newline. Never blocks, never raises."""
        size = len(line) + 1
        with self._lock:
            fits = self._size + size <= self._capacity
            if fits:
                self._size += size
                self._lines.append(line)
            wake, self._asleep = self._asleep, False
        if wake:
            self._wake.put(None)
        if not fits:
            self._dropped(1)

    def close(self, timeout: float) -> None:
        """Write what waits, for at most `timeout` seconds."""
        self._closing.set()
        self._wake.put(None)
        self._thread.join(timeout)

    def _run(self) -> None:
        while True:
            self._wake.get()
            while lines := self._gathered():
                block = b"\n".join(lines) + b"\n"
                self._write(block)
                with self._lock:
                    self._size -= len(block)
            if self._closing.is_set():
                return

    def _gathered(self) -> list[bytes]:
        """What has come in a short while; the thread may sleep when that is nothing."""
        self._closing.wait(_GATHER_SECONDS)
        with self._lock:
            lines, self._lines = self._lines, []
            self._asleep = not lines
        return lines

    def _write(self, block: bytes) -> None:
        rest = memoryview(block)
        while rest:
            try:
                rest = rest[os.write(self._descriptor, rest) :]
            except BlockingIOError:
                time.sleep(_GATHER_SECONDS)
            except OSError:
                # The reader is gone. Of a line that was written in part, nothing useful arrived.
                self._dropped(bytes(rest).count(b"\n"))
                return
