"""`/api/v1/items`, as a client sees it."""

from collections.abc import AsyncIterator, Callable, Coroutine
from dataclasses import fields, make_dataclass
from typing import Any
from uuid import UUID, uuid4

import httpx
import pytest
from fastapi import APIRouter, Depends, FastAPI, HTTPException, Request, Response
from fastapi.responses import PlainTextResponse
from fastapi.routing import APIRoute

from app.api import register, routes
from app.api.routes import ItemOut, ItemPage
from app.core.config import Settings
from app.core.errors import ANYWHERE
from app.core.telemetry import Telemetry
from app.main import create_app
from app.storage import Item, ItemData
from tests.support import client_of

ITEMS = "/api/v1/items"


async def create(client: httpx.AsyncClient, **item: Any) -> httpx.Response:
    response = await client.post(ITEMS, json={"name": "Widget", **item})
    assert response.status_code == 201, response.text
    return response


async def test_a_created_item_is_returned_and_found_at_its_location(client: httpx.AsyncClient) -> None:
    created = await create(client, description="for testing", price="9.99")

    item = created.json()
    assert created.headers["location"] == f"{ITEMS}/{item['id']}"
    assert UUID(item["id"])
    assert (item["name"], item["description"], item["price"]) == ("Widget", "for testing", "9.99")
    assert item["created_at"] == item["updated_at"]
    found = await client.get(created.headers["location"])
    assert (found.status_code, found.json()) == (200, item)


async def test_what_is_left_out_is_null(client: httpx.AsyncClient) -> None:
    item = (await create(client)).json()

    assert (item["description"], item["price"]) == (None, None)


async def test_the_name_is_stripped(client: httpx.AsyncClient) -> None:
    assert (await create(client, name="  Widget ")).json()["name"] == "Widget"


async def test_a_price_may_be_a_number_and_is_shown_as_exact_text(client: httpx.AsyncClient) -> None:
    created = await create(client, price=0.1)

    assert created.json()["price"] == "0.10"
    assert (await client.get(created.headers["location"])).json()["price"] == "0.10"


@pytest.mark.parametrize(("given", "shown"), [("7", "7.00"), ("0.5", "0.50"), (1e2, "100.00"), (-0.0, "0.00")])
async def test_a_price_has_two_decimals_and_no_odd_spelling(
    client: httpx.AsyncClient, given: str | float, shown: str
) -> None:
    assert (await create(client, price=given)).json()["price"] == shown


@pytest.mark.parametrize(
    ("body", "pointer"),
    [
        ({}, "#/name"),
        ({"name": ""}, "#/name"),
        ({"name": "   "}, "#/name"),
        ({"name": "x" * 101}, "#/name"),
        ({"name": None}, "#/name"),
        ({"name": 7}, "#/name"),
        ({"name": "x", "description": "x" * 2001}, "#/description"),
        ({"name": "x", "price": -1}, "#/price"),
        ({"name": "x", "price": "1.234"}, "#/price"),
        ({"name": "x", "price": "12345678901.00"}, "#/price"),
        *(
            ({"name": "x", "price": odd}, "#/price")
            for odd in ("NaN", "1E+2", "-0", "1_000", " 1", "+1", ".5", "1.", "٣")
        ),
        ({"name": "x\0"}, "#/name"),
        ({"name": "x", "description": "\0"}, "#/description"),
        ([], "#"),
        ("text", "#"),
        (None, "#"),
    ],
)
@pytest.mark.parametrize("method", ["POST", "PUT"])
async def test_an_invalid_item_is_refused_with_a_pointer_to_the_fault(
    client: httpx.AsyncClient, method: str, body: Any, pointer: str
) -> None:
    url = ITEMS if method == "POST" else (await create(client)).headers["location"]

    response = await client.request(method, url, json=body)

    assert response.status_code == 422
    assert [error["pointer"] for error in response.json()["errors"]] == [pointer]


async def test_malformed_json_is_refused(client: httpx.AsyncClient) -> None:
    response = await client.post(ITEMS, content=b'{"name"', headers={"content-type": "application/json"})

    assert response.status_code == 422
    assert response.json()["errors"][0]["pointer"] == "#"


async def test_pages_hold_every_item_once_in_order_of_creation(client: httpx.AsyncClient) -> None:
    created = [(await create(client, name=f"item {number}")).json()["id"] for number in range(7)]

    seen: list[str] = []
    sizes: list[int] = []
    cursor: str | None = None
    while True:
        page = (await client.get(ITEMS, params={"limit": 3} | ({"cursor": cursor} if cursor else {}))).json()
        seen += [item["id"] for item in page["items"]]
        sizes.append(len(page["items"]))
        cursor = page["next_cursor"]
        if cursor is None:
            break

    assert seen == created
    assert sizes == [3, 3, 1]


