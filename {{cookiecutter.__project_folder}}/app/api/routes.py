"""`/api/v1/items`: list, create, read, replace, delete.

Reads carry an `ETag` (RFC 9110, section 8.8.3): send it back as `If-None-Match` to save the transfer, or as `If-Match`
to replace or delete only what you have seen.
"""

import base64
import binascii
import re
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from hashlib import blake2b
from typing import Annotated, Any, Self
from uuid import UUID

from fastapi import APIRouter, HTTPException, Query, Request, Response, status
from pydantic import AfterValidator, BaseModel, BeforeValidator, Field, StringConstraints, TypeAdapter
from pydantic.json_schema import SkipJsonSchema
from pydantic_core import PydanticKnownError, to_json

from app.api import preconditions
from app.core.errors import responses
from app.core.resilience import CircuitOpenError
from app.storage import (
    Item,
    ItemData,
    ItemNotFoundError,
    Items,
    Position,
    UnavailableError,
    VersionConflictError,
)

PATH = "/api/v1/items"

# Stored copies must ask before each use: an item may change at any moment.
CACHE_CONTROL = "private, no-cache"

# How the store's refusals look to a client.
ERRORS: dict[type[Exception], tuple[int, str]] = {
    ItemNotFoundError: (404, "No item has this id."),
    VersionConflictError: (412, "The item was replaced meanwhile."),
    UnavailableError: (503, "The storage cannot serve now; try again."),
    CircuitOpenError: (503, "The storage cannot serve now; try again."),
}

NOT_MODIFIED: dict[int | str, dict[str, Any]] = {304: {"description": "Not Modified"}}

_INTEGER = re.compile(r"-?(0|[1-9][0-9]*)")

_EPOCH = datetime.fromtimestamp(0, UTC)

WITH_BODY = responses(400, 408, 415)

# Stores end texts at a NUL, or refuse it.
_NO_NUL = r"^[^\x00]*$"

_PLAIN_DECIMAL = r"^[0-9]{1,10}([.][0-9]{1,2})?$"

router = APIRouter(prefix=PATH, tags=["items"], responses=responses(422))


def _plain_decimal(price: Any) -> Any:
    """Let text be a price only as people write it: Python would take `1_000`, `+1`, `1e1` and other scripts' digits."""
    if isinstance(price, str) and not re.fullmatch(_PLAIN_DECIMAL, price):
        raise ValueError("a price is written like 9.99")
    return price


Price = Annotated[
    Decimal,
    Field(ge=0, max_digits=12, decimal_places=2),
    BeforeValidator(
        _plain_decimal,
        json_schema_input_type=Annotated[str, Field(pattern=_PLAIN_DECIMAL, examples=["9.99"])]
        | Annotated[float, Field(ge=0, le=9_999_999_999.99)],
    ),
]


class ItemIn(BaseModel):
    """What a client says of an item."""

    name: Annotated[str, StringConstraints(strip_whitespace=True, min_length=1, max_length=100, pattern=_NO_NUL)]
    description: Annotated[str, StringConstraints(max_length=2000, pattern=_NO_NUL)] | None = None
    price: Price | None = None

    def data(self) -> ItemData:
        """As the store takes it: a price has two decimals, and zero has no sign."""
        price = None if self.price is None else self.price.quantize(Decimal("0.01")) + 0
        return ItemData(name=self.name, description=self.description, price=price)


# Not models: what the store gave is right already, and to validate each field once more takes longer than to render it.
@dataclass(slots=True)
class ItemOut:
    """An item. `price` is a string: a JSON number would be read as a binary float by most clients."""

    id: UUID
    name: str
    description: str | None
    price: Decimal | None
    created_at: datetime
    updated_at: datetime

    @classmethod
    def of(cls, item: Item) -> Self:
        """An item as clients see it."""
        data = item.data
        return cls(item.id, data.name, data.description, data.price, item.created_at, item.updated_at)


@dataclass(slots=True)
class ItemPage:
    """Some items, oldest first."""

    items: list[ItemOut]
    next_cursor: Annotated[str | None, Field(description="`cursor` of the next page; null on the last one.")]


def encode_cursor(position: Position) -> str:
    """A position as an opaque, URL-safe text."""
    microseconds = (position.created_at - _EPOCH) // timedelta(microseconds=1)
    return base64.urlsafe_b64encode(microseconds.to_bytes(8, "big") + position.id.bytes).decode()


def decode_cursor(cursor: str) -> Position:
    """The position of a cursor.

    Raises:
        ValueError: `encode_cursor` made no such text.
    """
    try:
        raw = base64.b64decode(cursor.encode(), altchars=b"-_", validate=True)
        moment = _EPOCH + timedelta(microseconds=int.from_bytes(raw[:8], "big"))
        position = Position(moment, UUID(bytes=raw[8:]))
    except (binascii.Error, ValueError, OverflowError):
        position = None
    if position is None or encode_cursor(position) != cursor:
        raise ValueError("not a cursor of this service; use a page's next_cursor as it is")
    return position


def _valid_cursor(cursor: str) -> str:
    decode_cursor(cursor)
    return cursor


def _revision(representation: type) -> str:
    """What entity tags have of the form of a representation: after any change of its schema, clients get it anew."""
    schema = TypeAdapter(representation).json_schema(mode="serialization")
    return blake2b(to_json(schema), digest_size=4).hexdigest()


