"""What may be written where people read: secrets hidden, sizes bounded, every value reduced to what JSON knows.

A secret is told by the name it stands under (a header, a query parameter, a key, an argument in a `repr`) or by its
place in a URL (the user information). One that stands alone in a sentence cannot be told from a word.
"""

import math
import re
from collections.abc import Mapping
from datetime import date, time
from decimal import Decimal
from enum import Enum
from functools import lru_cache
from typing import Any
from urllib.parse import unquote
from uuid import UUID

REDACTED = "[redacted]"

# In characters.
LONGEST_TEXT = 8_192
LONGEST_NAME = 128
_LONGEST_TRACEBACK_LINE = 1_000
_FIRST_TRACEBACK_LINES, _LAST_TRACEBACK_LINES = 30, 70

# How much of one value that holds others is shown: characters, each part counted as 16 at least; and how deep.
_BUDGET = 16_384
_DEEPEST = 10
_CONTAINERS = (Mapping, list, tuple, set, frozenset)

_CAMEL = re.compile(r"(?<=[a-z0-9])(?=[A-Z])")
_SEPARATOR = re.compile(r"\W+")
_SECRET_NAME = re.compile(
    r"(?:passw(?:or)?d|pwd|passphrase|secret|token|authorization|cookie|credential|apikey|signature)s?(?:_|\d|$)"
    r"|(?:api|private|access|secret|signing|encryption)_?key(?!_id)"
    r"|session_?id|(?:^|_)(?:pass|sig)$"
)
# What is said about a secret is none.
_ABOUT = re.compile(r"_(?:count|expires|expires_in|expiry|length|limit|name|seconds|ttl|type|used)$")

# All of these are tried at the beginning of a word only and never go back, so that a hostile text costs linear time.
_SPACE = re.compile(r"\s")
_URL = re.compile(r"://\S++")
_NAMED = (
    # key=value: queries, forms, arguments in a `repr`.
    (
        re.compile(r"(?<![\w.%\[\]-])(?P<name>[\w.%\[\]-]++)="),
        re.compile(r"""(?P<quote>["'])(?:(?!(?<!\\)(?P=quote)).)*+(?P=quote)|[^\s&"]++"""),
    ),
    # 'key': 'value' and (b'key', b'value'): mappings, JSON (also within JSON), headers as ASGI has them.
    (
        re.compile(r"""(?<!\\)(?P<quote>\\*+["'])(?P<name>[\w.%-]++)(?P=quote)\s*+[:,]\s*+b?"""),
        re.compile(r"""(?P<quote>\\*+["'])(?:(?!(?<!\\)(?P=quote)).)*+(?:(?P=quote))?|\d[\w.]*+"""),
    ),
    # Name: value, a header. Other names have a hyphen: in prose, `token: ...` is more often about a token than one.
    (
        re.compile(
            r"(?<![\w-])(?P<name>[\w-]++(?:(?<=authorization)|(?<=cookie)|(?<=-token)|(?<=-secret)|(?<=api-key))):\s*+",
            re.IGNORECASE,
        ),
        re.compile(r"[^\r\n\"']++"),
    ),
)


@lru_cache(maxsize=2048)
def is_secret(name: str) -> bool:
    """Whether a value under this name is to be hidden: `X-Api-Key`, `accessToken` and `db_password`, not `token_type`.

    Answers are kept, for names are few; those that strangers send only push each other out.
    """
    words = _SEPARATOR.sub("_", _CAMEL.sub("_", unquote(name[:LONGEST_NAME]))).lower().rstrip("_")
    return _SECRET_NAME.search(words) is not None and _ABOUT.search(words) is None


def is_worth_hiding(name: str, value: object) -> bool:
    """Whether a value under a secret's name is one: a number of tokens is none, nor is the lack of a password."""
    if value is None or isinstance(value, bool):
        return False
    return not (isinstance(value, int) and name.lower().endswith("tokens"))


def may_need_care(value: str) -> bool:
    """A quick look whether `text` could change anything: most values are short words."""
    return "=" in value or ":" in value or "'" in value or len(value) > LONGEST_TEXT


def text(value: str) -> str:
    """A text with the secrets in it hidden, and bounded: what is left out is told."""
    return _encodable(_without_secrets(_bounded(value, LONGEST_TEXT)))


def traceback_text(value: str) -> str:
    """A traceback likewise. Of a long one, the beginning is kept and the end, which names the error."""
    lines = [_bounded(line, _LONGEST_TRACEBACK_LINE) for line in value.splitlines()]
    if (left_out := len(lines) - _FIRST_TRACEBACK_LINES - _LAST_TRACEBACK_LINES) > 0:
        lines[_FIRST_TRACEBACK_LINES:-_LAST_TRACEBACK_LINES] = [f"... [{left_out} lines left out]"]
    return _encodable(_without_secrets("\n".join(lines)))


