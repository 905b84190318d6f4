"""Bare FastAPI as its documentation shows it: routers in routers, every default, no telemetry."""

import os

from fastapi import APIRouter, FastAPI
from resource_api import items_router, thing_routers

app = FastAPI()

api = APIRouter(prefix="/api/v1")
api.include_router(items_router("/items"))
for router in thing_routers("", int(os.environ.get("THING_ROUTES", "0"))):
    api.include_router(router)
app.include_router(api)
