"""Every error is a problem document (RFC 9457), always with the request's correlation id."""

from collections.abc import Awaitable, Callable, Mapping
from http import HTTPStatus
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.routing import iter_route_contexts
from fastapi.utils import is_body_allowed_for_status_code
from pydantic import BaseModel, Field
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse, Response
from starlette.routing import Match

from app.core.correlation import correlation_id

MEDIA_TYPE = "application/problem+json"

# nginx's status for a client that left before it had one: seen in telemetry, never sent.
CLIENT_CLOSED_REQUEST = 499

_PYTHONS_PHRASES = {status.value: status.phrase for status in HTTPStatus}
# Those of RFC 9110, section 15.5: Python has them since 3.13.
_PHRASES = _PYTHONS_PHRASES | {
    413: "Content Too Large",
    414: "URI Too Long",
    416: "Range Not Satisfiable",
    422: "Unprocessable Content",
}


class InvalidField(BaseModel):
    """One thing wrong with a request: a place in its body, or a parameter of its path, query or headers."""

    pointer: str | None = Field(None, description="A JSON Pointer into the body (RFC 6901), for example `#/name`.")
    parameter: str | None = Field(None, description="The parameter's name.")
    detail: str


class Problem(BaseModel):
    """A problem document (RFC 9457, section 3). `type` is absent: every problem here is what its status says."""

    title: str
    status: int
    detail: Any = Field(None, description="Text, or whatever else an endpoint chose to say.")
    instance: str | None = Field(None, description="The path; absent where the request had none.")
    correlation_id: str | None
    errors: list[InvalidField] | None = None


class ProblemResponse(JSONResponse):
    """A problem document with the status it names."""

    media_type = MEDIA_TYPE


def problem(
    path: str | None,
    status: int,
    detail: Any = None,
    *,
    errors: list[InvalidField] | None = None,
    headers: Mapping[str, str] | None = None,
) -> ProblemResponse:
    """The response for an error on `path`; without one where the request was none."""
    document = Problem(
        title=title(status),
        status=status,
        detail=detail,
        instance=path,
        correlation_id=correlation_id.get(),
        errors=errors,
    )
    return ProblemResponse(document.model_dump(exclude_none=True), status_code=status, headers=headers)


def title(status: int) -> str:
    """The phrase of a status, also of one that no RFC knows."""
    return _PHRASES.get(status, "Error")


