"""The contract of the storage port, the same for every backend."""

import asyncio
from collections.abc import AsyncIterator
from datetime import datetime, tzinfo
from decimal import Decimal
from typing import Self
from uuid import uuid4

import pytest
from pydantic import SecretStr

from app.core.config import Settings
from app.storage import Item, ItemData, ItemNotFoundError, Items, Position, VersionConflictError, backends


async def pages(items: Items, *, limit: int) -> AsyncIterator[list[Item]]:
    """The pages of a store, each asked for when the one before was read."""
    after = None
    # A store that repeats itself fails the test rather than never end it.
    for _ in range(100):
        if not (page := await items.page(limit=limit, after=after)):
            return
        yield page
        after = Position(page[-1].created_at, page[-1].id)
    pytest.fail("the pages have no end")


@pytest.mark.parametrize(
    "data",
    [
        ItemData("Widget"),
        # A hundred times this is 28.999… in binary.
        ItemData("Widget", "for testing", Decimal("0.29")),
        ItemData("x" * 100, "y" * 2000, Decimal("9999999999.99")),
        # Four bytes each in UTF-8: limits count characters.
        ItemData("🚀" * 100, "\U0010ffff" * 2000, Decimal("0.01")),
        ItemData("Ünïcödé e\u0301 עברית", "line\r\nbreak\tand 'quotes' \"too\" \\ %s :x $1", Decimal("0.00")),
        ItemData(" ", ""),
        ItemData("Robert'); DROP TABLE items;--"),
    ],
    ids=lambda data: ascii(data.name[:10]),
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

    found = [page async for page in pages(items, limit=2)]

    assert [len(page) for page in found] == [2, 2, 1]
    assert [item for page in found for item in page] == expected


async def test_items_of_the_same_moment_are_in_order_of_their_ids(
    items: Items, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Stopped(datetime):
        @classmethod
        def now(cls, tz: tzinfo | None = None) -> Self:
            return cls(2024, 2, 29, 23, 59, 59, 999_999, tz)

    monkeypatch.setattr(f"{type(items).__module__}.datetime", Stopped)
    created = [await items.create(ItemData(str(number))) for number in range(20)]

    found = [item async for page in pages(items, limit=3) for item in page]

    assert len({item.created_at for item in found}) == 1
    assert [item.id for item in found] == sorted(item.id for item in created)


async def test_pages_show_no_item_twice_and_miss_none_while_others_come_and_go(items: Items) -> None:
    created = [await items.create(ItemData(str(number))) for number in range(12)]
    seen: list[Item] = []
    gone: list[Item] = []

    async for page in pages(items, limit=3):
        seen += page
        if len(seen) <= len(created):
            await items.create(ItemData("late"))
            # The one the next page begins after, and one that nobody saw yet.
            unseen = [item for item in created if item not in seen and item not in gone]
            for item in (page[-1], *unseen[-1:]):
                await items.delete(item.id)
                gone.append(item)

    assert len({item.id for item in seen}) == len(seen)
    assert {item.id for item in created} - {item.id for item in gone} <= {item.id for item in seen}


async def test_many_created_at_once_are_all_kept_once(items: Items) -> None:
    names = {str(number) for number in range(200)}

    created = await asyncio.gather(*(items.create(ItemData(name)) for name in names))

    assert {item.data.name for item in created} == names
    assert await items.page(limit=1000) == sorted(created, key=lambda item: (item.created_at, item.id))


async def test_a_replacement_keeps_identity_and_raises_the_version(items: Items) -> None:
    old = await items.create(ItemData("old", "text", Decimal(1)))

    new = await items.replace(old.id, ItemData("new"))

    assert (new.id, new.created_at, new.version) == (old.id, old.created_at, 2)
    assert new.data == ItemData("new")
    assert new.updated_at >= old.updated_at
    assert await items.get(old.id) == new
    assert (await items.replace(old.id, ItemData("newer"))).version == 3


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


def test_a_scheme_that_no_backend_has_is_refused(settings: Settings) -> None:
    elsewhere = settings.model_copy(update={"storage_url": SecretStr("nosuch://x")})

    with pytest.raises(ValueError, match=r"must be one of .* not 'nosuch'"):
        backends.connect(elsewhere)
