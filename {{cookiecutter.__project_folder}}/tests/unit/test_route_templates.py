"""Which template a request is labelled with, for every way that leads to a route."""

import pytest
from fastapi import APIRouter, FastAPI, WebSocket
from starlette.applications import Starlette
from starlette.middleware.gzip import GZipMiddleware
from starlette.requests import Request
from starlette.responses import PlainTextResponse, RedirectResponse
from starlette.routing import Host, Mount, Route
from starlette.types import Message, Receive, Scope, Send

from app.core.route_templates import UNMATCHED, RouteTemplates, known_routes, known_websockets


async def endpoint(word: str = "") -> str:
    return word


async def elsewhere() -> RedirectResponse:
    return RedirectResponse("/somewhere")


async def starlette_endpoint(request: Request) -> PlainTextResponse:
    return PlainTextResponse("x")


async def websocket_endpoint(websocket: WebSocket) -> None:
    await websocket.accept()


async def raw(scope: Scope, receive: Receive, send: Send) -> None:
    await PlainTextResponse("x")(scope, receive, send)


def application() -> FastAPI:
    """An application of its own, with one of most things."""
    app = FastAPI(docs_url=None, openapi_url=None)
    app.get("/x/{word}")(endpoint)
    app.get("/{word}/last")(endpoint)
    app.get("/index/")(endpoint)
    app.websocket("/ws/{word}")(websocket_endpoint)
    return app


@pytest.fixture(scope="module")
def fastapi() -> FastAPI:
    app = application()
    app.get("/files/{name:path}")(endpoint)
    app.get("/moved")(elsewhere)
    app.add_route("/starlette/{word}", starlette_endpoint)

    inner, outer = APIRouter(prefix="/inner"), APIRouter(prefix="/outer")
    inner.get("/{word}")(endpoint)
    inner.websocket("/ws/{word}")(websocket_endpoint)
    inner.add_route("/starlette", starlette_endpoint)
    inner.mount("/mounted/{word}", application())
    outer.include_router(inner)
    for prefix in ("", "/again"):
        app.include_router(outer, prefix=prefix)

    twice = application()
    app.mount("/one", twice)
    app.mount("/two", twice)
    app.mount("/tenant/{word}", application())
    app.mount("/number/{number:int}", application())
    deep = FastAPI()
    deep.mount("/c/{d}", application())
    app.mount("/a/{b}", deep)
    app.mount("/wrapped", GZipMiddleware(GZipMiddleware(application())))
    app.mount("/raw/{word}", raw)
    app.router.routes.append(Mount("/routes", routes=[Route("/y/{word}", starlette_endpoint), Mount("/z", raw)]))
    app.mount("/mixed", Starlette(routes=[Mount("/{word}", application())]))
    app.router.routes.append(Host("{name}.example", application()))
    return app


class Served:
    """An application and its templates."""

    def __init__(self, fastapi: FastAPI) -> None:
        self.fastapi = fastapi
        self.templates = RouteTemplates(fastapi)

    async def found(self, path: str, *, host: str = "test", root: str = "", kind: str = "http") -> tuple[str, int]:
        """The template of a request, and the status of its response."""
        statuses: list[int] = []

        async def receive() -> Message:
            return {"type": "http.request" if kind == "http" else "websocket.connect"}

        async def send(message: Message) -> None:
            if message["type"] == "http.response.start":
                statuses.append(message["status"])
            elif message["type"] == "websocket.accept":
                statuses.append(101)
            elif message["type"] == "websocket.close":
                statuses.append(403)

        scope: Scope = {
            "type": kind,
            "path": root + path,
            "raw_path": (root + path).encode(),
            "root_path": root,
            "query_string": b"",
            "headers": [(b"host", host.encode())],
            "scheme": "http",
            "server": None,
            "client": None,
            "http_version": "1.1",
            "subprotocols": [],
        }
        if kind == "http":
            scope["method"] = "GET"
        await self.fastapi(scope, receive, send)
        return self.templates.find(scope, statuses[0]), statuses[0]


@pytest.fixture(scope="module")
def served(fastapi: FastAPI) -> Served:
    return Served(fastapi)