_ITEM_REVISION = _revision(ItemOut)
_PAGE_REVISION = _revision(ItemPage)


def etag(item: Item) -> str:
    """The entity tag of an item: its version, since ids are never used again, and the revision of its representation.

    What changes how stored items are shown, but not the schema, has to raise their versions.
    """
    return f'"{item.version}-{_ITEM_REVISION}"'


def document(body: ItemOut | ItemPage, headers: dict[str, str], status_code: int = status.HTTP_200_OK) -> Response:
    """A response with this body. Rendered here: FastAPI would validate it."""
    return Response(to_json(body), status_code, headers, media_type="application/json")


def not_modified(request: Request, tag: str) -> Response | None:
    """The 304 for a client that has this tag already.

    Raises:
        HTTPException: 412, it asks for another one.
    """
    if preconditions.is_known(request.headers, tag):
        return Response(status_code=304, headers={"ETag": tag, "Cache-Control": CACHE_CONTROL})
    return None


# Handlers take these headers and the store from the request: as a parameter, a header costs 20 us, a dependency 18 us.
CONDITIONAL: dict[str, Any] = {
    "parameters": [
        {
            "name": field.lower(),
            "in": "header",
            "required": False,
            "schema": {"type": "array", "items": {"type": "string"}, "title": field},
        }
        for field in ("If-Match", "If-None-Match")
    ]
}


def items_of(request: Request) -> Items:
    """The store of this application."""
    items: Items = request.app.state.items
    return items


async def expected_version(request: Request, item_id: UUID) -> int | None:
    """The version that a change is for, where it has preconditions, and they hold; None where any will do.

    Handlers ask, not a dependency: what would be refused without preconditions is refused for that (RFC 9110, section
    13.2.1).

    Raises:
        HTTPException: 412, they do not hold.
    """
    if not preconditions.name_tags(request.headers):
        return None
    item = await items_of(request).get(item_id)
    if preconditions.is_known(request.headers, etag(item)):
        raise HTTPException(412, "The item has a tag that If-None-Match names.")
    # What was compared is what will be changed.
    return item.version


def _an_integer(value: object) -> object:
    """Text that JSON would call an integer (RFC 8259, section 6): pydantic takes `1_0`, `+5`, `5.0` and `05` too.

    Raises:
        PydanticKnownError: it is not.
    """
    if isinstance(value, str) and not _INTEGER.fullmatch(value):
        raise PydanticKnownError("int_parsing")
    return value


Cursor = Annotated[
    str | SkipJsonSchema[None], AfterValidator(_valid_cursor), Query(description="The `next_cursor` of a page.")
]


@router.get("", response_model=ItemPage, responses=responses(412) | NOT_MODIFIED, openapi_extra=CONDITIONAL)
async def list_items(
    request: Request,
    limit: Annotated[int, BeforeValidator(_an_integer), Query(ge=1, le=100, description="At most so many items.")] = 20,
    cursor: Cursor = None,
) -> Response:
    """A page of items, oldest first."""
    # One more than asked for tells whether there is another page.
    found = await items_of(request).page(limit=limit + 1, after=decode_cursor(cursor) if cursor else None)
    items = found[:limit]
    state = b"".join(item.id.bytes + item.version.to_bytes(4, "big") for item in found)
    tag = f'W/"{blake2b(state, digest_size=12).hexdigest()}-{_PAGE_REVISION}"'
    if answer := not_modified(request, tag):
        return answer
    last = Position(items[-1].created_at, items[-1].id) if len(found) > limit else None
    page = ItemPage([ItemOut.of(item) for item in items], encode_cursor(last) if last else None)
    return document(page, {"ETag": tag, "Cache-Control": CACHE_CONTROL})


@router.post("", response_model=ItemOut, status_code=status.HTTP_201_CREATED, responses=WITH_BODY)
async def create_item(request: Request, body: ItemIn) -> Response:
    """Create an item; `Location` says where it is."""
    item = await items_of(request).create(body.data())
    return document(ItemOut.of(item), {"ETag": etag(item), "Location": f"{PATH}/{item.id}"}, status.HTTP_201_CREATED)


@router.get(
    "/{item_id}", response_model=ItemOut, responses=responses(404, 412) | NOT_MODIFIED, openapi_extra=CONDITIONAL
)
async def read_item(request: Request, item_id: UUID) -> Response:
    """Read an item."""
    item = await items_of(request).get(item_id)
    tag = etag(item)
    if answer := not_modified(request, tag):
        return answer
    return document(ItemOut.of(item), {"ETag": tag, "Cache-Control": CACHE_CONTROL})


@router.put("/{item_id}", response_model=ItemOut, responses=responses(404, 412) | WITH_BODY, openapi_extra=CONDITIONAL)
async def replace_item(request: Request, item_id: UUID, body: ItemIn) -> Response:
    """Replace everything a client may say of an item; what is left out becomes null."""
    version = await expected_version(request, item_id)
    item = await items_of(request).replace(item_id, body.data(), version=version)
    return document(ItemOut.of(item), {"ETag": etag(item)})


@router.delete(
    "/{item_id}",
    status_code=status.HTTP_204_NO_CONTENT,
    responses=responses(404, 412),
    openapi_extra=CONDITIONAL,
)
async def delete_item(request: Request, item_id: UUID) -> None:
    """Delete an item."""
    version = await expected_version(request, item_id)
    await items_of(request).delete(item_id, version=version)