async def test_a_last_page_that_is_full_has_no_next_cursor(client: httpx.AsyncClient) -> None:
    for _ in range(2):
        await create(client)

    assert (await client.get(ITEMS, params={"limit": 2})).json()["next_cursor"] is None


async def test_a_cursor_outlives_the_item_it_points_at(client: httpx.AsyncClient) -> None:
    created = [(await create(client)).json()["id"] for _ in range(3)]
    cursor = (await client.get(ITEMS, params={"limit": 1})).json()["next_cursor"]

    await client.delete(f"{ITEMS}/{created[0]}")

    rest = (await client.get(ITEMS, params={"cursor": cursor})).json()["items"]
    assert [item["id"] for item in rest] == created[1:]


@pytest.mark.parametrize(
    "query",
    [
        "limit=0",
        "limit=101",
        "limit=x",
        *("limit=1_0", "limit=%2B5", "limit=5.0", "limit=%205", "limit=5%0A", "limit=05"),
        "cursor=",
        "cursor=abc",
        "cursor=%00",
        "cursor=%F0%9F%98%80",
        "cursor=" + "A" * 32 + "=",
    ],
)
async def test_a_bad_query_is_refused_by_the_parameters_name(client: httpx.AsyncClient, query: str) -> None:
    response = await client.get(f"{ITEMS}?{query}")

    assert response.status_code == 422
    assert response.json()["errors"][0]["parameter"] == query.partition("=")[0]


async def test_replacing_changes_everything_a_client_may_say_and_nothing_else(client: httpx.AsyncClient) -> None:
    old = (await create(client, description="old", price="1")).json()

    response = await client.put(f"{ITEMS}/{old['id']}", json={"name": "New"})

    new = response.json()
    assert response.status_code == 200
    assert (new["name"], new["description"], new["price"]) == ("New", None, None)
    assert (new["id"], new["created_at"]) == (old["id"], old["created_at"])
    assert new["updated_at"] > old["updated_at"]
    assert (await client.get(f"{ITEMS}/{old['id']}")).json() == new


async def test_a_deleted_item_is_gone(client: httpx.AsyncClient) -> None:
    url = (await create(client)).headers["location"]

    deleted = await client.delete(url)

    assert (deleted.status_code, deleted.content) == (204, b"")
    assert (await client.get(url)).status_code == 404
    assert (await client.delete(url)).status_code == 404


@pytest.mark.parametrize("method", ["GET", "PUT", "DELETE"])
async def test_an_unknown_item_is_a_404_problem(client: httpx.AsyncClient, method: str) -> None:
    response = await client.request(method, f"{ITEMS}/{uuid4()}", json={"name": "x"} if method == "PUT" else None)

    assert response.status_code == 404
    assert response.headers["content-type"] == "application/problem+json"
    assert response.json()["detail"] == "No item has this id."


@pytest.mark.parametrize("path", [f"{ITEMS}/", f"{ITEMS}/1/", "/health/live/", "/docs/"])
@pytest.mark.parametrize("method", ["GET", "POST"])
async def test_a_slash_too_many_is_a_404_that_sends_nobody_elsewhere(
    client: httpx.AsyncClient, method: str, path: str
) -> None:
    response = await client.request(method, path, headers={"Host": "evil.example"})

    assert (response.status_code, response.headers["content-type"]) == (404, "application/problem+json")
    assert "location" not in response.headers
    assert "evil" not in response.text


async def test_an_id_that_is_none_is_refused(client: httpx.AsyncClient) -> None:
    response = await client.get(f"{ITEMS}/1")

    assert response.status_code == 422
    assert response.json()["errors"][0]["parameter"] == "item_id"


async def test_reads_may_be_stored_but_must_be_revalidated(client: httpx.AsyncClient) -> None:
    url = (await create(client)).headers["location"]

    for response in (await client.get(url), await client.get(ITEMS)):
        assert response.headers["cache-control"] == "private, no-cache"
        assert response.headers["etag"]


@pytest.mark.parametrize("known", ["{tag}", "W/{tag}", '"other", {tag}', "*"])
async def test_an_unchanged_item_is_not_sent_again(client: httpx.AsyncClient, known: str) -> None:
    created = await create(client)
    header = {"If-None-Match": known.format(tag=created.headers["etag"])}

    response = await client.get(created.headers["location"], headers=header)

    assert (response.status_code, response.content) == (304, b"")
    assert response.headers["etag"] == created.headers["etag"]