CASES = [
    ("/x/a", "/x/{word}", 200),
    ("/nowhere", UNMATCHED, 404),
    ("/files/a/b.txt", "/files/{name}", 200),
    ("/starlette/a", "/starlette/{word}", 200),
    ("/outer/inner/a", "/outer/inner/{word}", 200),
    ("/again/outer/inner/a", "/again/outer/inner/{word}", 200),
    ("/again/outer/starlette", "/again/outer/starlette", 200),
    ("/outer/mounted/a/x/b", "/outer/mounted/{word}/x/{word}", 200),
    ("/again/outer/mounted/a/x/b", "/again/outer/mounted/{word}/x/{word}", 200),
    ("/one/x/a", "/one/x/{word}", 200),
    ("/two/x/a", "/two/x/{word}", 200),
    ("/two/nowhere", "/two/{path}", 404),
    ("/tenant/a/x/b", "/tenant/{word}/x/{word}", 200),
    ("/tenant/a/b/last", "/tenant/{word}/{word}/last", 200),
    ("/tenant/a/nowhere", "/tenant/{word}/{path}", 404),
    ("/number/7/x/b", "/number/{number}/x/{word}", 200),
    ("/number/seven/x/b", UNMATCHED, 404),
    ("/a/1/c/2/x/3", "/a/{b}/c/{d}/x/{word}", 200),
    ("/a/1/c/2/nowhere", "/a/{b}/c/{d}/{path}", 404),
    ("/a/1/nowhere", "/a/{b}/{path}", 404),
    ("/a/1/openapi.json", "/a/{b}/openapi.json", 200),
    ("/wrapped/x/a", "/wrapped/x/{word}", 200),
    ("/raw/a/b/c", "/raw/{word}/{path}", 200),
    ("/routes/y/a", "/routes/y/{word}", 200),
    ("/routes/z/a", "/routes/z/{path}", 200),
    ("/routes/nowhere", "/routes/{path}", 404),
    ("/mixed/a/x/b", "/mixed/{word}/x/{word}", 200),
    ("/mixed/a/nowhere", "/mixed/{word}/{path}", 404),
    # A redirect counts for the route that it leads to; one that a route made, for that route.
    ("/x/a/", "/x/{word}", 307),
    ("/index", "/index/", 307),
    ("/outer/inner/a/", "/outer/inner/{word}", 307),
    ("/tenant/a/x/b/", "/tenant/{word}/x/{word}", 307),
    ("/a/1/c/2/index", "/a/{b}/c/{d}/index/", 307),
    ("/routes", "/routes/{path}", 307),
    ("/moved", "/moved", 307),
]


@pytest.mark.parametrize("root", ["", "/behind/a/proxy"])
@pytest.mark.parametrize(("path", "template", "status"), CASES, ids=[path for path, _, _ in CASES])
async def test_a_request_is_labelled_with_the_whole_template(
    served: Served, path: str, template: str, status: int, root: str
) -> None:
    assert await served.found(path, root=root) == (template, status)


@pytest.mark.parametrize(
    ("path", "template", "status"),
    [
        ("/ws/a", "/ws/{word}", 101),
        ("/outer/inner/ws/a", "/outer/inner/ws/{word}", 101),
        ("/again/outer/inner/ws/a", "/again/outer/inner/ws/{word}", 101),
        ("/a/1/c/2/ws/3", "/a/{b}/c/{d}/ws/{word}", 101),
        ("/two/ws/a", "/two/ws/{word}", 101),
        ("/two/nowhere", "/two/{path}", 403),
        ("/nowhere", UNMATCHED, 403),
    ],
)
async def test_a_handshake_is_labelled_like_a_request(served: Served, path: str, template: str, status: int) -> None:
    assert await served.found(path, kind="websocket") == (template, status)


async def test_a_virtual_host_is_no_part_of_a_template(served: Served) -> None:
    assert await served.found("/hosts/last", host="a.example") == ("/{word}/last", 200)
    assert await served.found("/hosts/nowhere", host="a.example") == ("/{path}", 404)


async def test_middleware_that_redirects_to_another_scheme_counts_for_the_route_of_the_path(served: Served) -> None:
    scope = {"type": "http", "method": "GET", "path": "/x/a", "headers": []}

    assert served.templates.find(scope, 307) == "/x/{word}"
    assert served.templates.find(scope, 200) == UNMATCHED
    assert served.templates.find(scope | {"path": "/nowhere"}, 307) == UNMATCHED


async def test_routes_that_come_late_or_that_an_application_hides_get_what_is_known_of_them() -> None:
    fastapi, hidden = application(), application()

    async def hide(scope: Scope, receive: Receive, send: Send) -> None:
        await hidden(scope, receive, send)

    fastapi.mount("/hidden", hide)
    served = Served(fastapi)
    assert await served.found("/x/a") == ("/x/{word}", 200)

    fastapi.get("/late/{word}")(endpoint)

    assert await served.found("/late/a") == ("/late/{word}", 200)
    assert await served.found("/hidden/x/a") == ("/hidden/{path}", 200)


async def test_a_route_is_found_without_looking_at_any_other(monkeypatch: pytest.MonkeyPatch) -> None:
    fastapi = FastAPI()
    for number in range(100):
        fastapi.get(f"/{number}/{{word}}")(endpoint)
    served = Served(fastapi)
    await served.found("/1/a")

    def match(*_: object) -> None:
        pytest.fail("a path was compared")

    monkeypatch.setattr("app.core.route_templates.Place.fits", match)
    monkeypatch.setattr("app.core.route_templates._places", match)

    assert await served.found("/99/a") == ("/99/{word}", 200)


def test_the_routes_that_metrics_expect_are_those_that_count_requests(fastapi: FastAPI) -> None:
    routes = set(known_routes(fastapi))

    templates = {template for _, template, status in CASES if status == 200 and not template.endswith("/{path}")}
    assert {method for method, _ in routes} == {"GET"}
    assert templates <= {template for _, template in routes}
    assert {"/ws/{word}", "/a/{b}/c/{d}/ws/{word}"} <= set(known_websockets(fastapi))
    assert "/ws/{word}" not in {template for _, template in routes}
