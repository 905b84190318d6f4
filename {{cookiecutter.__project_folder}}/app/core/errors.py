"""Every error is a problem document (RFC 9457), always with the request's correlation id."""

from collections.abc import Awaitable, Callable, Mapping
from http import HTTPStatus
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.utils import is_body_allowed_for_status_code
from pydantic import BaseModel, Field
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse, Response

from app.core.correlation import correlation_id

MEDIA_TYPE = "application/problem+json"


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
    instance: str
    correlation_id: str | None
    errors: list[InvalidField] | None = None


class ProblemResponse(JSONResponse):
    """A problem document with the status it names."""

    media_type = MEDIA_TYPE


def problem(
    path: str,
    status: int,
    detail: Any = None,
    *,
    errors: list[InvalidField] | None = None,
    headers: Mapping[str, str] | None = None,
) -> ProblemResponse:
    """The response for an error on `path`."""
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
    return HTTPStatus(status).phrase if status in set(HTTPStatus) else "Error"


def responses(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """How OpenAPI shows these error statuses of a route."""
    content = {MEDIA_TYPE: {"schema": {"$ref": "#/components/schemas/Problem"}}}
    return {status: {"description": HTTPStatus(status).phrase, "content": content} for status in statuses}


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
    async def handle(request: Request, _: Exception) -> ProblemResponse:
        return problem(request.url.path, status, detail)

    return handle


async def _http_error(request: Request, error: HTTPException) -> Response:
    if not is_body_allowed_for_status_code(error.status_code):
        return Response(status_code=error.status_code, headers=error.headers)
    # Starlette fills an absent detail with the title, which would say the same thing twice.
    detail = None if error.detail == title(error.status_code) else error.detail
    return problem(request.url.path, error.status_code, detail, headers=error.headers)


async def _invalid_request(request: Request, error: RequestValidationError) -> ProblemResponse:
    # What was sent is not repeated: it may be a secret in the wrong field, or not even be text.
    errors = [_invalid_field(one["type"], one["loc"], one["msg"]) for one in error.errors()]
    return problem(request.url.path, 422, "The request has invalid fields.", errors=errors)


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
