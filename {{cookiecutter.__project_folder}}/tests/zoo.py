"""The service with a route of every kind, for tests of what requests leave behind: `python -m tests.zoo`.

Each line on standard input is an order: `mark x` logs an event of its own behind everything before it, `census` logs
how many objects there are, and `release` lets go on whatever waits in a route.
"""

import asyncio
import gc
import os
import sys
import threading
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from contextvars import ContextVar
from typing import Annotated, Any

import structlog
from fastapi import APIRouter, BackgroundTasks, Body, Depends, FastAPI, HTTPException, Request, WebSocket
from fastapi.responses import PlainTextResponse, RedirectResponse, StreamingResponse
from fastapi.sse import EventSourceResponse
from pydantic import BaseModel
from starlette.applications import Starlette
from starlette.middleware.base import BaseHTTPMiddleware
from starlette.middleware.cors import CORSMiddleware
from starlette.responses import Response
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles
from starlette.types import ASGIApp, Receive, Scope, Send

from app import api
from app.core.config import Settings, load_settings
from app.core.lifecycle import serve
from app.core.telemetry import Telemetry
from app.main import create_app
from tests.support import ROOT

COUNTED = frozenset(
    {
        "prometheus_client.metrics",
        "prometheus_client.values",
        "structlog._config",
        "structlog._native",
        "structlog.stdlib",
    }
)
ORIGIN = "https://ui.example"

log = structlog.get_logger()


class Gate:
    """Where routes wait until the test lets them go on."""

    def __init__(self) -> None:
        self._loop: asyncio.AbstractEventLoop | None = None
        self._open = asyncio.Event()

    async def wait(self) -> None:
        self._loop = asyncio.get_running_loop()
        await self._open.wait()

    def release(self) -> None:
        """Let those go on that wait now. Runs in any thread."""
        if self._loop is not None:
            self._loop.call_soon_threadsafe(self._release)

    def _release(self) -> None:
        self._open.set()
        self._open = asyncio.Event()


gate = Gate()

touched: ContextVar[bool] = ContextVar("touched", default=False)


def obey() -> None:
    """Follow the orders on standard input."""
    for order in sys.stdin:
        verb, _, argument = order.strip().partition(" ")
        if verb == "mark":
            log.info("mark", mark=argument)
        elif verb == "census":
            log.info("census", objects=census())
        else:
            gate.release()


def census() -> dict[str, int]:
    """How many objects are alive of those that a label, a logger or a span could leave behind."""
    gc.collect()
    counted = Counter(type(alive).__name__ for alive in gc.get_objects() if type(alive).__module__ in COUNTED)
    return dict(sorted(counted.items()))


async def word_of(word: str) -> str:
    return word


async def moved(word: str) -> RedirectResponse:
    return RedirectResponse(f"/word/{word}")


async def fail() -> None:
    raise RuntimeError("boom")


async def starlette_endpoint(request: Request) -> PlainTextResponse:
    return PlainTextResponse("ok")


async def raw(scope: Scope, receive: Receive, send: Send) -> None:
    await PlainTextResponse("raw")(scope, receive, send)


async def raw_fails(scope: Scope, receive: Receive, send: Send) -> None:
    raise RuntimeError("boom")


async def raw_says_nothing(scope: Scope, receive: Receive, send: Send) -> None:
    """Break the protocol."""


async def opens_badly() -> AsyncIterator[None]:
    await fail()
    yield


async def closes_badly() -> AsyncIterator[None]:
    yield
    await fail()


class Promise(BaseModel):
    """What a route says that it answers."""

    number: int


async def fresh() -> str:
    """Whether nothing is left in its context of a request before it."""
    was_touched = touched.get()
    touched.set(True)
    return "touched" if was_touched else "ok"


def add_plain(app: FastAPI) -> None:
    """Routes on the application itself."""

    @app.get("/plain")
    async def plain() -> str:
        return "ok"

    @app.get("/thread")
    def thread() -> str:
        return "ok"

    app.get("/fresh")(fresh)
    app.get("/word/{word}")(word_of)
    app.get("/also/{word}")(word_of)
    app.get("/files/{word:path}")(word_of)
    app.add_route("/starlette/{word}", starlette_endpoint)
    app.get("/moved/{word}")(moved)

    @app.post("/upload")
    async def upload(request: Request) -> int:
        return len(await request.body())

    @app.post("/json")
    async def json(body: Annotated[dict[str, Any], Body()]) -> int:
        return len(body)

    @app.get("/teapot")
    async def teapot() -> None:
        raise HTTPException(418, "short and stout")

    @app.get("/busy")
    async def busy() -> None:
        raise HTTPException(503, "later")

    @app.get("/wait")
    async def wait() -> str:
        await gate.wait()
        return "ok"

    @app.get("/watch")
    async def watch(request: Request) -> str:
        while not await request.is_disconnected():  # noqa: ASYNC110 - no event tells of it
            await asyncio.sleep(0)
        return "nobody reads this"


def add_streams(app: FastAPI) -> None:
    """Responses in parts."""

    @app.get("/stream")
    async def stream() -> StreamingResponse:
        return StreamingResponse(iter([b"a", b"b"]))

    @app.get("/events", response_class=EventSourceResponse)
    async def events() -> AsyncIterator[dict[str, int]]:
        yield {"n": 1}
        yield {"n": 2}

    @app.get("/endless")
    async def endless() -> StreamingResponse:
        async def body() -> AsyncIterator[bytes]:
            yield b"first"
            while True:
                await gate.wait()
                yield b"more"

        return StreamingResponse(body())

    @app.get("/half")
    async def half() -> StreamingResponse:
        async def body() -> AsyncIterator[bytes]:
            yield b"half"
            await fail()

        return StreamingResponse(body())

    @app.get("/half/threaded")
    async def half_threaded() -> StreamingResponse:
        def body() -> Iterator[bytes]:
            yield b"half"
            raise RuntimeError("boom")

        return StreamingResponse(body())


