"""The service that drills tell to misbehave: it does, its own telemetry sees it, and probes are left alone."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from app.core.config import Settings
from tests.chaos.image import faulty
from tests.support import client_of


@pytest.fixture
def tell(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., object]:
    """Return what tells the service to misbehave from now on."""
    file = tmp_path / "faults.json"
    monkeypatch.setattr(faulty, "FILE", file)
    monkeypatch.delenv("FAULTS", raising=False)
    return lambda **faults: file.write_text(json.dumps(faults), encoding="utf-8")


async def test_it_fails_when_it_is_told_to_and_its_own_metrics_count_it(
    settings: Settings, tell: Callable[..., object]
) -> None:
    app = faulty.create_faulty_app(settings)
    async with client_of(app) as client:
        before = (await client.get("/api/v1/items")).status_code
        tell(error_share=1)
        during = (await client.get("/api/v1/items")).status_code
        probe = (await client.get("/health/live")).status_code
        tell()
        after = (await client.get("/api/v1/items")).status_code

    assert (before, during, probe, after) == (200, 500, 200, 200)
    counted = app.metrics.registry.get_sample_value(
        "http_requests_total", {"method": "GET", "route": "/api/v1/items", "status": "500"}
    )
    assert counted == 1


async def test_a_version_can_be_bad_from_its_start(
    settings: Settings, tell: Callable[..., object], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FAULTS", '{"error_share": 1}')
    async with client_of(faulty.create_faulty_app(settings)) as client:
        assert (await client.get("/api/v1/items")).status_code == 500


async def test_it_leaks_up_to_a_share_and_then_with_each_request(
    settings: Settings, tell: Callable[..., object], monkeypatch: pytest.MonkeyPatch
) -> None:
    shares = iter((0.5, 0.7, 0.95))
    leaked: list[int] = []
    monkeypatch.setattr(faulty, "used_share", lambda: next(shares))
    monkeypatch.setattr(faulty.Faults, "_leak", lambda _, count: leaked.append(count))
    async with client_of(faulty.create_faulty_app(settings)) as client:
        tell(leak_to_share=0.9, leak_bytes_per_request=10)
        await client.get("/api/v1/items")
        await client.get("/api/v1/items")

    assert leaked == [faulty.CHUNK, faulty.CHUNK, 10, 10]


V2 = {"memory.current": "600", "memory.max": "1000\n", "memory.stat": "anon 400\ninactive_file 100\n"}
V1 = {
    "memory/memory.usage_in_bytes": "600",
    "memory/memory.limit_in_bytes": "1000\n",
    "memory/memory.stat": "cache 1\ntotal_inactive_file 200\n",
}


@pytest.mark.parametrize(("files", "expected"), [(V2, 0.5), (V1, 0.4), (V2 | {"memory.max": "max\n"}, 1.0), ({}, 1.0)])
def test_the_share_of_memory_is_what_cannot_be_given_back(
    tmp_path: Path, files: dict[str, str], expected: float
) -> None:
    (tmp_path / "memory").mkdir()
    for name, text in files.items():
        (tmp_path / name).write_text(text, encoding="utf-8")

    assert faulty.used_share(tmp_path) == expected
