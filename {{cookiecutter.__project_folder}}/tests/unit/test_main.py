"""The wiring: what is opened is closed, and in which order."""

import pytest

from app.core.telemetry import Telemetry
from tests.support import client_of


async def test_the_store_is_open_while_requests_are_served_and_closed_after(
    app: Telemetry, monkeypatch: pytest.MonkeyPatch
) -> None:
    items, events = app.fastapi.state.items, []

    async def open_() -> None:
        assert not app.fastapi.state.readiness.started
        events.append("opened")

    async def close() -> None:
        events.append("closed")

    monkeypatch.setattr(items, "open", open_)
    monkeypatch.setattr(items, "close", close)
    async with client_of(app) as client:
        assert (await client.get("/health/startup")).status_code == 200
        events.append("served")

    assert events == ["opened", "served", "closed"]
