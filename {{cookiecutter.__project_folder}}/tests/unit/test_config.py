"""Settings come from the environment: typed, bounded, and refused together with readable reasons."""

import pytest

from app.__main__ import main
from app.core.config import FACTS, Settings, SettingsError, load_settings
from app.storage import backends


def test_without_an_environment_the_facts_of_the_service_hold() -> None:
    settings = load_settings()

    assert (settings.http_port, settings.metrics_port) == (FACTS.ports.http, FACTS.ports.metrics)
    assert settings.service_version == FACTS.service.version
    assert settings.storage_url.get_secret_value() == backends.EMBEDDED


@pytest.mark.parametrize(
    ("variable", "value", "reason"),
    [
        ("HTTP_PORT", "web", "integer"),
        ("HTTP_PORT", "0", "greater than or equal to 1"),
        ("HTTP_PORT", "65536", "less than or equal to 65535"),
        ("HTTP_PORT", "9000", "must differ"),
        ("ENVIRONMENT", "prod", "'staging' or 'production'"),
        ("LOG_LEVEL", "LOUD", "'DEBUG'"),
        ("DRAIN_SECONDS", "-1", "greater than or equal to 0"),
        ("DOCS_ENABLED", "perhaps", "boolean"),
        ("FORWARDED_ALLOW_IPS", "*", "no address or network"),
        ("FORWARDED_ALLOW_IPS", "10.0.0.0/8, 0.0.0.0/0", "trusts everybody"),
        ("FORWARDED_ALLOW_IPS", "::/0", "trusts everybody"),
        ("FORWARDED_ALLOW_IPS", "10.0.0.0/8, proxy", "'proxy'"),
        ("STORAGE_URL", "nosuch://host/items", "must be one of"),
        ("STORAGE_URL", "items", "must be one of"),
        ("REQUEST_TIMEOUT_SECONDS", f"{FACTS.slo.latency_threshold_ms / 1000:f}", "longer than the latency objective"),
        ("REQUEST_TIMEOUT_SECONDS", "0", "greater than 0"),
        ("MAX_CONCURRENT_REQUESTS", "0", "greater than or equal to 1"),
        ("BREAKER_FAILURES", "0", "greater than or equal to 1"),
        ("RETRY_BUDGET_PERCENT", "101", "less than or equal to 100"),
        ("MAX_URI_BYTES", "65537", "less than or equal to 65536"),
        ("MAX_BODY_BYTES", "1", "greater than or equal to 1024"),
        ("OTEL_TRACES_SAMPLER", "sometimes", "'always_on'"),
        ("OTEL_TRACES_SAMPLER_ARG", "1.5", "less than or equal to 1"),
        ("OTEL_EXPORTER_OTLP_ENDPOINT", "collector:4318", "URL scheme"),
    ],
)
def test_a_bad_value_is_refused_with_the_reason(
    monkeypatch: pytest.MonkeyPatch, variable: str, value: str, reason: str
) -> None:
    monkeypatch.setenv(variable, value)

    with pytest.raises(SettingsError) as error:
        load_settings()

    assert variable in str(error.value)
    assert reason in str(error.value)
    assert str(error.value).startswith("The environment has 1 problem;")


def test_a_refused_address_is_told_without_its_password(monkeypatch: pytest.MonkeyPatch) -> None:
    # pragma: allowlist nextline secret - made up
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "grpc://tenant:hunter2@collector.example")

    with pytest.raises(SettingsError, match="ENDPOINT") as error:
        load_settings()

    assert "hunter2" not in str(error.value)


def test_all_problems_are_told_at_once(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("HTTP_PORT", "web")
    monkeypatch.setenv("STORAGE_URL", "nosuch://host")

    assert main([]) == 2

    message = capsys.readouterr().err
    assert "2 problems" in message
    assert "HTTP_PORT" in message
    assert "'web'" in message
    assert "STORAGE_URL: the scheme must be one of" in message
    assert "Traceback" not in message


def test_a_bad_storage_url_is_not_repeated(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STORAGE_URL", "nosuch://user:hunter2@host/items")

    with pytest.raises(SettingsError) as error:
        load_settings()

    assert "hunter2" not in str(error.value)


@pytest.mark.parametrize(("environment", "enabled"), [("development", True), ("staging", True), ("production", False)])
def test_the_documentation_is_served_everywhere_but_in_production_unless_told_otherwise(
    environment: str, enabled: bool
) -> None:
    common = {"environment": environment, "storage_url": "memory://"}

    assert Settings.model_validate(common).docs_enabled is enabled
    assert Settings.model_validate(common | {"docs_enabled": not enabled}).docs_enabled is not enabled


def test_an_empty_variable_is_unset_and_a_level_may_be_in_lower_case(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTP_PORT", "")
    monkeypatch.setenv("LOG_LEVEL", "debug")

    settings = load_settings()

    assert (settings.http_port, settings.log_level) == (FACTS.ports.http, "DEBUG")


@pytest.mark.parametrize(
    ("variables", "endpoint"),
    [
        ({}, None),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://c:4318"}, "http://c:4318/v1/traces"),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://c:4318/base/"}, "http://c:4318/base/v1/traces"),
        ({"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "http://c:4318/spans"}, "http://c:4318/spans"),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://c:4318", "OTEL_SDK_DISABLED": "true"}, None),
    ],
)
def test_spans_go_where_the_specification_says(
    monkeypatch: pytest.MonkeyPatch, variables: dict[str, str], endpoint: str | None
) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)

    assert load_settings().traces_endpoint == endpoint


def test_every_setting_is_described() -> None:
    assert all(field.description for field in Settings.model_fields.values())


def test_an_unknown_command_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as error:
        main(["server"])

    assert error.value.code == 2
    assert "invalid choice: 'server'" in capsys.readouterr().err


def test_the_settings_can_be_listed(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["settings"]) == 0

    table = capsys.readouterr().out
    assert all(f"`{name.upper()}`" in table for name in Settings.model_fields)
