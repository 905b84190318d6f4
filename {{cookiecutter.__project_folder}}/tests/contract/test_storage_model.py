"""Every store does what a dict would do, whatever is asked of it in whatever order."""

import asyncio
from collections.abc import Callable, Coroutine
from contextlib import AbstractContextManager, nullcontext
from decimal import Decimal
from typing import Any
from uuid import UUID

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    MultipleResults,
    RuleBasedStateMachine,
    initialize,
    multiple,
    rule,
    run_state_machine_as_test,
)

from app.core.config import Settings
from app.storage import Item, ItemData, ItemNotFoundError, Items, Position, VersionConflictError, backends

LETTERS = st.characters(exclude_categories=["Cs"], exclude_characters="\0")
DATA = st.builds(
    ItemData,
    name=st.text(LETTERS, min_size=1, max_size=100),
    description=st.none() | st.text(LETTERS, max_size=2000),
    price=st.none() | st.decimals(0, Decimal("9999999999.99"), places=2),
)

# How far the version that a change is for is from the one the item has.
OFF_BY = st.none() | st.integers(-1, 1)


class Model(RuleBasedStateMachine):
    """A store beside a dict; both get the same operations.

    Args:
        items: the store.
        run: runs a call of it.
    """

    def __init__(self, items: Items, run: Callable[[Coroutine[Any, Any, Any]], Any]) -> None:
        super().__init__()
        self._items = items
        self._run = run
        self._model: dict[UUID, Item] = {}
        self._positions: dict[UUID, Position] = {}

    # Those of items that were deleted stay in it.
    ids = Bundle("ids")

    @initialize(target=ids, some=st.lists(DATA, max_size=5))
    def begin(self, some: list[ItemData]) -> MultipleResults[UUID]:
        """Empty the store, which outlives an example, and give it some items; with an id that it never gave out."""
        for item in self._run(self._items.page(limit=10_000)):
            self._run(self._items.delete(item.id))
        return multiple(UUID(int=0), *(self._create(data) for data in some))

    @rule(target=ids, data=DATA)
    def add(self, data: ItemData) -> UUID:
        return self._create(data)

    def _create(self, data: ItemData) -> UUID:
        item: Item = self._run(self._items.create(data))
        assert (item.data, str(item.data.price), item.version) == (data, str(data.price), 1)
        assert item.created_at == item.updated_at
        assert item.id not in self._positions
        assert self._run(self._items.get(item.id)) == item
        self._model[item.id] = item
        self._positions[item.id] = Position(item.created_at, item.id)
        return item.id

    @rule(item_id=ids)
    def get(self, item_id: UUID) -> None:
        with self._refused(item_id):
            found: Item = self._run(self._items.get(item_id))
            assert found == self._model[item_id]
            # Decimals are equal whatever their scale, but not shown the same way.
            assert str(found.data.price) == str(self._model[item_id].data.price)

    @rule(item_id=ids, data=DATA, off_by=OFF_BY)
    def replace(self, item_id: UUID, data: ItemData, off_by: int | None) -> None:
        with self._refused(item_id, off_by):
            new: Item = self._run(self._items.replace(item_id, data, version=self._version(item_id, off_by)))
            old = self._model[item_id]
            assert new == Item(item_id, data, old.version + 1, old.created_at, new.updated_at)
            assert new.updated_at >= old.updated_at
            self._model[item_id] = new

    @rule(item_id=ids, off_by=OFF_BY)
    def delete(self, item_id: UUID, off_by: int | None) -> None:
        with self._refused(item_id, off_by):
            self._run(self._items.delete(item_id, version=self._version(item_id, off_by)))
            del self._model[item_id]

    @rule(limit=st.integers(1, 10), after=st.none() | ids)
    def page(self, limit: int, after: UUID | None) -> None:
        position = self._positions.get(after) if after else None
        following = [item for item in self._model.values() if not position or self._positions[item.id] > position]
        following.sort(key=lambda item: self._positions[item.id])
        assert self._run(self._items.page(limit=limit, after=position)) == following[:limit]

    def _version(self, item_id: UUID, off_by: int | None) -> int | None:
        if off_by is None:
            return None
        return off_by + (self._model[item_id].version if item_id in self._model else 1)

    def _refused(self, item_id: UUID, off_by: int | None = None) -> AbstractContextManager[object]:
        """Expects the error that the operation has to end with, if any."""
        if item_id not in self._model:
            return pytest.raises(ItemNotFoundError)
        return pytest.raises(VersionConflictError) if off_by else nullcontext()


def test_a_store_does_what_a_dict_does(stored_in: Settings) -> None:
    store = backends.connect(stored_in)
    # An example is many operations, so there are fewer of them than in other tests. What breaks a store is short.
    fewer = settings(max_examples=max(5, settings().max_examples // 2), stateful_step_count=20, deadline=None)
    with asyncio.Runner() as runner:
        runner.run(store.open())
        try:
            # Whatever makes a machine will do, its documentation says.
            run_state_machine_as_test(lambda: Model(store, runner.run), settings=fewer)  # type: ignore[arg-type]
        finally:
            runner.run(store.close())
