"""Entity tags are compared as RFC 9110 has it, sections 8.8.3 and 13."""

import pytest
from fastapi import HTTPException
from starlette.datastructures import Headers

from app.api.preconditions import entity_tags, is_known


@pytest.mark.parametrize(
    ("lines", "tags"),
    [
        (['"a"'], {'"a"'}),
        (['W/"a"'], {'W/"a"'}),
        (['""'], {'""'}),
        (['"a", W/"b","c"'], {'"a"', 'W/"b"', '"c"'}),
        (['"a"', '"b"'], {'"a"', '"b"'}),
        ([', "a" ,, \t"b",'], {'"a"', '"b"'}),
        (['"a,*,b"'], {'"a,*,b"'}),
        (['"a', 'b"'], {'"a,b"'}),
        (['"\xe4!#~"'], {'"\xe4!#~"'}),
        ([" * "], {"*"}),
        (['"*"'], {'"*"'}),
        ([], set()),
        ([""], set()),
        ([",,"], set()),
        (["a"], set()),
        (['"a'], set()),
        (['w/"a"'], set()),
        (['"a", *'], set()),
        (["*", "*"], set()),
        (['"a b"'], set()),
        (['x"a"'], set()),
        (['"a", b'], set()),
    ],
)
def test_a_list_of_entity_tags_is_read_with_its_quotes(lines: list[str], tags: set[str]) -> None:
    assert entity_tags(lines) == tags


@pytest.mark.parametrize(
    ("tag", "strong", "weak"),
    [('"a"', True, True), ('W/"a"', False, True), ('"b"', False, False), ('"A"', False, False), ("*", True, True)],
)
def test_if_match_compares_strongly_and_if_none_match_weakly(tag: str, strong: bool, weak: bool) -> None:
    for own, equal in (('"a"', strong), ('W/"a"', tag == "*")):
        assert is_known(Headers({"If-None-Match": tag}), own) is weak
        if equal:
            assert not is_known(Headers({"If-Match": tag}), own)
        else:
            with pytest.raises(HTTPException, match="412"):
                is_known(Headers({"If-Match": tag}), own)


@pytest.mark.parametrize(("expected", "refused"), [('"a"', False), ('"b"', True)])
def test_if_match_comes_first(expected: str, refused: bool) -> None:
    headers = Headers({"If-Match": expected, "If-None-Match": '"a"'})

    if refused:
        with pytest.raises(HTTPException, match="412"):
            is_known(headers, '"a"')
    else:
        assert is_known(headers, '"a"')
