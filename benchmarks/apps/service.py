"""The service as shipped, with `THING_ROUTES` more routes that go the way of its own: through `app.api.register`."""

import os
import sys

from app import api
from app.__main__ import main
from app.api import routes
from fastapi import APIRouter, FastAPI
from resource_api import thing_routers

register = api.register


def register_more(app: FastAPI, router: APIRouter) -> None:
    """Register a router; after the items, the routers that a growing service would have."""
    register(app, router)
    if router is routes.router:
        for more in thing_routers("/api/v1", int(os.environ.get("THING_ROUTES", "0"))):
            register(app, more)


api.register = register_more
sys.exit(main([]))