def responses(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """How OpenAPI shows these error statuses of a route."""
    content = {MEDIA_TYPE: {"schema": {"$ref": "#/components/schemas/Problem"}}}
    described: dict[int | str, dict[str, Any]] = {
        status: {"description": title(status), "content": content} for status in statuses
    }
    if unavailable := described.get(HTTPStatus.SERVICE_UNAVAILABLE):
        unavailable["headers"] = {"Retry-After": {"description": "Seconds.", "schema": {"type": "integer"}}}
    return described


# What can happen to any request: it is too long, or the service fails, is full or is too slow.
ANYWHERE = responses(413, 414, 431, 500, 503, 504)


def install(app: FastAPI, known: Mapping[type[Exception], tuple[int, str]]) -> None:
    """Answer every error that reaches the framework with a problem document, and describe it in OpenAPI.

    Args:
        app: the application.
        known: status and detail for exceptions of the domain.
    """
    for kind, (status, detail) in known.items():
        app.add_exception_handler(kind, _known(status, detail))
    app.exception_handler(HTTPException)(_http_error)
    app.exception_handler(RequestValidationError)(_invalid_request)
    app.exception_handler(Exception)(_unhandled)
    generate = app.openapi
    schema = Problem.model_json_schema(ref_template="#/components/schemas/{model}")
    schemas = {**schema.pop("$defs"), "Problem": schema}

    def openapi() -> dict[str, Any]:
        document = generate()
        document.setdefault("components", {}).setdefault("schemas", {}).update(schemas)
        return document

    app.openapi = openapi  # type: ignore[method-assign]


def _known(status: int, detail: str) -> Callable[[Request, Exception], Awaitable[ProblemResponse]]:
    async def handle(request: Request, error: Exception) -> ProblemResponse:
        # Whoever is told to come back is told when (RFC 9110, section 10.2.3).
        retry_after = {"Retry-After": str(getattr(error, "retry_after", 1))}
        headers = retry_after if status == HTTPStatus.SERVICE_UNAVAILABLE else None
        return problem(request.url.path, status, detail, headers=headers)

    return handle


async def _http_error(request: Request, error: HTTPException) -> Response:
    status, headers = error.status_code, dict(error.headers or {})
    if not is_body_allowed_for_status_code(status):
        return Response(status_code=status, headers=headers)
    # It has a cause where it is FastAPI's, of a body that cannot be read.
    if status == HTTPStatus.BAD_REQUEST and error.__cause__ is not None and _is_encoded(request):
        return _unsupported_encoding(request)
    # What a mount refuses it knows best: from within it, the path leads to other routes.
    if status == HTTPStatus.METHOD_NOT_ALLOWED and "app_root_path" not in request.scope:
        headers["Allow"] = _allowed_methods(request)
    if status == HTTPStatus.REQUEST_ENTITY_TOO_LARGE:
        # The rest of the body is not worth reading.
        headers["Connection"] = "close"
    # Starlette fills an absent detail with Python's phrase, which would say the same thing twice.
    detail = None if error.detail == _PYTHONS_PHRASES.get(status) else error.detail
    return problem(request.url.path, status, detail, headers=headers)


def _allowed_methods(request: Request) -> str:
    """Every method of the path (RFC 9110, section 15.5.6); Starlette tells those of the first route it finds."""
    allowed: set[str] = set()
    for route in iter_route_contexts(request.app.routes):
        if route.matches(request.scope)[0] is not Match.NONE:
            allowed |= route.methods or set()
    return ", ".join(sorted(allowed))


async def _invalid_request(request: Request, error: RequestValidationError) -> ProblemResponse:
    found = error.errors()
    # A body that is no JSON by its type stays bytes, which no model takes.
    if any(one["loc"] == ("body",) and one["type"] != "missing" for one in found) and not _is_json(request):
        detail = "A body has to be JSON: send it with Content-Type: application/json."
        return problem(request.url.path, 415, detail, headers={"Accept": "application/json"})
    if any(one["type"] == "json_invalid" for one in found) and _is_encoded(request):
        return _unsupported_encoding(request)
    # What was sent is not repeated: it may be a secret in the wrong field, or not even be text.
    errors = [_invalid_field(one["type"], one["loc"], one["msg"]) for one in found]
    return problem(request.url.path, 422, "The request has invalid fields.", errors=errors)


def _is_json(request: Request) -> bool:
    """Whether the body says that it is JSON (RFC 8259, and the `+json` of RFC 6839)."""
    media_type = request.headers.get("Content-Type", "").partition(";")[0].strip().lower()
    return media_type == "application/json" or (media_type.startswith("application/") and media_type.endswith("+json"))


def _is_encoded(request: Request) -> bool:
    return request.headers.get("Content-Encoding", "identity").lower() != "identity"


def _unsupported_encoding(request: Request) -> ProblemResponse:
    detail = "A body has to come as it is, without Content-Encoding."
    return problem(request.url.path, 415, detail, headers={"Accept-Encoding": "identity"})


async def _unhandled(request: Request, _: Exception) -> ProblemResponse:
    return problem(request.url.path, 500, "An unexpected error occurred; the correlation id finds it in the logs.")


def _invalid_field(kind: str, location: tuple[int | str, ...], detail: str) -> InvalidField:
    source, *path = location
    if source != "body":
        return InvalidField(parameter=".".join(str(part) for part in path), detail=detail)
    if kind == "json_invalid":
        path = []
    tokens = [str(part).replace("~", "~0").replace("/", "~1") for part in path]
    return InvalidField(pointer="/".join(["#", *tokens]), detail=detail)
