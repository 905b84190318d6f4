"""Which correlation ids are taken from a client."""

import pytest

from app.core.correlation import accept


@pytest.mark.parametrize("header", [b"abc-123", b"a", b"4f0c:9.B_x", b"A" * 128])
def test_a_usable_id_is_kept(header: bytes) -> None:
    assert accept(header) == header.decode()


@pytest.mark.parametrize(
    "header",
    [None, b"", b"A" * 129, b"a b", b"a\r\nX-Evil: 1", b"a\n", b"\xff", b"-a", b"<script>", b'"', "é".encode()],
)
def test_anything_else_is_replaced(header: bytes | None) -> None:
    replacement = accept(header)

    assert len(replacement) == 32
    assert replacement.isalnum()
    assert accept(header) != replacement
