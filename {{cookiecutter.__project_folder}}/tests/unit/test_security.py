"""The headers that keep browsers from making more of a response than it is."""

import re
from html.parser import HTMLParser

import httpx
import pytest
from fastapi.responses import HTMLResponse

from app.core import security
from app.core.telemetry import Telemetry
from tests.support import client_of

API = "default-src 'none'; frame-ancestors 'none'"
DOCUMENTATION = "default-src 'self' 'unsafe-inline'; img-src 'self' data:; frame-ancestors 'none'"


@pytest.mark.parametrize("scheme", ["http", "https"])
@pytest.mark.parametrize(
    ("path", "policy"),
    [
        ("/", API),
        ("/api/v1/items", API),
        ("/openapi.json", API),
        ("/api/docs", API),
        ("/docsets", API),
        ("/docs", DOCUMENTATION),
        ("/docs/static/swagger-ui.css", DOCUMENTATION),
    ],
)
def test_only_the_documentation_may_load_anything(path: str, policy: str, scheme: str) -> None:
    headers = dict(security.headers({"path": path, "scheme": scheme}))

    expected = {
        b"x-content-type-options": b"nosniff",
        b"content-security-policy": policy.encode(),
    }
    # Browsers must not be told by HTTP that there is HTTPS.
    assert headers == expected | ({b"strict-transport-security": b"max-age=31536000"} if scheme == "https" else {})


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/", 200),
        ("GET", "/health/live", 200),
        ("GET", "/docs", 200),
        ("GET", "/docs/static/swagger-ui.css", 200),
        ("GET", "/api/v1/items/", 404),
        ("GET", "/nowhere", 404),
        ("PATCH", "/", 405),
        ("GET", "/?" + "a" * 9000, 414),
        ("POST", "/api/v1/items", 422),
        ("GET", "/fail", 500),
    ],
)
async def test_every_response_has_the_headers_once(app: Telemetry, method: str, path: str, status: int) -> None:
    @app.fastapi.get("/fail")
    async def fail() -> None:
        raise RuntimeError

    async with client_of(app) as client:
        response = await client.request(method, path)

    assert response.status_code == status
    for name, value in security.headers({"path": path, "scheme": "http"}):
        assert response.headers.get_list(name.decode()) == [value.decode()]


async def test_a_route_may_have_a_policy_of_its_own(app: Telemetry) -> None:
    own = {"Content-Security-Policy": "default-src 'self'"}

    @app.fastapi.get("/page")
    async def page() -> HTMLResponse:
        return HTMLResponse("<p>", headers=own)

    async with client_of(app) as client:
        response = await client.get("/page")

    assert response.headers.get_list("Content-Security-Policy") == list(own.values())
    assert response.headers["X-Content-Type-Options"] == "nosniff"


class Sources(HTMLParser):
    """Finds what a page loads."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.found: list[str] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert tag not in {"iframe", "object", "embed", "base", "form"}
        self.found += [value or "" for name, value in attrs if name in {"src", "href"}]


@pytest.mark.parametrize("path", ["/docs", "/docs/oauth2-redirect"])
async def test_the_documentation_needs_no_more_than_its_policy_allows(client: httpx.AsyncClient, path: str) -> None:
    page = await client.get(path)
    sources = Sources(page.text).found

    assert page.status_code == 200
    assert [source for source in sources if not source.startswith("/docs/static/")] == []
    for source in sources:
        assert (await client.get(source)).status_code == 200
    # What its own scripts fetch is of this origin too; `eval` is what the policy does not allow.
    assert "://" not in page.text
    assert "eval(" not in page.text


async def test_the_styles_of_the_documentation_hold_their_images(client: httpx.AsyncClient) -> None:
    styles = (await client.get("/docs/static/swagger-ui.css")).text

    assert {source.strip("\"'").partition("/")[0] for source in re.findall(r"url\(([^)]*)", styles)} == {"data:image"}
