"""What a client may send: exactly the limit, and not a byte more; what is refused reaches nothing behind."""

import json
from typing import Any

import pytest

from app.core.config import Settings
from app.core.limits import Limits

URI, HEADER, BODY = 300, 2000, 5000

Headers = list[tuple[bytes, bytes]]


async def ask(
    path: bytes = b"/", query: bytes = b"", headers: Headers | None = None
) -> tuple[int, Any, dict[str, str]]:
    """Status, document and headers of the response; 200 is that of the application behind."""
    settings = Settings.model_validate(
        {
            "environment": "test",
            "storage_url": "memory://",
            "max_uri_bytes": URI,
            "max_header_bytes": HEADER,
            "max_body_bytes": BODY,
        }
    )
    sent: list[Any] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"{}"})

    async def receive() -> Any:
        pytest.fail("no limit needs the body")

    async def send(message: Any) -> None:
        sent.append(message)

    scope = {"type": "http", "path": "/", "raw_path": path, "query_string": query, "headers": headers or []}
    await Limits(app, settings)(scope, receive, send)
    start, body = sent
    return start["status"], json.loads(body["body"]), {k.decode(): v.decode() for k, v in start["headers"]}


def length(*values: bytes) -> Headers:
    return [(b"content-length", value) for value in values]


@pytest.mark.parametrize(
    ("path", "query", "headers", "status"),
    [
        pytest.param(b"/" * URI, b"", [], 200, id="path at the limit"),
        pytest.param(b"/" * (URI + 1), b"", [], 414, id="path over it"),
        pytest.param(b"/", b"a" * (URI - 1), [], 200, id="path and query at the limit"),
        pytest.param(b"/", b"a" * URI, [], 414, id="path and query over it"),
        pytest.param(b"/%ff" * 75, b"", [], 200, id="path as it was sent, at the limit"),
        pytest.param(b"/%ff" * 76, b"", [], 414, id="path as it was sent, over it"),
        pytest.param(b"/", b"", [(b"x", b"a" * (HEADER - 1))], 200, id="header at the limit"),
        pytest.param(b"/", b"", [(b"x", b"a" * HEADER)], 431, id="header over it"),
        pytest.param(b"/", b"", [(b"a" * HEADER, b"")], 200, id="name at the limit"),
        pytest.param(b"/", b"", [(b"a" * HEADER, b"a")], 431, id="name over it"),
        pytest.param(b"/", b"", [(b"x", b"a")] * (HEADER // 2), 200, id="many fields at the limit"),
        pytest.param(b"/", b"", [(b"x", b"a")] * (HEADER // 2 + 1), 431, id="many fields over it"),
        pytest.param(b"/", b"", length(b"%d" % BODY), 200, id="body at the limit"),
        pytest.param(b"/", b"", length(b"%d" % (BODY + 1)), 413, id="body over it"),
        pytest.param(b"/", b"", length(b"0" * 10 + b"%d" % BODY), 200, id="length with zeros"),
        pytest.param(b"/", b"", length(b"1", b"%d" % (BODY + 1)), 413, id="the longer of two lengths"),
        pytest.param(b"/", b"", length(b"%d" % (BODY + 1), b"1"), 413, id="the longer of two lengths, first"),
        pytest.param(b"/", b"", length(b"9" * 1900), 413, id="length beyond any number"),
        pytest.param(b"/", b"", length(b"-1"), 200, id="no length"),
        pytest.param(b"/", b"", length(b"\xb2"), 200, id="a digit of another script"),
        pytest.param(b"/", b"", [(b"transfer-encoding", b"chunked")], 200, id="unknown length"),
        pytest.param(b"/", b"a" * URI, [(b"x", b"a" * HEADER)], 414, id="everything over the limit"),
    ],
)
async def test_a_request_may_be_as_long_as_the_limit(path: bytes, query: bytes, headers: Headers, status: int) -> None:
    assert (await ask(path, query, headers))[0] == status


@pytest.mark.parametrize(
    ("query", "headers", "status", "limit"),
    [(b"a" * URI, [], 414, URI), (b"", [(b"x", b"a" * HEADER)], 431, HEADER), (b"", length(b"99999"), 413, BODY)],
)
async def test_a_refusal_names_the_limit_and_ends_the_connection(
    query: bytes, headers: Headers, status: int, limit: int
) -> None:
    _, problem, fields = await ask(query=query, headers=headers)

    assert problem["status"] == status
    assert f" {limit} bytes" in problem["detail"]
    assert (fields["connection"], fields["content-type"]) == ("close", "application/problem+json")
