"""The template of the route that served a request, for example `/api/v1/items/{item_id}`: the label for its path.

A scope names the route or endpoint that was chosen, but without the prefixes of the routers (since FastAPI 0.137) and
mounts that lead there, or with those in the client's spelling. So the tree of routes is walked once, and what a scope
names is looked up.
"""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cached_property
from http import HTTPStatus
from itertools import chain
from typing import Any, NamedTuple

from fastapi import FastAPI
from fastapi.routing import RouteContext, iter_route_contexts
from starlette.routing import BaseRoute, Host, Match, Mount, WebSocketRoute
from starlette.types import Scope

from app.core import probe

# One label for every path that no route knows; the path itself would be a series for each scanner's guess.
UNMATCHED = "__unmatched__"

_REDIRECTS = frozenset({HTTPStatus.TEMPORARY_REDIRECT, HTTPStatus.PERMANENT_REDIRECT})


class Place(NamedTuple):
    """Where requests end: a route, or all that a mounted application makes of paths that are no route's.

    `way` leads there, from the outermost mount to the route or mount itself.
    """

    template: str
    way: tuple[RouteContext, ...]

    @property
    def is_mount(self) -> bool:
        """Whether the end of the way is a mount."""
        return isinstance(self.way[-1].original_route, Mount | Host)

    def fits(self, scope: Scope) -> bool:
        """Whether the way leads there for this path, whatever the method."""
        for step in self.way:
            match, child_scope = step.matches(scope)
            if match is Match.NONE:
                return False
            scope = {**scope, **child_scope}
        return True


class RouteTemplates:
    """Finds the template of the route that served a request, by two look-ups at most however many routes there are.

    Only where one route or endpoint stands in several places, the path tells which, and only those are compared. Routes
    belong to an application before its first request; later ones are found too, but by matching all.

    Args:
        fastapi: the application that the routes belong to.
    """

    def __init__(self, fastapi: FastAPI) -> None:
        self._fastapi = fastapi

    def find(self, scope: Scope, status: int = 200) -> str:
        """The template, or `UNMATCHED`: never anything that a client chose.

        Args:
            scope: of a request, HTTP or WebSocket, once the application has handled it.
            status: of the response. A redirect that no route made counts for the route that it leads to.
        """
        template = self._certain.get(id(scope.get("route")))
        return self._search(scope, status) if template is None else template

    def _search(self, scope: Scope, status: int) -> str:
        endpoint = scope.get("endpoint")
        places = self._named.get(id(scope.get("route"))) or self._named.get(id(endpoint)) or []
        if status in _REDIRECTS and all(place.is_mount for place in places):
            return self._redirected(scope)
        if len(places) == 1:
            return places[0].template
        if endpoint is None:
            return UNMATCHED
        # Where none fits, the route came late, or its application hides it.
        return _first(chain(places, _places(self._fastapi.routes)), scope, scope["path"])

    def _redirected(self, scope: Scope) -> str:
        """The template of the route with or without the slash at the end, else of the same path by another scheme."""
        path = scope["path"]
        other = path.rstrip("/") if path.endswith("/") else f"{path}/"
        places = list(_places(self._fastapi.routes))
        for candidates, target in (
            ([place for place in places if not place.is_mount], other),
            (places, path),
            (places, other),
        ):
            if (template := _first(candidates, scope, target)) != UNMATCHED:
                return template
        return UNMATCHED

    @cached_property
    def _named(self) -> Mapping[int, Sequence[Place]]:
        """Each place by the identity of what a scope may name it by; two of the same template are one."""
        places: dict[int, dict[str, Place]] = defaultdict(dict)
        for place in _places(self._fastapi.routes):
            end = place.way[-1]
            for name in (end.app,) if place.is_mount else (end.original_route, end.endpoint):
                places[id(name)].setdefault(place.template, place)
        return {name: tuple(found.values()) for name, found in places.items()}

    @cached_property
    def _certain(self) -> Mapping[int, str]:
        """The templates of routes that stand in one place only: nearly all, and nearly all requests end here."""
        return {
            name: places[0].template
            for name, places in self._named.items()
            if len(places) == 1 and not places[0].is_mount
        }


def known_routes(fastapi: FastAPI) -> Iterator[tuple[str, str]]:
    """Method and template of each route for HTTP, those of mounted applications included and probes excluded."""
    for place in _places(fastapi.routes):
        for method in getattr(place.way[-1], "methods", None) or ():
            if place.template not in probe.PATHS and method != "HEAD":
                yield method, place.template


def known_websockets(fastapi: FastAPI) -> Iterator[str]:
    """The template of each route for WebSockets."""
    for place in _places(fastapi.routes):
        if isinstance(place.way[-1].original_route, WebSocketRoute):
            yield place.template


def _places(routes: Sequence[BaseRoute], prefix: str = "", way: tuple[RouteContext, ...] = ()) -> Iterator[Place]:
    """Every place, in the order in which requests are matched; a mount after all that is in it."""
    for step in iter_route_contexts(routes):
        template = f"{prefix}{step.path_format or ''}"
        here = (*way, step)
        if isinstance(step.original_route, Mount | Host):
            root = template.removesuffix("/{path}")
            yield from _places(step.routes or _routes_within(step.app), root, here)
            yield Place(f"{root}/{{path}}", here)
        elif step.path_format is not None:
            yield Place(template, here)


def _routes_within(app: Any) -> Sequence[BaseRoute]:
    """The routes of an application that middleware wraps; that it is called `app` there is convention."""
    while not hasattr(app, "routes") and hasattr(app, "app"):
        app = app.app
    return getattr(app, "routes", ())


def _first(places: Iterable[Place], scope: Scope, path: str) -> str:
    """The template of the first place that a path leads to, else `UNMATCHED`."""
    # As the outermost application got it: each mount on the way has left its own traces in the scope.
    fresh = {
        "type": scope["type"],
        "method": scope.get("method"),
        "path": path,
        "root_path": scope.get("app_root_path", scope.get("root_path", "")),
        "headers": scope["headers"],
    }
    return next((place.template for place in places if place.fits(fresh)), UNMATCHED)
