"""The HTTP interface: one module for each group of endpoints."""

from inspect import signature
from typing import Any

from fastapi import APIRouter, FastAPI
from fastapi.routing import APIRoute


def register(app: FastAPI, *routers: APIRouter) -> None:
    """Register the routes of routers, which have their full prefix, on the application itself.

    `include_router` would do as well, but since FastAPI 0.137 it keeps routers as a tree and searches it for each
    request. Routes are tried in order: name the router that is asked most first. What answers GET answers HEAD too
    (RFC 9110, section 9.1); OpenAPI need not repeat that. HEAD and the documentation come last.
    """
    documentation = app.router.routes.copy()
    app.router.routes.clear()
    routes = [_arguments(route) for router in routers for route in router.routes]
    for route in routes:
        app.router.add_api_route(**route)
    for route in routes:
        if route["methods"] == {"GET"}:
            app.router.add_api_route(**route | {"methods": ["HEAD"], "include_in_schema": False})
    app.router.routes += documentation


def _arguments(route: object) -> dict[str, Any]:
    """What has to be said to `add_api_route` to get this route again."""
    if not isinstance(route, APIRoute):
        raise TypeError(f"{route!r} is no API route: add it to the application directly")
    names = signature(APIRouter.add_api_route).parameters
    return {name: getattr(route, name) for name in names if hasattr(route, name)} | {
        "route_class_override": type(route)
    }
