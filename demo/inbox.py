"""Things that one thread receives and another one waits for."""

import threading
from collections import deque
from collections.abc import Callable
from typing import Generic, TypeVar

T = TypeVar("T")


class Inbox(Generic[T]):
    """The latest things that arrived, oldest first.

    Args:
        capacity: how many are kept; older ones are forgotten.
    """

    def __init__(self, capacity: int) -> None:
        self._items: deque[T] = deque(maxlen=capacity)
        self._changed = threading.Condition()
        self._closed = False

    def put(self, *items: T) -> None:
        """Add what arrived."""
        with self._changed:
            self._items.extend(items)
            self._changed.notify_all()

    def close(self) -> None:
        """Say that nothing more will arrive, so that nobody waits for it."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    def all(self) -> list[T]:
        """Return what is kept."""
        with self._changed:
            return list(self._items)

    def first(self, wanted: Callable[[T], bool], timeout: float) -> T | None:
        """Return the first thing that is wanted, waiting for it; None when it did not come in `timeout` seconds."""
        found: T | None = None

        def settled() -> bool:
            nonlocal found
            found = next(filter(wanted, self._items), None)
            return found is not None or self._closed

        with self._changed:
            self._changed.wait_for(settled, timeout)
        return found
