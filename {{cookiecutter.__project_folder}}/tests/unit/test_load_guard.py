"""Load reaches only who is meant: this machine, dev, staging, or a host that was named on purpose."""

from pathlib import Path

import pytest

from tests.load.guard import OVERLAYS, known_hosts, refusal


@pytest.fixture
def overlays(tmp_path: Path) -> Path:
    for environment in ("dev", "staging", "prod"):
        folder = tmp_path / environment
        folder.mkdir()
        text = f"data:\n  # Where it is.\n  host: api.{environment}.example.com\n  job: api\n"
        (folder / "environment.yaml").write_text(text, encoding="utf-8")
    return tmp_path


@pytest.mark.parametrize(
    "address",
    [
        "http://localhost:8000",
        "http://127.0.0.1:8000",
        "http://127.8.9.1",
        "http://[::1]:8000/",
        "https://api.dev.example.com",
        "https://API.staging.example.com/",
    ],
)
def test_who_is_meant_may_get_load(address: str, overlays: Path) -> None:
    assert not refusal(address, overlays=overlays)


@pytest.mark.parametrize(
    "address",
    [
        "https://api.prod.example.com",
        "https://example.com",
        "http://10.0.0.1",
        "http://localhost.example.com",
        "http://127.0.0.1.example.com",
        "https://localhost@example.com",
        "https://api.staging.example.com.example.org",
        "http://app:8000",
    ],
)
def test_nobody_else_gets_load_unless_named_once_more(address: str, overlays: Path) -> None:
    refused = refusal(address, overlays=overlays)

    host = refused.rpartition("--allow-host=")[2]
    assert host
    assert not refusal(address, host, overlays)
    assert refusal(address, f"{host}x", overlays)


@pytest.mark.parametrize("address", ["", "localhost:8000", "example.com", "ftp://localhost", "http://"])
def test_what_is_no_address_is_refused(address: str) -> None:
    assert "is no address" in refusal(address, "example.com")


def test_the_hosts_are_those_of_the_overlays() -> None:
    text = (OVERLAYS / "staging" / "environment.yaml").read_text(encoding="utf-8")

    # Where nothing outside may call the service, there is none.
    assert [f"  host: {host}\n" in text for host in known_hosts()] == [True] * text.count("\n  host: ")
