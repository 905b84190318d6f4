"""No secret reaches a line, whatever it is wrapped in, and what is none stays readable."""

import json
import time
from typing import Any
from urllib.parse import quote

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel, SecretStr

from app.core.config import Settings
from app.core.redaction import REDACTED, is_secret, plain, text, traceback_text

HEADERS = ["Authorization", "Proxy-Authorization", "Cookie", "Set-Cookie", "X-Api-Key", "X-Auth-Token"]
NAMES = [*HEADERS, "password", "api_key", "access_token", "clientSecret", "DB_PASSWORD", "token", "private-key"]

# What no other part of a text has.
secrets = st.text(st.characters(min_codepoint=0x21, max_codepoint=0x7E), min_size=8, max_size=30).map(
    lambda body: f"Zq7{body.replace(REDACTED, '')}Zq7"
)
# Without what ends an unquoted value; the two ends would still be found.
words = secrets.map(lambda secret: "".join(c for c in secret if c not in "\"'&\\"))


class Credentials(BaseModel):
    """A model with a secret that was not declared as one."""

    password: str
    declared: SecretStr


@pytest.mark.parametrize(
    "name",
    [
        *NAMES,
        "PGPASSWORD",
        "accessToken",
        "APIKey",
        "api%5Fkey",
        "token[]",
        "X-Amz-Signature",
        "session_id",
        "db.passwd",
    ],
)
def test_a_name_tells_a_secret(name: str) -> None:
    assert is_secret(name)


@pytest.mark.parametrize(
    "name",
    [
        *("keyboard", "monkey", "key", "primary_key", "tokenizer", "secretary", "cookieless", "path", "compass"),
        *("tokens_used", "token_type", "password_length", "secret_name", "cookie_count", "design", "signal"),
    ],
)
def test_other_names_do_not(name: str) -> None:
    assert not is_secret(name)


@pytest.mark.parametrize(
    "value",
    [
        *(
            "GET /api/v1/items",
            "https://host:8080/a@b",
            "https://unpkg.com/@scope/package",
            "invalid token: expected }",
        ),
        *("127.0.0.1:8000", "::1", "a=b&c=d", "{'a': 'b'}", "amqp://host:5672/vhost", "it's 12:30", "x" * 8_192),
    ],
)
def test_what_holds_no_secret_is_left_alone(value: str) -> None:
    assert text(value) == value


def test_numbers_of_tokens_and_the_lack_of_a_secret_are_told() -> None:
    fields = {"max_tokens": 5, "password": None, "token": True}

    assert plain(fields) == fields


@given(name=st.sampled_from(NAMES), secret=secrets)
def test_a_secret_under_its_name_is_hidden_in_any_value(name: str, secret: str) -> None:
    values: list[Any] = [
        {name: secret},
        {name.encode(): secret.encode()},
        {"deep": [{"er": {name.upper() if "-" in name else name: [secret]}}]},
        [(name, secret)],
        [[name.encode(), secret.encode()]],
        (name, secret),
        # `repr`s, and texts that were made of them.
        repr({name: secret}),
        repr([("host", "x"), (name, secret)]),
        repr([(b"host", b"x"), (name.encode(), secret.encode())]),
        repr(["x", name, secret]),
        json.dumps({"a": "b", name: secret}),
        json.dumps({"body": json.dumps({name: secret})}),
        f"{name}={secret!r}",
        RuntimeError({name: secret}),
    ]
    for value in values:
        shown = orjson.dumps(plain(value)).decode()
        assert "Zq7" not in shown, value
        assert REDACTED in shown


@given(name=st.sampled_from(NAMES), secret=words)
def test_a_secret_in_a_query_or_a_header_line_is_hidden(name: str, secret: str) -> None:
    lines = [
        f"/path?{name}={secret}",
        f"GET /path?a=b&{name}={quote(secret)}&c=d HTTP/1.1",
        f"https://host/?{name}={quote(secret)}#fragment",
        f"amqp://host/vhost?{name}={quote(secret)}",
        f"cannot open 'https://host/?{name}={quote(secret)}', giving up",
    ]
    if name in HEADERS:
        lines += [f"{name}: {secret}", f"GET / HTTP/1.1\r\nHost: x\r\n{name.lower()}: Bearer {secret}\r\n"]
    for line in lines:
        assert "Zq7" not in text(line), line


@given(
    secret=secrets.filter(lambda secret: "://" not in secret),
    host=st.sampled_from(["host", "10.0.0.1:5672", "[::1]:5672", "a,b:1"]),
)
def test_the_user_information_of_a_url_is_hidden(secret: str, host: str) -> None:
    for user in ("user", "", "user%40x"):
        url = f"redis+tls://{user}:{secret}@{host}/vhost"
        for line in (url, f"cannot reach {url}: refused", f"{url} {url}", repr({"url": url}), f"a://b,{url}"):
            assert "Zq7" not in text(line), line
        assert text(url).endswith(f"@{host}/vhost")


@given(secret=words)
def test_settings_and_models_show_no_secret(secret: str) -> None:
    url = f"amqp://user:{quote(secret)}@host/vhost"
    for value in (
        Settings.model_construct(storage_url=SecretStr(url)),
        Credentials(password=secret, declared=SecretStr(secret)),
        Credentials(password=url, declared=SecretStr(secret)).model_dump(),
    ):
        assert secret not in json.dumps(plain(value))
        assert quote(secret) not in json.dumps(plain(value))


@given(secret=secrets.filter(lambda secret: "://" not in secret), before=st.integers(0, 9_000))
def test_a_secret_is_not_laid_bare_by_what_is_left_out(secret: str, before: int) -> None:
    for line in (f"{'x ' * (before // 2)}amqp://user:{secret}@host", f"{'x ' * (before // 2)}?token={secret}"):
        assert secret[:11] not in text(line)
        assert secret[:11] not in traceback_text(line)


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.binary() | st.dates() | st.uuids(),
        lambda inner: st.lists(inner) | st.dictionaries(st.text() | st.integers(), inner) | st.tuples(inner, inner),
    )
)
def test_every_value_becomes_json(value: Any) -> None:
    json.loads(orjson.dumps(plain(value)))


@pytest.mark.parametrize(
    "piece",
    [*"ax\\'\"=:[/%-. ", "://a:b", "a=", "'a',", "'token':", "token=", "token='", "a-", "authorization:", "://", "%25"],
)
def test_a_hostile_text_costs_linear_time(piece: str) -> None:
    def seconds(length: int) -> float:
        value = (piece * length)[:length]
        best = float("inf")
        for _ in range(5):
            began = time.thread_time()
            text(value)
            best = min(best, time.thread_time() - began)
        return best

    # Four times as long would take 16 times as long if it were quadratic.
    assert seconds(8_000) < 10 * seconds(2_000) + 0.002
