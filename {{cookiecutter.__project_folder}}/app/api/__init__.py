"""The HTTP interface: one module for each group of endpoints."""

from inspect import signature

from fastapi import APIRouter, FastAPI
from fastapi.routing import APIRoute


def register(app: FastAPI, router: APIRouter) -> None:
    """Register the routes of a router, which has its full prefix, on the application itself.

    `include_router` would do as well, but since FastAPI 0.137 it keeps routers as a tree and searches it for each
    request. What answers GET answers HEAD too (RFC 9110, section 9.1); OpenAPI need not repeat that.
    """
    arguments = signature(APIRouter.add_api_route).parameters
    for route in router.routes:
        if not isinstance(route, APIRoute):
            raise TypeError(f"{route!r} is no API route: add it to the application directly")
        said = {name: getattr(route, name) for name in arguments if hasattr(route, name)}
        said["route_class_override"] = type(route)
        app.router.add_api_route(**said)
        if route.methods == {"GET"}:
            app.router.add_api_route(**said | {"methods": ["HEAD"], "include_in_schema": False})
