"""The service keeps the promises of its OpenAPI document, whatever it is sent.

How many cases that are depends on the profile of hypothesis: see `tests/conftest.py`.
"""

import asyncio
import json
from typing import Any
from urllib.parse import quote_from_bytes, unquote

import schemathesis
from hypothesis import example, given, settings
from hypothesis import strategies as st
from schemathesis.config import SchemathesisConfig

from app.core.config import Settings
from app.main import create_app

APP = create_app(Settings.model_validate({"environment": "test", "storage_url": "memory://"}))
ITEMS = "/api/v1/items"

CONFIG = {
    "checks": {
        # No schema says what a cursor or an entity tag is, or that more digits than a price has are too many.
        "positive_data_acceptance": {"expected-statuses": ["2xx", "3xx", "400", "404", "412", "422"]},
    }
}
SCHEMA = schemathesis.openapi.from_asgi("/openapi.json", APP, config=SchemathesisConfig.from_dict(CONFIG))
DECLARED = {
    (method.upper(), path): {int(status) for status in operation["responses"]}
    for path, operations in APP.fastapi.openapi()["paths"].items()
    for method, operation in operations.items()
}


@SCHEMA.parametrize()
def test_an_operation_keeps_its_promises(case: schemathesis.Case[Any]) -> None:
    case.call_and_validate()


def test_a_sequence_of_operations_keeps_their_promises() -> None:
    fewer = settings(max_examples=max(5, settings().max_examples // 10))

    SCHEMA.as_state_machine().run(settings=fewer)


# Lone surrogates among it.
TEXT = st.text(st.characters(exclude_categories=()))
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | TEXT,
    lambda inner: st.lists(inner) | st.dictionaries(TEXT, inner),
    max_leaves=10,
)
NUMBERS = st.integers().map(str) | st.decimals().map(str) | st.integers(1, 6000).map(lambda digits: "9" * digits)
BODIES = st.binary() | st.one_of(
    JSON,
    st.fixed_dictionaries({"name": st.text() | JSON}, optional={"description": JSON, "price": JSON | NUMBERS}),
).map(lambda document: json.dumps(document).encode())
# Without what no parser lets through.
VALUES = st.binary().map(lambda value: value.translate(None, bytes([*range(9), *range(10, 32), 127])))
NAMES = st.sampled_from(
    [
        *(b"accept", b"authorization", b"content-encoding", b"content-length", b"content-type", b"cookie", b"expect"),
        *(b"host", b"if-match", b"if-none-match", b"range", b"traceparent", b"tracestate", b"x-correlation-id"),
    ]
)
TAGS = st.sampled_from([b"*", b"{tag}", b"W/{tag}", b'{tag}, "2"', b'"2"'])
HEADERS = st.lists(
    st.tuples(NAMES, VALUES)
    | st.tuples(st.sampled_from([b"if-match", b"if-none-match"]), TAGS)
    | st.just((b"content-type", b"application/json")),
    max_size=5,
)
QUOTED = st.binary().map(quote_from_bytes)
TARGETS = st.one_of(
    st.sampled_from(["/", ITEMS, "{item}", "/openapi.json", "/docs", "/health/ready"]),
    QUOTED.map(lambda part: f"{ITEMS}/{part}"),
    QUOTED.map(lambda path: f"/{path}"),
)
QUERIES = st.one_of(
    st.just(""),
    QUOTED,
    st.lists(st.tuples(st.sampled_from(["limit", "cursor"]), QUOTED | NUMBERS)).map(
        lambda pairs: "&".join(f"{name}={value}" for name, value in pairs)
    ),
)
METHODS = st.sampled_from(["GET", "HEAD", "POST", "PUT", "DELETE", "PATCH", "OPTIONS", "QUERY"])


class Exchange:
    """One request straight to the application: bytes that no client library would send."""

    def __init__(self, method: str, target: str, query: str, headers: list[tuple[bytes, bytes]], body: bytes) -> None:
        self.status = 0
        self.headers: dict[bytes, bytes] = {}
        self.body = b""
        self._sent = body
        self.scope: dict[str, Any] = {
            "type": "http",
            "asgi": {"version": "3.0"},
            "http_version": "1.1",
            "method": method,
            "scheme": "http",
            "path": unquote(target),
            "raw_path": target.encode(),
            "query_string": query.encode(),
            "root_path": "",
            "headers": headers,
            "server": ("test", 80),
            "client": ("192.0.2.1", 1),
        }

    async def run(self) -> None:
        await APP(self.scope, self._receive, self._send)

    async def _receive(self) -> dict[str, Any]:
        return {"type": "http.request", "body": self._sent, "more_body": False}

    async def _send(self, message: Any) -> None:
        if message["type"] == "http.response.start":
            self.status, self.headers = message["status"], dict(message["headers"])
        else:
            self.body += message.get("body", b"")


def send(method: str, target: str, query: str, headers: list[tuple[bytes, bytes]], body: bytes) -> Exchange:
    exchange = Exchange(method, target, query, headers, body)
    asyncio.run(exchange.run())
    return exchange


@given(METHODS, TARGETS, QUERIES, HEADERS, BODIES)
@example("POST", ITEMS, "", [(b"content-type", b"application/json")], b'{"name":"\\ud800"}')
@example("POST", ITEMS, "", [(b"content-type", b"application/json")], b"[" * 100_000)
@example("GET", ITEMS, "x=" + "a" * 9000, [], b"")
@example("GET", ITEMS, "", [(b"x", b"a" * 20_000)], b"")
@example("DELETE", "{item}", "", [(b"content-length", b"9" * 5000)], b"")
@example("GET", ITEMS, "cursor=%F0%9F%98%80", [(b"if-none-match", b"\xff")], b"")
def test_whatever_is_sent_gets_an_answer_that_is_declared(
    method: str, target: str, query: str, headers: list[tuple[bytes, bytes]], body: bytes
) -> None:
    if target == "{item}":
        created = send("POST", ITEMS, "", [(b"content-type", b"application/json")], b'{"name": "x"}')
        target = created.headers[b"location"].decode()
        headers = [(name, value.replace(b"{tag}", created.headers[b"etag"])) for name, value in headers]

    answer = send(method, target, query, headers, body)

    assert answer.status < 500
    if answer.status >= 400:
        problem = json.loads(answer.body)
        assert answer.headers[b"content-type"] == b"application/problem+json"
        assert problem["status"] == answer.status
        assert problem["correlation_id"].encode() == answer.headers[b"x-correlation-id"]
    template = getattr(answer.scope.get("route"), "path", None)
    declared = DECLARED.get(("GET" if method == "HEAD" else method, template or ""))
    assert declared is None or answer.status in declared
