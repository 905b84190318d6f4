"""The store behind breaker and retries: which calls are repeated, and how its outages look to a client."""

from collections.abc import Awaitable, Callable
from typing import Any
from uuid import UUID, uuid4

import httpx
import pytest

from app.core.config import Settings
from app.core.metrics import Metrics
from app.core.resilience import CircuitOpenError
from app.core.telemetry import Telemetry
from app.storage import ConnectionLostError, Item, ItemData, Items, OutdatedError, Position, UnavailableError
from app.storage.guard import GuardedItems
from app.storage.memory import MemoryItems


class BreakingItems(MemoryItems):
    """Raises instead of answering, and remembers what it was asked."""

    def __init__(self, error: Exception) -> None:
        super().__init__()
        self.error: Exception | None = error
        self.calls: list[str] = []

    def _break(self, call: str) -> None:
        self.calls.append(call)
        if self.error:
            raise self.error

    async def create(self, data: ItemData) -> Item:
        self._break("create")
        return await super().create(data)

    async def page(self, *, limit: int, after: Position | None = None) -> list[Item]:
        self._break("page")
        return await super().page(limit=limit, after=after)

    async def get(self, item_id: UUID) -> Item:
        self._break("get")
        return await super().get(item_id)

    async def replace(self, item_id: UUID, data: ItemData, *, version: int | None = None) -> Item:
        self._break("replace")
        return await super().replace(item_id, data, version=version)

    async def delete(self, item_id: UUID, *, version: int | None = None) -> None:
        self._break("delete")
        await super().delete(item_id, version=version)


CALLS: dict[str, Callable[[Items], Awaitable[object]]] = {
    "get": lambda items: items.get(uuid4()),
    "page": lambda items: items.page(limit=1),
    "create": lambda items: items.create(ItemData("x")),
    "replace": lambda items: items.replace(uuid4(), ItemData("x")),
    "delete": lambda items: items.delete(uuid4()),
}


def guarded(settings: Settings, items: BreakingItems, **changes: Any) -> GuardedItems:
    changed = settings.model_copy(update={"retry_attempts": 3, **changes})
    return GuardedItems(items, changed, Metrics(changed))


@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize("error", [ConnectionLostError("lost"), UnavailableError("down")], ids=["lost", "down"])
async def test_only_reads_whose_connection_broke_are_tried_again(
    settings: Settings, call: str, error: Exception
) -> None:
    items = BreakingItems(error)

    with pytest.raises(type(error)):
        await CALLS[call](guarded(settings, items))

    again = call in {"get", "page"} and isinstance(error, ConnectionLostError)
    assert items.calls == [call] * (3 if again else 1)


@pytest.mark.parametrize("call", CALLS)
async def test_every_call_counts_for_the_breaker_and_is_refused_by_it(settings: Settings, call: str) -> None:
    items = BreakingItems(UnavailableError("down"))
    store = guarded(settings, items, breaker_failures=2)
    for _ in range(2):
        with pytest.raises(UnavailableError):
            await CALLS[call](store)

    for other in CALLS.values():
        with pytest.raises(CircuitOpenError):
            await other(store)
    assert len(items.calls) == 2


async def test_readiness_sees_the_store_itself_and_not_the_breaker(settings: Settings) -> None:
    items = BreakingItems(UnavailableError("down"))
    store = guarded(settings, items, breaker_failures=1)
    with pytest.raises(UnavailableError):
        await store.create(ItemData("x"))

    items.error = None

    await store.check()


@pytest.mark.parametrize(
    ("error", "retry_after"),
    [
        (UnavailableError("at host db-1, user admin"), "1"),
        (ConnectionLostError("at host db-1, user admin"), "1"),
        (OutdatedError("at host db-1, user admin"), "1"),
        (CircuitOpenError("db-1", 4), "4"),
    ],
    ids=lambda value: type(value).__name__,
)
async def test_an_outage_is_a_503_that_says_when_to_come_back_and_nothing_else(
    app: Telemetry, client: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch, error: Exception, retry_after: str
) -> None:
    async def fail(**_: object) -> list[Item]:
        raise error

    monkeypatch.setattr(app.fastapi.state.items, "page", fail)

    response = await client.get("/api/v1/items")

    assert (response.status_code, response.headers["retry-after"]) == (503, retry_after)
    assert response.json()["detail"] == "The storage cannot serve now; try again."
    assert "db-1" not in response.text
