"""Items in the memory of this process: for tests and trials. They are gone when it ends, and replicas share nothing."""

from bisect import bisect_right, insort
from dataclasses import replace
from datetime import UTC, datetime
from uuid import UUID, uuid4

from prometheus_client import CollectorRegistry

from app.storage import Item, ItemData, ItemNotFoundError, Items, Position, VersionConflictError


class MemoryItems(Items):
    """No method awaits anything between reading and writing, so each is atomic on the event loop."""

    def __init__(self) -> None:
        self._items: dict[UUID, Item] = {}
        self._order: list[Position] = []

    def observe(self, registry: CollectorRegistry) -> None:
        """Nothing to do: the process's own metrics tell."""

    async def open(self) -> None:
        """Nothing to do."""

    async def close(self) -> None:
        """Nothing to do."""

    async def check(self) -> None:
        """Memory is always there."""

    async def create(self, data: ItemData) -> Item:
        now = datetime.now(UTC)
        item = Item(id=uuid4(), data=data, version=1, created_at=now, updated_at=now)
        self._items[item.id] = item
        insort(self._order, Position(item.created_at, item.id))
        return item

    async def page(self, *, limit: int, after: Position | None = None) -> list[Item]:
        start = bisect_right(self._order, after) if after else 0
        return [self._items[position.id] for position in self._order[start : start + limit]]

    async def get(self, item_id: UUID) -> Item:
        try:
            return self._items[item_id]
        except KeyError:
            raise ItemNotFoundError(item_id) from None

    async def replace(self, item_id: UUID, data: ItemData, *, version: int | None = None) -> Item:
        old = await self._expect(item_id, version)
        item = replace(old, data=data, version=old.version + 1, updated_at=datetime.now(UTC))
        self._items[item_id] = item
        return item

    async def delete(self, item_id: UUID, *, version: int | None = None) -> None:
        old = await self._expect(item_id, version)
        del self._items[item_id]
        self._order.remove(Position(old.created_at, old.id))

    async def _expect(self, item_id: UUID, version: int | None) -> Item:
        item = await self.get(item_id)
        if version not in (None, item.version):
            raise VersionConflictError(item_id)
        return item
