"""Fixtures: an application in this process, and services in processes of their own."""

import os
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import httpx
import pytest
from hypothesis import configuration
from hypothesis import settings as hypothesis_settings
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from app.core.config import Settings
from app.core.telemetry import Telemetry
from app.main import create_app
from tests.support import ROOT, Service, client_of

# Where git ignores it, beside what pytest remembers.
configuration.set_hypothesis_home_dir(ROOT / ".pytest_cache" / "hypothesis")
# `make test` always tries the same, and so does a pipeline: it fails for its own change only. `make test-all`, run by a
# person, looks for something new each time.
hypothesis_settings.register_profile("quick", max_examples=25, derandomize=True, deadline=None)
hypothesis_settings.register_profile(
    "thorough", max_examples=1000, derandomize="CI" in os.environ, print_blob=True, deadline=None
)
hypothesis_settings.load_profile("quick")


@pytest.fixture
def anyio_backend() -> str:
    """The event loop of all asynchronous tests."""
    return "asyncio"


@pytest.fixture(autouse=True, scope="session")
def _clean_environment() -> Iterator[None]:
    """No setting of the developer's shell reaches a test, or a service that several tests share."""
    with pytest.MonkeyPatch.context() as patch:
        for name in Settings.model_fields:
            patch.delenv(name.upper(), raising=False)
        yield


@pytest.fixture
def settings() -> Settings:
    """Settings for an application in this process: nothing on disk, everything traced."""
    return Settings.model_validate(
        {
            "environment": "test",
            "storage_url": "memory://",
            "otel_traces_sampler": "always_on",
            "health_check_cache_seconds": 0,
        }
    )


@pytest.fixture
def app(settings: Settings) -> Telemetry:
    """An application whose lifespan has not begun; a test may add routes to `app.fastapi`."""
    return create_app(settings)


@pytest.fixture
def spans(app: Telemetry) -> InMemorySpanExporter:
    """The finished spans of `app`."""
    exporter = InMemorySpanExporter()
    app.tracing.provider.add_span_processor(SimpleSpanProcessor(exporter))
    return exporter


@pytest.fixture
async def client(app: Telemetry) -> AsyncIterator[httpx.AsyncClient]:
    """A client of `app`, started."""
    async with client_of(app) as client:
        yield client


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., Service]]:
    """Starts services, and ends those that the test did not."""
    services: list[Service] = []

    def start(*command: str, module: str = "app", **environment: str) -> Service:
        services.append(Service(tmp_path, environment, command, module))
        return services[-1]

    yield start
    for service in services:
        service.kill()
