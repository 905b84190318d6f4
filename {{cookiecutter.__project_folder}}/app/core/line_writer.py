"""Lines to a file descriptor from a thread of their own: whoever writes one never waits for who reads them."""

import os
import threading
import time
from collections.abc import Callable
from queue import SimpleQueue

Line = bytes | Callable[[], bytes]

# How long a line waits for others, so that a busy service wakes the thread a hundred times a second and not for each
# line: every change of threads takes the interpreter from the event loop.
_GATHER_SECONDS = 0.01

# How many lines are made and written in one go. Making takes the interpreter, and writing gives it back to the event
# loop, which thus waits for half a millisecond at most.
_BATCH = 64


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
        self._lines: list[tuple[Line, int]] = []
        self._size = 0
        self._asleep = True
        self._wake: SimpleQueue[None] = SimpleQueue()
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._run, name="log-writer", daemon=True)
        self._thread.start()

    def write(self, line: Line, size: int, count: int = 1) -> None:
        """Take one line, or several at once. Never blocks, never raises.

        Args:
            line: the line without its newline, or a function that makes it, called in the writer's thread. Many lines
                made in a row cost a third of what each costs between two requests, when the processor's caches hold
                other things.
            size: how much memory it keeps while it waits, in bytes.
            count: how many lines it is.
        """
        with self._lock:
            fits = self._size + size <= self._capacity
            if fits:
                self._size += size
                self._lines.append((line, size))
            wake, self._asleep = self._asleep, False
        if wake:
            self._wake.put(None)
        if not fits:
            self._dropped(count)
        if self._closing.is_set():
            # What ends the process may have something to say after the end.
            self._write_what_the_thread_left()

    @property
    def waiting(self) -> int:
        """How much memory lines keep that are not written yet, in bytes."""
        return self._size

    def close(self, timeout: float) -> None:
        """Write what waits, for at most `timeout` seconds."""
        self._closing.set()
        self._wake.put(None)
        self._thread.join(timeout)
        self._write_what_the_thread_left()

    def _write_what_the_thread_left(self) -> None:
        if not self._thread.is_alive():
            with self._lock:
                lines, self._lines, self._size = self._lines, [], 0
            self._write(b"".join(self._made(line) for line, _ in lines))

    def _run(self) -> None:
        while True:
            self._wake.get()
            while lines := self._gathered():
                for start in range(0, len(lines), _BATCH):
                    batch = lines[start : start + _BATCH]
                    self._write(b"".join(self._made(line) for line, _ in batch))
                    with self._lock:
                        self._size -= sum(size for _, size in batch)
            if self._closing.is_set():
                return

    def _gathered(self) -> list[tuple[Line, int]]:
        """What has come in a short while; the thread may sleep when that is nothing."""
        self._closing.wait(_GATHER_SECONDS)
        with self._lock:
            lines, self._lines = self._lines, []
            self._asleep = not lines
        return lines

    def _made(self, line: Line) -> bytes:
        try:
            return (line if isinstance(line, bytes) else line()) + b"\n"
        except Exception:  # noqa: BLE001 - one line must not cost all that come after it
            self._dropped(1)
            return b""

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