async def test_a_changed_item_is_sent_again(client: httpx.AsyncClient) -> None:
    created = await create(client)
    url = created.headers["location"]
    await client.put(url, json={"name": "New"})

    response = await client.get(url, headers={"If-None-Match": created.headers["etag"]})

    assert (response.status_code, response.json()["name"]) == (200, "New")


async def test_an_unchanged_list_is_not_sent_again_and_a_changed_one_is(client: httpx.AsyncClient) -> None:
    url = (await create(client)).headers["location"]
    header = {"If-None-Match": (await client.get(ITEMS)).headers["etag"]}

    assert (await client.get(ITEMS, headers=header)).status_code == 304
    await client.put(url, json={"name": "New"})
    assert (await client.get(ITEMS, headers=header)).status_code == 200


@pytest.mark.parametrize("method", ["PUT", "DELETE"])
async def test_a_write_that_names_an_old_version_is_refused_and_changes_nothing(
    client: httpx.AsyncClient, method: str
) -> None:
    created = await create(client)
    url, seen = created.headers["location"], created.headers["etag"]
    current = await client.put(url, json={"name": "Somebody else's"}, headers={"If-Match": seen})
    assert current.status_code == 200

    body = {"name": "Mine"} if method == "PUT" else None
    for tag in (seen, "2", '"0"', '"abc"', f"W/{current.headers['etag']}", f'"{"9" * 30}"'):
        response = await client.request(method, url, json=body, headers={"If-Match": tag})
        assert response.status_code == 412

    assert (await client.get(url)).json()["name"] == "Somebody else's"
    ok = await client.request(method, url, json=body, headers={"If-Match": current.headers["etag"]})
    assert ok.is_success


@pytest.mark.parametrize("method", ["GET", "HEAD", "PUT", "DELETE"])
@pytest.mark.parametrize(
    ("tags", "holds"), [('"99"', False), ('"99", {tag}', True), ('"9,9", {tag}', True), ("W/{tag}", False), ("*", True)]
)
async def test_if_match_names_any_number_of_tags_for_every_method(
    client: httpx.AsyncClient, method: str, tags: str, holds: bool
) -> None:
    created = await create(client)

    body = {"name": "New"} if method == "PUT" else None
    header = {"If-Match": tags.format(tag=created.headers["etag"])}
    response = await client.request(method, created.headers["location"], json=body, headers=header)

    assert (response.status_code == 412, response.is_success) == (not holds, holds)


async def test_a_list_has_no_tag_that_if_match_could_name(client: httpx.AsyncClient) -> None:
    tag = (await client.get(ITEMS)).headers["etag"]

    statuses = [(await client.get(ITEMS, headers={"If-Match": tags})).status_code for tags in ("*", tag, tag[2:])]

    assert statuses == [200, 412, 412]


@pytest.mark.parametrize("field", ["If-Match", "If-None-Match"])
@pytest.mark.parametrize(("kind", "status"), [("application/json", 422), ("text/plain", 415)])
async def test_a_bad_body_is_told_before_a_precondition_that_fails(
    client: httpx.AsyncClient, field: str, kind: str, status: int
) -> None:
    created = await create(client)
    tag = created.headers["etag"] if field == "If-None-Match" else '"99"'

    headers = {field: tag, "Content-Type": kind}
    response = await client.put(created.headers["location"], content=b'{"name": 7}', headers=headers)

    assert response.status_code == status


