"""The contract of the storage port, the same for every backend."""

import asyncio
from collections.abc import AsyncIterator
from decimal import Decimal
from pathlib import Path
from uuid import uuid4

import pytest

from app.storage import ItemData, ItemNotFoundError, Items, Position, VersionConflictError, backends


@pytest.fixture(params=backends.SCHEMES)
async def items(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Items]:
    """An empty store of each kind."""
    urls = {"memory": "memory://", "sqlite": f"sqlite:///{tmp_path}/items.db"}
    store = backends.connect(urls[request.param])
    await store.open(migrate=True)
    yield store
    await store.close()


@pytest.mark.parametrize(
    "data",
    [
        ItemData("Widget"),
        ItemData("Widget", "for testing", Decimal("9.99")),
        ItemData("x" * 100, "y" * 2000, Decimal("9999999999.99")),
        ItemData("Ünïcödé 🚀 עברית", "line\nbreak\tand 'quotes' \"too\"", Decimal("0.00")),
        ItemData("Robert'); DROP TABLE items;--"),
    ],
    ids=lambda data: data.name[:10],
)
async def test_what_was_created_is_read_back_exactly(items: Items, data: ItemData) -> None:
    created = await items.create(data)

    assert created.data == data
    # Decimals are equal whatever their scale, but not shown the same way.
    assert str((await items.get(created.id)).data.price) == str(data.price)
    assert created.version == 1
    assert created.created_at == created.updated_at
    assert created.created_at.utcoffset() is not None
    assert await items.get(created.id) == created


async def test_pages_follow_creation_and_hold_each_item_once(items: Items) -> None:
    created = [await items.create(ItemData(str(number))) for number in range(5)]
    expected = sorted(created, key=lambda item: (item.created_at, item.id))

    first = await items.page(limit=2)
    second = await items.page(limit=2, after=Position(first[-1].created_at, first[-1].id))
    third = await items.page(limit=2, after=Position(second[-1].created_at, second[-1].id))

    assert [*first, *second, *third] == expected
    assert await items.page(limit=2, after=Position(third[-1].created_at, third[-1].id)) == []


async def test_a_replacement_keeps_identity_and_raises_the_version(items: Items) -> None:
    old = await items.create(ItemData("old", "text", Decimal(1)))

    new = await items.replace(old.id, ItemData("new"))

    assert (new.id, new.created_at, new.version) == (old.id, old.created_at, 2)
    assert new.data == ItemData("new")
    assert new.updated_at >= old.updated_at
    assert await items.get(old.id) == new


async def test_a_deleted_item_is_in_no_answer(items: Items) -> None:
    item = await items.create(ItemData("x"))

    await items.delete(item.id)

    assert await items.page(limit=10) == []
    with pytest.raises(ItemNotFoundError):
        await items.get(item.id)


async def test_an_item_that_does_not_exist_is_neither_read_nor_changed(items: Items) -> None:
    with pytest.raises(ItemNotFoundError):
        await items.get(uuid4())
    for version in (None, 1):
        with pytest.raises(ItemNotFoundError):
            await items.replace(uuid4(), ItemData("x"), version=version)
        with pytest.raises(ItemNotFoundError):
            await items.delete(uuid4(), version=version)


async def test_a_change_that_names_another_version_changes_nothing(items: Items) -> None:
    item = await items.create(ItemData("x"))

    with pytest.raises(VersionConflictError):
        await items.replace(item.id, ItemData("y"), version=2)
    with pytest.raises(VersionConflictError):
        await items.delete(item.id, version=2)

    assert await items.get(item.id) == item
    assert (await items.replace(item.id, ItemData("y"), version=1)).version == 2
    await items.delete(item.id, version=2)


async def test_of_many_who_saw_the_same_version_one_wins(items: Items) -> None:
    item = await items.create(ItemData("x"))

    results = await asyncio.gather(
        *(items.replace(item.id, ItemData(str(number)), version=1) for number in range(10)), return_exceptions=True
    )

    assert sum(isinstance(result, VersionConflictError) for result in results) == 9
    assert (await items.get(item.id)).version == 2


async def test_a_store_that_is_open_passes_its_check(items: Items) -> None:
    await items.check()


def test_a_scheme_that_no_backend_has_is_refused() -> None:
    with pytest.raises(ValueError, match="must be one of"):
        backends.connect("mysql://db/items")
