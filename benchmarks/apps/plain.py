"""The service's own routes, models and store behind the same server flags, without telemetry and without guards.

The other side of "same routes and server flags": what is missing here is all that the template puts around routes,
which is telemetry, limits, load shedding, the deadline, the breaker with its retries, and the stricter HTTP parser.
"""

import gc
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import uvicorn
from app import api
from app.api import index, routes
from app.core import errors
from app.core.config import connect_storage, load_settings
from fastapi import FastAPI
from resource_api import thing_routers


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    """Open the store while requests are served."""
    await app.state.items.open()
    yield
    await app.state.items.close()


settings = load_settings()
fastapi = FastAPI(
    docs_url=None,
    redoc_url=None,
    openapi_url=None,
    lifespan=lifespan,
    telemetry={"tracing": False, "metrics": False, "logs": False},
)
fastapi.state.settings = settings
fastapi.state.items = connect_storage(settings)
errors.install(fastapi, routes.ERRORS)
things = thing_routers("/api/v1", int(os.environ.get("THING_ROUTES", "0")))
api.register(fastapi, routes.router, index.router, *things)
config = uvicorn.Config(
    fastapi,
    host=settings.http_host,
    port=settings.http_port,
    log_config=None,
    access_log=False,
    reset_contextvars=True,
    server_header=False,
    proxy_headers=bool(settings.forwarded_allow_ips),
    forwarded_allow_ips=settings.forwarded_allow_ips,
    timeout_keep_alive=settings.keep_alive_seconds,
    timeout_graceful_shutdown=settings.graceful_shutdown_seconds,
)
gc.collect()
gc.freeze()
uvicorn.Server(config).run()
