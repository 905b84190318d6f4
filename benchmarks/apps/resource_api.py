"""The resource of the benchmark's applications, written as FastAPI's documentation does, and more of its kind."""

from datetime import UTC, datetime
from decimal import Decimal
from itertools import count
from uuid import UUID, uuid4

from fastapi import APIRouter, HTTPException
from pydantic import BaseModel, Field


class ItemIn(BaseModel):
    """What a client says of an item; the service's fields and types."""

    name: str = Field(min_length=1, max_length=100)
    description: str | None = Field(None, max_length=2000)
    price: Decimal | None = Field(None, ge=0, max_digits=12, decimal_places=2)


class Item(ItemIn):
    """A stored item."""

    id: UUID
    created_at: datetime
    updated_at: datetime


class Thing(BaseModel):
    """Something whose size can be chosen."""

    id: int
    name: str


def items_router(prefix: str) -> APIRouter:
    """Five routes over items in memory."""
    router = APIRouter(prefix=prefix, tags=["items"])
    stored: dict[UUID, Item] = {}

    @router.get("")
    async def list_items(skip: int = 0, limit: int = 20) -> list[Item]:
        return list(stored.values())[skip : skip + limit]

    @router.post("", status_code=201)
    async def create_item(body: ItemIn) -> Item:
        now = datetime.now(UTC)
        item = Item(id=uuid4(), created_at=now, updated_at=now, **body.model_dump())
        stored[item.id] = item
        return item

    @router.get("/{item_id}")
    async def read_item(item_id: UUID) -> Item:
        if item_id not in stored:
            raise HTTPException(404, "Item not found")
        return stored[item_id]

    @router.put("/{item_id}")
    async def replace_item(item_id: UUID, body: ItemIn) -> Item:
        old = await read_item(item_id)
        stored[item_id] = old.model_copy(update=body.model_dump() | {"updated_at": datetime.now(UTC)})
        return stored[item_id]

    @router.delete("/{item_id}", status_code=204)
    async def delete_item(item_id: UUID) -> None:
        await read_item(item_id)
        del stored[item_id]

    return router


def thing_routers(prefix: str, routes: int) -> list[APIRouter]:
    """As many routes more, five for each of the resources `things-0`, `things-1` and so on."""
    return [_things(f"{prefix}/things-{number}") for number in range(routes // 5)]


def _things(prefix: str) -> APIRouter:
    router = APIRouter(prefix=prefix, tags=["things"])
    numbers = count()

    @router.get("")
    async def list_things() -> list[Thing]:
        return []

    @router.post("", status_code=201)
    async def create_thing(name: str) -> Thing:
        return Thing(id=next(numbers), name=name)

    @router.put("/{thing_id}")
    async def replace_thing(thing_id: int, name: str) -> Thing:
        return Thing(id=thing_id, name=name)

    @router.delete("/{thing_id}", status_code=204)
    async def delete_thing(thing_id: int) -> None:
        pass

    @router.get("/{thing_id}")
    async def read_thing(thing_id: int, size: int = 1) -> Thing:
        return Thing(id=thing_id, name="x" * size)

    return router
