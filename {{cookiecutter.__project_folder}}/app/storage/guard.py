"""The store as the endpoints get it: behind a circuit breaker, and with retries where they do no harm."""

from collections.abc import Awaitable, Callable
from typing import TypeVar
from uuid import UUID

from prometheus_client import CollectorRegistry

from app.core.config import Settings
from app.core.metrics import Metrics
from app.core.resilience import Breaker, Retries
from app.storage import ConnectionLostError, Item, ItemData, Items, PoolExhaustedError, Position, UnavailableError

T = TypeVar("T")


class GuardedItems(Items):
    """Another store, guarded.

    Reads are tried again when their connection breaks. Changes are not: the first attempt may have made the change
    before its answer was lost, and a second one would then be refused, or made twice.

    Every call may raise `CircuitOpenError` as well.
    """

    def __init__(self, items: Items, settings: Settings, metrics: Metrics) -> None:
        self._items = items
        self._breaker = Breaker("storage", settings, metrics, failure=UnavailableError, neutral=PoolExhaustedError)
        self._retries = Retries("storage", settings, metrics, on=ConnectionLostError)

    def observe(self, registry: CollectorRegistry) -> None:
        self._items.observe(registry)

    async def open(self) -> None:
        await self._items.open()

    async def close(self) -> None:
        await self._items.close()

    async def check(self) -> None:
        """Ask the store itself: readiness has to see that it is back before the breaker does."""
        await self._items.check()

    async def create(self, data: ItemData) -> Item:
        return await self._breaker.call(lambda: self._items.create(data))

    async def page(self, *, limit: int, after: Position | None = None) -> list[Item]:
        return await self._read(lambda: self._items.page(limit=limit, after=after))

    async def get(self, item_id: UUID) -> Item:
        return await self._read(lambda: self._items.get(item_id))

    async def replace(self, item_id: UUID, data: ItemData, *, version: int | None = None) -> Item:
        return await self._breaker.call(lambda: self._items.replace(item_id, data, version=version))

    async def delete(self, item_id: UUID, *, version: int | None = None) -> None:
        await self._breaker.call(lambda: self._items.delete(item_id, version=version))

    async def _read(self, operation: Callable[[], Awaitable[T]]) -> T:
        # The breaker sees what came of the retries: many connections that break at the same moment are no outage.
        return await self._breaker.call(lambda: self._retries.call(operation))
