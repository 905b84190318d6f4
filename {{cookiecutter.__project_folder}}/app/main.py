"""The wiring of the application, and nothing else."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from fastapi import FastAPI
from fastapi.routing import APIRoute
from fastapi_offline import FastAPIOffline
from starlette.types import ASGIApp

from app import api
from app.api import health, index, routes
from app.core import errors, saturation, security
from app.core.config import FACTS, Settings, connect_storage, load_settings
from app.core.lifecycle import Readiness
from app.core.limits import Limits
from app.core.metrics import Metrics
from app.core.resilience import Deadline, LoadShedding
from app.core.telemetry import Telemetry
from app.core.tracing import Tracing
from app.storage.guard import GuardedItems


def create_app(settings: Settings | None = None) -> Telemetry:
    """Build the application: an ASGI app with the FastAPI one at `.fastapi`.

    Args:
        settings: from the environment when absent.

    Raises:
        SettingsError: the environment is unusable.
    """
    settings = settings or load_settings()
    metrics = Metrics(settings)
    items = GuardedItems(connect_storage(settings), settings, metrics)
    items.observe(metrics.registry)

    fastapi = _fastapi(settings)
    fastapi.state.settings = settings
    fastapi.state.metrics = metrics
    fastapi.state.items = items
    fastapi.state.readiness = Readiness(
        items.check, settings.health_check_cache_seconds, settings.health_check_timeout_seconds
    )
    errors.install(fastapi, routes.ERRORS)
    api.register(fastapi, routes.router, index.router, health.router)

    # From the inside out: what is refused must not cost what is behind it, and everything is seen by telemetry.
    app: ASGIApp = Deadline(fastapi, settings, metrics)
    app = LoadShedding(app, settings, metrics)
    app = Limits(app, settings)
    tracing = Tracing(settings, metrics.telemetry_dropped.labels("spans").inc)
    return Telemetry(app, fastapi, settings, metrics, tracing)


def _fastapi(settings: Settings) -> FastAPI:
    arguments: dict[str, Any] = {
        "title": FACTS.service.title,
        "description": FACTS.service.description,
        "version": settings.service_version,
        "lifespan": lifespan,
        "redoc_url": None,
        "responses": errors.ANYWHERE,
        # Redirects to the path with or without its slash name scheme and host as the request has them: behind a gateway
        # they would send the body once more, in clear text, to whatever host the client wrote.
        "redirect_slashes": False,
        # One source of truth: `core/telemetry.py` sees more than FastAPI's own instrumentation, and once.
        "telemetry": {"tracing": False, "metrics": False, "logs": False},
    }
    if settings.docs_enabled:
        # FastAPI's own page loads its scripts from a CDN, which a service behind a firewall does not reach.
        path = security.DOCUMENTATION_PATH
        fastapi = FastAPIOffline(docs_url=path, static_url=f"{path}/static", **arguments)
        # What answers GET answers HEAD (RFC 9110, section 9.1).
        for page in fastapi.routes:
            if isinstance(page, APIRoute):
                page.methods = {"GET", "HEAD"}
        return fastapi
    return FastAPI(docs_url=None, openapi_url=None, **arguments)


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    """What must be open while requests are served. In production it needs no dependency: readiness tells of those."""
    watch = asyncio.create_task(saturation.watch(app.state.metrics))
    try:
        await app.state.items.open()
        app.state.readiness.started = True
        yield
    finally:
        watch.cancel()
        await app.state.items.close()
