"""What may be written where people read: secrets hidden, sizes bounded, every value reduced to what JSON knows.

A secret is told by the name it stands under (a header, a query parameter, a key, an attribute in a `repr`) or by its
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

# In characters. A line is to stay within what collectors take as one: Loki refuses more than 256 KiB.
LONGEST_TEXT = 8_192
LONGEST_KEY = 128

_LONGEST_TRACEBACK_LINE = 1_000
_FIRST_LINES, _LAST_LINES = 30, 70

# How much of one line may come from values that hold others: characters, each value counted as 8 at least.
_BUDGET = 65_536

# Deeper than any value worth logging.
_DEEPEST = 10

_SPACE = re.compile(r"\s")
_CAMEL = re.compile(r"(?<=[a-z0-9])(?=[A-Z])")
_SECRET_NAME = re.compile(
    r"(?:passw(?:or)?d|pwd|passphrase|secret|token|authorization|cookie|credential|apikey|signature)s?(?:_|\d|$)"
    r"|(?:api|private|access|secret|signing|encryption)_?key(?!_id)"
    r"|session_?id|(?:^|_)(?:pass|sig)$"
)
# What is said about a secret is none.
_ABOUT = re.compile(r"_(?:count|expires|expires_in|expiry|length|limit|name|seconds|ttl|type|used)$")

# Each is tried at the beginning of a word only, and never goes back, so that a hostile text costs linear time.
_URL = re.compile(r"://\S++")
_ASSIGNMENT = re.compile(
    r"""(?<![\w.%\[\]-])(?P<key>[\w.%\[\]-]++)=(?P<value>(?P<mark>["'])(?:(?!(?P=mark))\\?.)*+(?P=mark)|[^\s&"]++)"""
)
_ITEM = re.compile(
    r"""(?P<start>(?P<quote>\\*+["'])(?P<key>[\w.%-]++)(?P=quote)\s*+[:,]\s*+b?)"""
    r"""(?:(?P<mark>\\*+["'])(?:(?!(?P=mark))\\?.)*+(?P=mark)?|\d[\w.]*+)"""
)
# In prose, `token: ...` is more often about a token than one; a name with a hyphen is a header.
_HEADER = re.compile(
    r"(?<![\w-])([\w-]++(?:(?<=authorization)|(?<=cookie)|(?<=-token)|(?<=-secret)|(?<=api-key)):)[^\r\n\"']++",
    re.IGNORECASE,
)


@lru_cache(maxsize=2048)
def is_secret(name: str) -> bool:
    """Whether a value under this name is to be hidden: `X-Api-Key`, `accessToken` and `db_password`, not `token_type`.

    The answers are kept, for names are few; strangers who send new ones only push each other out.
    """
    words = _CAMEL.sub("_", name[:LONGEST_KEY]).lower().replace("-", "_").replace(".", "_").replace(" ", "_")
    return _SECRET_NAME.search(words) is not None and _ABOUT.search(words) is None


def is_worth_hiding(name: str, value: object) -> bool:
    """Whether a value under a secret's name is one: a number of tokens is none, nor is the lack of a password."""
    return not (
        value is None or isinstance(value, bool) or (isinstance(value, int) and name.lower().endswith("tokens"))
    )


def _hides(name: str, value: object) -> bool:
    return is_secret(name) and is_worth_hiding(name, value)


def text(value: str) -> str:
    """A text with the secrets in it hidden, and bounded: what is left out is told."""
    return _without_secrets(_bounded(value, LONGEST_TEXT))


def traceback_text(value: str) -> str:
    """A traceback likewise. Of a long one, the beginning is kept and the end, which names the error."""
    lines = [_bounded(line, _LONGEST_TRACEBACK_LINE) for line in value.splitlines()]
    if (left_out := len(lines) - _FIRST_LINES - _LAST_LINES) > 0:
        lines[_FIRST_LINES:-_LAST_LINES] = [f"  ... [{left_out} lines left out]"]
    return _encodable(_without_secrets("\n".join(lines)))


def may_need_care(value: str) -> bool:
    """A quick look whether `text` could change anything: most values are short words."""
    return "=" in value or ":" in value or "'" in value or len(value) > LONGEST_TEXT


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
    """A lone surrogate has no place in UTF-8."""
    return value.encode("utf-8", "backslashreplace").decode()


def _without_secrets(value: str) -> str:
    if "://" in value:
        value = _URL.sub(_without_user_information, value)
    if "=" in value:
        value = _ASSIGNMENT.sub(_hidden_assignment, value)
    if ":" in value:
        value = _HEADER.sub(rf"\1 {REDACTED}", value)
    if '"' in value or "'" in value:
        value = _ITEM.sub(_hidden_item, value)
    return value


def _without_user_information(match: re.Match[str]) -> str:
    return "://".join(_hidden_authority(part) for part in match[0].split("://"))


def _hidden_authority(rest: str) -> str:
    """What stands behind `://`, without the user information (RFC 3986, section 3.2.1)."""
    authority = re.split(r"[/?#]", rest, maxsplit=1)[0]
    if "@" in authority:
        return f"{REDACTED}@{rest[authority.rindex('@') + 1 :]}"
    _, colon, port = authority.rpartition(":")
    if colon and not port.isdigit() and not authority.startswith("[") and "@" in rest:
        # A password with a special character that should have been written as %XX.
        return f"{REDACTED}@{rest[rest.rindex('@') + 1 :]}"
    return rest


def _hidden_assignment(match: re.Match[str]) -> str:
    return f"{match['key']}={REDACTED}" if is_secret(unquote(match["key"])) else match[0]


def _hidden_item(match: re.Match[str]) -> str:
    return f"{match['start']}{REDACTED}" if is_secret(match["key"]) else match[0]


class _Plain:
    """Converts the parts of one value; what all of them may take is bounded."""

    def __init__(self) -> None:
        self._left = _BUDGET

    def convert(self, value: Any, depth: int = 0) -> Any:
        try:
            return self._convert(value, depth)
        except Exception as error:  # noqa: BLE001 - a log call must not fail because a value does
            return f"<{type(value).__name__} that raised {type(error).__name__}>"

    def _convert(self, value: Any, depth: int) -> Any:  # noqa: PLR0911 - one line a type
        self._left -= 8
        match value:
            case None | bool():
                return value
            case Enum():
                return self.convert(value.value, depth + 1)
            case str():
                return self._text(value)
            case int():
                return int(value) if -(2**63) <= value < 2**64 else self._text(str(value))
            case float():
                return float(value) if math.isfinite(value) else str(value)
            case bytes() | bytearray() | memoryview():
                return self._text(bytes(value[: LONGEST_TEXT + 1]).decode("utf-8", "backslashreplace"))
            case date() | time():
                return value.isoformat()
            case UUID() | Decimal():
                return str(value)
            case Mapping() | list() | tuple() | set() | frozenset() if depth == _DEEPEST or self._left <= 0:
                return "..."
            case Mapping():
                return self._mapping(value, depth)
            case (str() | bytes() as key, item) if _hides(name := _name(key), item):
                # A header, as ASGI and httpx have it.
                return [name, REDACTED]
            case list() | tuple() | set() | frozenset():
                return self._items(value, depth)
            case _:
                return self._text(repr(value))

    def _mapping(self, value: Mapping[Any, Any], depth: int) -> dict[str, Any]:
        shown: dict[str, Any] = {}
        for key, item in value.items():
            if self._left <= 0:
                shown["..."] = f"{len(value) - len(shown)} left out"
                break
            name = self._text(_name(key))[:LONGEST_KEY]
            shown[name] = REDACTED if _hides(name, item) else self.convert(item, depth + 1)
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
        bounded = text(_bounded(value, max(0, self._left)))
        self._left -= len(bounded)
        return _encodable(bounded)


def _name(key: Any) -> str:
    if isinstance(key, bytes):
        return key[: LONGEST_KEY + 1].decode("utf-8", "backslashreplace")
    return key if type(key) is str else str(key)
