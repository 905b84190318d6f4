"""Every error is a problem document with the correlation id, whatever went wrong where."""

import httpx
import pytest
from fastapi import APIRouter, HTTPException, Request
from starlette.routing import Mount, Route
from starlette.types import Receive, Scope, Send

from app.core.errors import _invalid_field
from app.core.telemetry import Telemetry

ID = "abc-123"


@pytest.fixture
def app(app: Telemetry) -> Telemetry:
    """The application with two more routes, which fail."""

    async def fail() -> None:
        raise RuntimeError("the secret cause")

    async def raw(scope: Scope, receive: Receive, send: Send) -> None:
        raise RuntimeError("outside of every router")

    app.fastapi.get("/fail")(fail)
    app.fastapi.mount("/raw", raw)
    return app


async def test_a_route_that_reads_encoded_bodies_says_itself_what_is_wrong_with_one(
    app: Telemetry, client: httpx.AsyncClient
) -> None:
    @app.fastapi.post("/encoded")
    async def encoded() -> None:
        raise HTTPException(400, "The checksum is wrong.")

    response = await client.post("/encoded", content=b"x", headers={"Content-Encoding": "gzip"})

    assert (response.status_code, response.json()["detail"]) == (400, "The checksum is wrong.")


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/nowhere", 404),
        ("PATCH", "/api/v1/items", 405),
        ("POST", "/api/v1/items", 422),
        ("GET", "/fail", 500),
        ("GET", "/raw/anything", 500),
    ],
)
async def test_an_error_is_a_problem_document(client: httpx.AsyncClient, method: str, path: str, status: int) -> None:
    response = await client.request(method, path, headers={"X-Correlation-ID": ID})

    document = response.json()
    assert response.status_code == document["status"] == status
    assert response.headers["content-type"] == "application/problem+json"
    assert response.headers["x-correlation-id"] == document["correlation_id"] == ID
    assert document["instance"] == path
    assert document["title"]


async def test_an_unhandled_exception_keeps_its_cause_to_itself(client: httpx.AsyncClient) -> None:
    assert "secret" not in (await client.get("/fail")).text


@pytest.mark.parametrize(
    ("status", "detail", "title"),
    [(409, {"code": "x"}, "Conflict"), (499, "closed", "Error"), (418, ["a", 1], "I'm a Teapot")],
)
async def test_an_endpoint_may_raise_any_status_with_any_detail(
    app: Telemetry, client: httpx.AsyncClient, status: int, detail: object, title: str
) -> None:
    @app.fastapi.get("/raise")
    async def refuse() -> None:
        raise HTTPException(status, detail)

    response = await client.get("/raise")

    assert response.status_code == status
    assert (response.json()["title"], response.json()["detail"]) == (title, detail)


PHRASES = {
    413: "Content Too Large",
    414: "URI Too Long",
    416: "Range Not Satisfiable",
    422: "Unprocessable Content",
    503: "Service Unavailable",
}


@pytest.mark.parametrize(("status", "phrase"), PHRASES.items())
async def test_the_title_is_the_phrase_of_rfc_9110_whatever_python_calls_it(
    app: Telemetry, client: httpx.AsyncClient, status: int, phrase: str
) -> None:
    @app.fastapi.get("/raise")
    async def refuse() -> None:
        raise HTTPException(status)

    problem = (await client.get("/raise")).json()

    assert problem["title"] == phrase
    assert "detail" not in problem


def test_openapi_describes_errors_by_the_phrases_of_rfc_9110(app: Telemetry) -> None:
    described = app.fastapi.openapi()["paths"]["/api/v1/items"]["get"]["responses"]

    found = {int(status): response["description"] for status, response in described.items()}
    assert found.items() >= {status: phrase for status, phrase in PHRASES.items() if status != 416}.items()


async def test_an_error_whose_status_allows_no_body_has_none(app: Telemetry, client: httpx.AsyncClient) -> None:
    @app.fastapi.get("/raise")
    async def refuse() -> None:
        raise HTTPException(304, headers={"ETag": '"1"'})

    response = await client.get("/raise")

    assert (response.status_code, response.content, response.headers["etag"]) == (304, b"", '"1"')


@pytest.mark.parametrize(
    ("path", "allowed"),
    [
        ("/api/v1/items", {"GET", "HEAD", "POST"}),
        ("/docs", {"GET", "HEAD"}),
        ("/docs/static/", {"GET", "HEAD"}),
        ("/docs/static/swagger-ui.css", {"GET", "HEAD"}),
        ("/included/", {"GET", "PUT"}),
        ("/mounted/route", {"GET", "HEAD"}),
        ("/mounted/", {"DELETE"}),
    ],
)
async def test_a_405_tells_what_is_allowed(
    app: Telemetry, client: httpx.AsyncClient, path: str, allowed: set[str]
) -> None:
    async def endpoint(request: Request) -> None:
        raise HTTPException(500)

    included = APIRouter(prefix="/included")
    included.get("/")(endpoint)
    included.put("/")(endpoint)
    app.fastapi.include_router(included)
    mounted = [Route("/route", endpoint), Route("/", endpoint, methods=["DELETE"])]
    app.fastapi.router.routes.append(Mount("/mounted", routes=mounted))

    response = await client.patch(path)

    assert (response.status_code, set(response.headers["allow"].split(", "))) == (405, allowed)


async def test_what_was_sent_is_not_repeated(client: httpx.AsyncClient) -> None:
    response = await client.post("/api/v1/items", json={"name": "x", "price": "my password"})

    assert response.status_code == 422
    assert "my password" not in response.text


async def test_a_pointer_escapes_what_json_pointer_reserves() -> None:
    assert _invalid_field("missing", ("body", "a/b~c", 0), "x").pointer == "#/a~1b~0c/0"