def add_background(app: FastAPI) -> None:
    """Routes that go on when their response is over."""

    @app.get("/background")
    async def background(tasks: BackgroundTasks) -> str:
        tasks.add_task(log.info, "background task")
        return "ok"

    @app.get("/background/fails")
    async def background_fails(tasks: BackgroundTasks) -> str:
        tasks.add_task(fail)
        return "ok"


def add_failures(app: FastAPI) -> None:
    """Exceptions that nobody handles."""
    app.get("/fail")(fail)
    app.get("/fail/dependency", dependencies=[Depends(fail)])(fail)
    app.get("/fail/opening", dependencies=[Depends(opens_badly)])(fail)

    @app.get("/fail/closing", dependencies=[Depends(closes_badly)])
    async def closing() -> str:
        return "ok"

    @app.get("/fail/promise", response_model=Promise)
    async def promise() -> dict[str, str]:
        return {"number": "many"}


def add_routers(app: FastAPI) -> None:
    """Routes that stand in routers."""
    flat = APIRouter(prefix="/flat")
    flat.get("/{word}")(word_of)
    api.register(app, flat)
    inner, outer = APIRouter(prefix="/inner"), APIRouter(prefix="/outer")
    inner.get("/{word}")(word_of)
    inner.mount("/mount/{tenant}", sub_application())
    outer.include_router(inner)
    for prefix in ("", "/again"):
        app.include_router(outer, prefix=prefix)


def sub_application() -> FastAPI:
    """An application to mount."""
    sub = FastAPI()
    sub.get("/x/{word}")(word_of)
    sub.get("/fail")(fail)
    sub.get("/index/")(starlette_endpoint)
    return sub


def add_mounts(app: FastAPI) -> None:
    """Applications within the application."""
    twice, deep = sub_application(), FastAPI()
    deep.mount("/lower/{level}", sub_application())
    for path in ("/one", "/two"):
        app.mount(path, twice)
    app.mount("/tenant/{tenant}", sub_application())
    app.mount("/deep/{depth}", deep)
    app.mount("/static", StaticFiles(directory=ROOT / "app"))
    app.mount("/starlettes", Starlette(routes=[Route("/y/{word}", starlette_endpoint), Mount("/z", raw)]))
    app.mount("/raw", raw)
    app.mount("/raw-fails", raw_fails)
    app.mount("/raw-says-nothing", raw_says_nothing)


def add_websockets(app: FastAPI) -> None:
    """WebSockets, well and badly behaved."""
    router = APIRouter(prefix="/ws")

    @router.websocket("/echo/{word}")
    async def echo(websocket: WebSocket, word: str) -> None:
        await websocket.accept()
        await websocket.send_text(f"{word} {await websocket.receive_text()}")
        await websocket.close(4001)

    @router.websocket("/listen")
    async def listen(websocket: WebSocket) -> None:
        await websocket.accept()
        while True:
            await websocket.receive_text()

    @router.websocket("/return")
    async def leave(websocket: WebSocket) -> None:
        await websocket.accept()

    @router.websocket("/refuse")
    async def refuse(websocket: WebSocket) -> None:
        await websocket.close()

    @router.websocket("/deny")
    async def deny(websocket: WebSocket) -> None:
        raise HTTPException(401, "who are you?")

    @router.websocket("/fail")
    async def fails(websocket: WebSocket) -> None:
        await fail()

    @router.websocket("/fail/later")
    async def fails_later(websocket: WebSocket) -> None:
        await websocket.accept()
        await fail()

    @router.websocket("/wait")
    async def wait(websocket: WebSocket) -> None:
        await gate.wait()
        await websocket.accept()

    app.include_router(router)
    sub = FastAPI()
    sub.websocket("/echo/{word}")(echo)
    app.mount("/tenant-ws/{tenant}", sub)


class Doorman:
    """Middleware as plain ASGI: answers one path by itself, and fails on another."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and scope["path"] == "/door/closed":
            await Response(status_code=401)(scope, receive, send)
        elif scope["type"] == "http" and scope["path"] == "/door/broken":
            await fail()
        else:
            await self._app(scope, receive, send)


async def dispatch(request: Request, call_next: Callable[[Request], Awaitable[Response]]) -> Response:
    """Middleware in the way that most tutorials show."""
    if request.url.path == "/dispatch/broken":
        await fail()
    response = await call_next(request)
    response.headers["X-Dispatched"] = "yes"
    return response


@asynccontextmanager
async def broken_lifespan(app: FastAPI) -> AsyncIterator[None]:
    await fail()
    yield


def build(settings: Settings) -> Telemetry:
    """The service with all of it."""
    app = create_app(settings)
    fastapi = app.fastapi
    for add in (add_plain, add_streams, add_background, add_failures, add_routers, add_mounts, add_websockets):
        add(fastapi)
    if "dispatch" in os.environ.get("ZOO", ""):
        fastapi.add_middleware(BaseHTTPMiddleware, dispatch=dispatch)
    fastapi.add_middleware(Doorman)
    fastapi.add_middleware(CORSMiddleware, allow_origins=[ORIGIN])
    if "broken lifespan" in os.environ.get("ZOO", ""):
        fastapi.router.lifespan_context = broken_lifespan
    return app


if __name__ == "__main__":
    threading.Thread(target=obey, daemon=True).start()
    sys.exit(serve(load_settings(), build))