async def test_a_change_behind_a_precondition_that_held_is_not_overwritten(
    app: Telemetry, client: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    items = app.fastapi.state.items
    created = await create(client)
    url, get = created.headers["location"], items.get

    async def get_late(item_id: UUID) -> Item:
        item: Item = await get(item_id)
        await items.replace(item_id, ItemData("Somebody else's"))
        return item

    monkeypatch.setattr(items, "get", get_late)
    response = await client.put(url, json={"name": "Mine"}, headers={"If-Match": created.headers["etag"]})
    monkeypatch.undo()

    assert (response.status_code, response.json()["detail"]) == (412, "The item was replaced meanwhile.")
    assert (await client.get(url)).json()["name"] == "Somebody else's"


@pytest.mark.parametrize("shown", [ItemOut, ItemPage])
def test_a_representation_has_another_revision_after_each_change_of_its_fields(shown: type[Any]) -> None:
    names = [(field.name, field.type) for field in fields(shown)]

    def revision(*changed: tuple[str, Any]) -> str:
        return routes._revision(make_dataclass(shown.__name__, changed, namespace={"__doc__": shown.__doc__}))

    same = revision(*names)
    assert same == routes._revision(shown)
    assert same not in {revision(*names[1:]), revision(*names, ("more", str)), revision((names[0][0], int), *names[1:])}


async def test_entity_tags_have_the_revision_of_what_is_shown(
    client: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = (await create(client)).headers["location"]
    known = {path: {"If-None-Match": (await client.get(path)).headers["etag"]} for path in (url, ITEMS)}

    for name in ("_ITEM_REVISION", "_PAGE_REVISION"):
        monkeypatch.setattr(routes, name, "another")

    assert [(await client.get(path, headers=header)).status_code for path, header in known.items()] == [200, 200]
    header = {"If-Match": known[url]["If-None-Match"]}
    assert (await client.put(url, json={"name": "New"}, headers=header)).status_code == 412


@pytest.mark.parametrize(
    "path",
    ["/", ITEMS, "/health/live", "/docs", "/docs/oauth2-redirect", "/docs/static/swagger-ui.css", "/openapi.json"],
)
async def test_head_is_answered_wherever_get_is(client: httpx.AsyncClient, path: str) -> None:
    assert (await client.head(path)).status_code == 200


@pytest.mark.parametrize("chunked", [False, True], ids=["with its length", "chunked"])
async def test_a_body_that_is_too_long_is_refused(client: httpx.AsyncClient, chunked: bool) -> None:
    async def chunks() -> AsyncIterator[bytes]:
        for _ in range(3):
            yield b"x" * 500_000

    content = chunks() if chunked else b"x" * 1_500_000
    response = await client.post(ITEMS, content=content, headers={"Content-Type": "application/json"})

    assert response.status_code == 413
    assert response.headers["x-correlation-id"]
    assert response.headers["content-type"] == "application/problem+json"


async def test_a_length_that_no_body_has_is_refused(client: httpx.AsyncClient) -> None:
    response = await client.post(ITEMS, content=b"{}", headers={"Content-Length": "9" * 5000})

    assert response.status_code == 413


async def test_if_match_with_a_star_accepts_any_version(client: httpx.AsyncClient) -> None:
    url = (await create(client)).headers["location"]

    assert (await client.put(url, json={"name": "New"}, headers={"If-Match": "*"})).status_code == 200


async def test_the_root_tells_where_things_are(client: httpx.AsyncClient) -> None:
    index = (await client.get("/")).json()

    for entrance in ("items", "health", "documentation"):
        assert (await client.get(index[entrance])).status_code == 200


@pytest.mark.parametrize(("digest", "image"), [("0123456789ab", "0123456789ab"), ("", None)])
async def test_the_root_tells_which_image_it_is(digest: str, image: str | None, settings: Settings) -> None:
    async with client_of(create_app(settings.model_copy(update={"image_digest": digest}))) as client:
        assert (await client.get("/")).json()["image"] == image


async def test_the_documentation_page_loads_nothing_from_elsewhere(client: httpx.AsyncClient) -> None:
    page = (await client.get("/docs")).text

    assert "://" not in page
    for asset in ("swagger-ui-bundle.js", "swagger-ui.css", "favicon.png"):
        assert f"/docs/static/{asset}" in page
        assert (await client.get(f"/docs/static/{asset}")).status_code == 200


async def test_registering_a_router_keeps_everything_its_routes_say(app: Telemetry) -> None:
    async def depended_on() -> None:
        raise HTTPException(418, "the dependency was called")

    router = APIRouter(prefix="/teapots", tags=["tea"], dependencies=[Depends(depended_on)])

    @router.post(
        "/{size}", status_code=202, deprecated=True, operation_id="brew", responses={409: {"description": "x"}}
    )
    async def brew(size: int) -> dict[str, int]:
        """Brew some tea."""
        return {"size": size}

    class OwnRoute(APIRoute):
        """Routes of this class answer as they like."""

        def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
            async def handle(request: Request) -> Response:
                return PlainTextResponse("its own")

            return handle

    own = APIRouter(route_class=OwnRoute)
    own.get("/own")(depended_on)
    register(app.fastapi, own)
    included = FastAPI(openapi_url=None, responses=ANYWHERE)
    included.include_router(router)
    register(app.fastapi, router)

    assert app.fastapi.openapi()["paths"]["/teapots/{size}"] == included.openapi()["paths"]["/teapots/{size}"]
    async with client_of(app) as client:
        assert (await client.post("/teapots/1")).status_code == 418
        assert (await client.get("/own")).text == "its own"
        app.fastapi.dependency_overrides[depended_on] = lambda: None
        assert (await client.post("/teapots/1")).status_code == 202


def test_what_is_no_api_route_cannot_be_registered(app: Telemetry) -> None:
    router = APIRouter()
    router.mount("/files", FastAPI())

    with pytest.raises(TypeError, match="no API route"):
        register(app.fastapi, router)