def plain(value: Any) -> Any:
    """A value as JSON can show it, whatever it is; its secrets hidden, its size bounded. Never raises."""
    return _Plain().convert(value)


def _bounded(value: str, longest: int) -> str:
    if len(value) <= longest:
        return value
    begin = value[:longest]
    url = begin.rfind("://")
    if url >= 0 and not _SPACE.search(begin, url):
        # Cut before its `@`, a password would look like a port.
        begin = begin[:url]
    return f"{begin}... [{len(value) - len(begin)} characters left out]"


def _encodable(value: str) -> str:
    """The text without lone surrogates, which have no place in UTF-8."""
    return value.encode("utf-8", "backslashreplace").decode()


def _without_secrets(value: str) -> str:
    if "://" in value:
        value = _URL.sub(_without_user_information, value)
    for name, secret in _NAMED:
        value = _without_named(value, name, secret)
    return value


def _without_user_information(match: re.Match[str]) -> str:
    return "://".join(_hidden_authority(part) for part in match[0].split("://"))


def _hidden_authority(rest: str) -> str:
    """What stands behind `://`, without the user information (RFC 3986, section 3.2.1)."""
    authority = re.split(r"[/?#]", rest, maxsplit=1)[0]
    end = authority.rfind("@")
    user, colon, port = authority.partition(":")
    if colon and not port.isdigit() and not user.startswith("["):
        # A password, maybe with a special character that should have been written as %XX.
        end = rest.rfind("@")
    return rest if end < 0 else f"{REDACTED}{rest[end:]}"


def _without_named(value: str, name: re.Pattern[str], secret: re.Pattern[str]) -> str:
    """The text without what matches `secret` behind a `name` that tells so."""
    parts, end = [], 0
    for match in name.finditer(value):
        if match.start() < end or not is_secret(match["name"]):
            continue
        if hidden := secret.match(value, match.end()):
            parts += [value[end : match.end()], REDACTED]
            end = hidden.end()
    return "".join([*parts, value[end:]])


class _Plain:
    """Converts the parts of one value; what all of them may take is bounded."""

    def __init__(self) -> None:
        self._left = _BUDGET

    def convert(self, value: Any, depth: int = 0) -> Any:
        self._left -= 16
        try:
            if isinstance(value, Enum):
                value = value.value
            if isinstance(value, _CONTAINERS):
                return self._parts(value, depth)
            shown = _single(value)
            return self._text(shown) if isinstance(shown, str) else shown
        except Exception as error:  # noqa: BLE001 - a log call must not fail because a value does
            return f"<{type(value).__name__} that raised {type(error).__name__}>"

    def _parts(self, value: Any, depth: int) -> Any:
        if depth == _DEEPEST or self._left <= 0:
            return "..."
        match value:
            case Mapping():
                return self._mapping(value, depth)
            case (str() | bytes() as key, item) if _hides(_name(key), item):
                # A header, as ASGI and httpx have it.
                return [_name(key), REDACTED]
            case _:
                return self._items(value, depth)

    def _mapping(self, value: Mapping[Any, Any], depth: int) -> dict[str, Any]:
        shown: dict[str, Any] = {}
        for key, item in value.items():
            if self._left <= 0:
                shown["..."] = f"{len(value) - len(shown)} left out"
                break
            name = _name(key)
            shown[self._text(name)] = REDACTED if _hides(name, item) else self.convert(item, depth + 1)
        return shown

    def _items(self, value: Any, depth: int) -> list[Any]:
        shown: list[Any] = []
        for item in value:
            if self._left <= 0:
                shown.append(f"... {len(value) - len(shown)} left out")
                break
            shown.append(self.convert(item, depth + 1))
        return shown

    def _text(self, value: str) -> str:
        shown = text(_bounded(value, max(0, self._left)))
        self._left -= len(shown)
        return shown


def _hides(name: str, value: object) -> bool:
    return is_secret(name) and is_worth_hiding(name, value)


def _name(key: Any) -> str:
    name = key[: LONGEST_NAME + 1].decode("utf-8", "backslashreplace") if isinstance(key, bytes) else str(key)
    return _bounded(name, LONGEST_NAME)


def _single(value: Any) -> str | float | bool | None:  # noqa: PLR0911 - one for each type
    match value:
        case None | bool() | str():
            return value
        case int():
            return int(value) if -(2**63) <= value < 2**64 else str(value)
        case float():
            return float(value) if math.isfinite(value) else str(value)
        case bytes() | bytearray() | memoryview():
            return bytes(value[: LONGEST_TEXT + 1]).decode("utf-8", "backslashreplace")
        case date() | time():
            return value.isoformat()
        case UUID() | Decimal():
            return str(value)
        case _:
            return repr(value)
