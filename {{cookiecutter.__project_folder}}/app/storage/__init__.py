"""Where items live: the port that endpoints use, and nothing of any backend.

`backends` chooses the implementation by the scheme of `STORAGE_URL`; one contract test holds for all of them.
"""

from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from typing import NamedTuple, Protocol
from uuid import UUID

from prometheus_client import CollectorRegistry


@dataclass(frozen=True, slots=True)
class ItemData:
    """What a client says of an item. `price` has two decimals; its currency is the client's affair."""

    name: str
    description: str | None = None
    price: Decimal | None = None


@dataclass(frozen=True, slots=True)
class Item:
    """A stored item. `version` starts at 1 and grows with each replacement; times are UTC."""

    id: UUID
    data: ItemData
    version: int
    created_at: datetime
    updated_at: datetime


class Position(NamedTuple):
    """A place in the list of items, which is ordered by creation, oldest first, ties by id."""

    created_at: datetime
    id: UUID


class ItemNotFoundError(Exception):
    """No item has this id."""


class VersionConflictError(Exception):
    """The item has another version than the caller saw."""


class UnavailableError(Exception):
    """The store cannot serve now. Whether a change that was asked for was made is unknown.

    The text is for everybody, so it names no host and no user; the cause, for people inside, is chained.
    """


class PoolExhaustedError(UnavailableError):
    """All connections are in use, and none became free in time: this says nothing of the store behind them."""


class ConnectionLostError(UnavailableError):
    """The connection broke: the same read may well succeed at once on another one."""


class OutdatedError(UnavailableError):
    """The store holds its data in an older form than this code reads; waiting alone does not help."""


class Items(Protocol):
    """The store of items. Every call is atomic; ids and times are made by the store.

    Every call may raise `UnavailableError`, and returns or raises in bounded time.
    """

    def observe(self, registry: CollectorRegistry) -> None:
        """Register the metrics of how full the store is."""

    async def open(self) -> None:
        """Get ready for use, which in production must not need a server to be up."""

    async def close(self) -> None:
        """Release everything; the store is not used afterwards."""

    async def check(self) -> None:
        """Return when the store can serve.

        Raises:
            UnavailableError: it cannot; the text says why.
        """

    async def create(self, data: ItemData) -> Item:
        """Store a new item."""

    async def page(self, *, limit: int, after: Position | None = None) -> list[Item]:
        """At most `limit` items that follow `after`; from the start without it."""

    async def get(self, item_id: UUID) -> Item:
        """Read one item.

        Raises:
            ItemNotFoundError: there is none.
        """

    async def replace(self, item_id: UUID, data: ItemData, *, version: int | None = None) -> Item:
        """Replace what the client said of an item; with `version`, only while the item still has it.

        Raises:
            ItemNotFoundError: there is none.
            VersionConflictError: somebody else replaced it first.
        """

    async def delete(self, item_id: UUID, *, version: int | None = None) -> None:
        """Remove an item; with `version`, only while the item still has it.

        Raises:
            ItemNotFoundError: there is none.
            VersionConflictError: somebody else replaced it first.
        """
