"""The wiring: what is opened is closed, and in which order."""

import pytest

from app.core.config import Settings
from app.main import create_app
from tests.support import client_of


@pytest.mark.parametrize(("environment", "migrates"), [("development", True), ("test", True), ("production", False)])
async def test_the_store_is_open_while_requests_are_served_and_closed_after(
    monkeypatch: pytest.MonkeyPatch, environment: str, migrates: bool
) -> None:
    app = create_app(Settings.model_validate({"environment": environment, "storage_url": "memory://"}))
    items, events = app.fastapi.state.items, []

    async def open_(*, migrate: bool) -> None:
        assert not app.fastapi.state.readiness.started
        events.append(f"opened, {migrate=}")

    async def close() -> None:
        events.append("closed")

    monkeypatch.setattr(items, "open", open_)
    monkeypatch.setattr(items, "close", close)
    async with client_of(app) as client:
        assert (await client.get("/health/startup")).status_code == 200
        events.append("served")

    assert events == [f"opened, migrate={migrates}", "served", "closed"]
