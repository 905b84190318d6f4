"""The service as shipped, with `THING_ROUTES` more routes that go the way of its own: through `app.api.register`."""

import os
import sys

from app import api
from app.__main__ import main
from fastapi import APIRouter, FastAPI
from resource_api import thing_routers

register = api.register


def register_more(app: FastAPI, *routers: APIRouter) -> None:
    """Register routers, and after them those that a growing service would have."""
    register(app, *routers, *thing_routers("/api/v1", int(os.environ["THING_ROUTES"])))


api.register = register_more
sys.exit(main([]))
