"""The OpenAPI document tells the truth about errors."""

import json
from typing import Any

import pytest

from app.core.telemetry import Telemetry


@pytest.fixture
def document(app: Telemetry) -> dict[str, Any]:
    """The document as clients get it."""
    content: dict[str, Any] = json.loads(json.dumps(app.fastapi.openapi()))
    return content


def test_every_error_of_an_item_is_a_problem_document(document: dict[str, Any]) -> None:
    for path, operations in document["paths"].items():
        if not path.startswith("/api/"):
            continue
        for operation in operations.values():
            for status, response in operation["responses"].items():
                if status >= "400":
                    assert list(response["content"]) == ["application/problem+json"], (path, status)


ANYWHERE = {413, 414, 431, 500, 503, 504}


@pytest.mark.parametrize(
    ("method", "path", "statuses"),
    [
        ("get", "/", {200}),
        ("get", "/health/live", {200}),
        ("get", "/health/ready", {200}),
        ("get", "/api/v1/items", {200, 304, 412, 422}),
        ("post", "/api/v1/items", {201, 400, 408, 415, 422}),
        ("get", "/api/v1/items/{item_id}", {200, 304, 404, 412, 422}),
        ("put", "/api/v1/items/{item_id}", {200, 400, 404, 408, 412, 415, 422}),
        ("delete", "/api/v1/items/{item_id}", {204, 404, 412, 422}),
    ],
)
def test_an_operation_declares_every_status_that_it_has(
    document: dict[str, Any], method: str, path: str, statuses: set[int]
) -> None:
    responses = document["paths"][path][method]["responses"]

    assert {int(status) for status in responses} == statuses | ANYWHERE
    # A probe that fails says so itself.
    assert ("headers" in responses["503"]) is (path != "/health/ready")


def test_every_reference_has_its_schema(document: dict[str, Any]) -> None:
    def references(node: Any) -> set[str]:
        if isinstance(node, dict):
            own = {node["$ref"]} if isinstance(node.get("$ref"), str) else set()
            return own.union(*(references(value) for value in node.values()))
        if isinstance(node, list):
            return set().union(*(references(value) for value in node))
        return set()

    schemas = document["components"]["schemas"]
    assert {reference.rpartition("/")[2] for reference in references(document)} <= set(schemas)
    assert "HTTPValidationError" not in schemas


def test_without_documentation_there_is_no_page_and_no_document() -> None:
    from app.core.config import Settings
    from app.main import create_app

    app = create_app(Settings.model_validate({"storage_url": "memory://", "docs_enabled": False}))

    assert not {getattr(route, "path", "") for route in app.fastapi.routes} & {"/docs", "/redoc", "/openapi.json"}
