"""Whether a request is for the representation that there is, by its entity tags (RFC 9110, section 13)."""

import re
from collections.abc import Sequence

from fastapi import HTTPException
from starlette.datastructures import Headers

# A comma may stand within the quotes (RFC 9110, section 8.8.3).
_TAG = re.compile(r'(?:W/)?"[\x21\x23-\x7e\x80-\xff]*"')


def entity_tags(lines: Sequence[str]) -> frozenset[str]:
    """The tags of a field's lines as they were sent, or `*` alone; none where the field is no list of tags."""
    field = ",".join(lines).strip(" \t")
    if field == "*":
        return frozenset(field)
    return frozenset() if _TAG.sub("", field).strip(", \t") else frozenset(_TAG.findall(field))


def name_tags(headers: Headers) -> bool:
    """Whether there is anything to compare: `If-Match: *` is for whatever there is."""
    return "if-none-match" in headers or headers.getlist("if-match") not in ([], ["*"])


def is_known(headers: Headers, tag: str) -> bool:
    """Whether the client knows what has this tag: `If-None-Match` names it, by weak comparison.

    Raises:
        HTTPException: 412, `If-Match` does not name it, by strong comparison: no weak tag will do (section 8.8.3.2).
    """
    if lines := headers.getlist("if-match"):
        expected = entity_tags(lines)
        if "*" not in expected and (tag.startswith("W/") or tag not in expected):
            raise HTTPException(412, "What is here has no entity tag that If-Match names.")
    if not (lines := headers.getlist("if-none-match")):
        return False
    known = {one.removeprefix("W/") for one in entity_tags(lines)}
    return not known.isdisjoint({"*", tag.removeprefix("W/")})
