"""What can be set, and the facts of this service.

`Facts` come from `app/service.toml`, which the template wrote once from its answers. `Settings` come from the
environment (https://12factor.net/config): every knob is a typed, bounded and described field here, and nowhere else.
"""

import ipaddress
import tomllib
from collections.abc import Iterator
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any, Literal, Self
from urllib.parse import urlsplit

from pydantic import (
    AnyHttpUrl,
    BaseModel,
    ConfigDict,
    Field,
    SecretStr,
    UrlConstraints,
    ValidationError,
    field_validator,
    model_validator,
)
from pydantic.fields import FieldInfo
from pydantic_settings import BaseSettings, SettingsConfigDict

from app.core.redaction import text
from app.storage import Items, backends

SERVICE_FILE = Path(__file__).resolve().parent.parent / "service.toml"

HttpUrl = Annotated[AnyHttpUrl, UrlConstraints(allowed_schemes=["http", "https"])]


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Service(_Frozen):
    """Who this service is; `name` is also the `service` label of its logs and the `service.name` of its spans."""

    name: str
    title: str
    description: str
    version: str
    team: str
    repository: str
    image_repository: str


class Slo(_Frozen):
    """The objectives: availability in percent, and the latency in ms that `latency_percent` of requests stay under."""

    availability_percent: float
    latency_threshold_ms: int
    latency_percent: float


class Ports(_Frozen):
    """The ports a container listens on unless the environment says otherwise."""

    http: int
    metrics: int


class Facts(_Frozen):
    """The content of `service.toml`."""

    service: Service
    slo: Slo
    ports: Ports

    @classmethod
    def read(cls, path: Path = SERVICE_FILE) -> Self:
        """Read the facts of this service.

        Raises:
            OSError: the file cannot be read.
            ValidationError: a fact is missing, unknown or of the wrong type.
        """
        return cls.model_validate(tomllib.loads(path.read_text(encoding="utf-8")))


FACTS = Facts.read()


class Environment(StrEnum):
    """Where the service runs."""

    DEVELOPMENT = "development"
    TEST = "test"
    STAGING = "staging"
    PRODUCTION = "production"


class Sampler(StrEnum):
    """The samplers of the OpenTelemetry specification, by the names it gives them in `OTEL_TRACES_SAMPLER`."""

    ALWAYS_ON = "always_on"
    ALWAYS_OFF = "always_off"
    TRACE_ID_RATIO = "traceidratio"
    PARENT_ALWAYS_ON = "parentbased_always_on"
    PARENT_ALWAYS_OFF = "parentbased_always_off"
    PARENT_TRACE_ID_RATIO = "parentbased_traceidratio"


# A server that others depend on must not keep its data where a redeployment deletes it, unless it is told to by name.
_EMBEDDED_STORAGE_IN = (Environment.DEVELOPMENT, Environment.TEST) if backends.DURABLE else tuple(Environment)


class Settings(backends.StorageSettings, BaseSettings):
    """Every knob of the service. The environment variable has the field's name in capitals; an empty one is unset."""

    model_config = SettingsConfigDict(
        case_sensitive=False, env_ignore_empty=True, extra="ignore", frozen=True, hide_input_in_errors=True
    )

    environment: Environment = Field(
        Environment.DEVELOPMENT,
        description="Where the service runs."
        + (" Staging and production require `STORAGE_URL`." if backends.DURABLE else ""),
    )
    service_version: str = Field(
        FACTS.service.version,
        min_length=1,
        max_length=128,
        description="The deployed version, on every log line, span and in `app_info`. Images set it.",
    )
    image_digest: str = Field(
        "",
        max_length=128,
        description="The first digits of the digest of the image that runs: two images may be of one version. "
        "Manifests set it.",
    )
    http_host: str = Field(
        "127.0.0.1",
        min_length=1,
        description="The address both ports are bound to. Images set `0.0.0.0`.",
    )
    http_port: int = Field(FACTS.ports.http, ge=1, le=65535, description="The port of the API and the probes.")
    metrics_port: int = Field(FACTS.ports.metrics, ge=1, le=65535, description="The port of `/metrics`.")
    keep_alive_seconds: int = Field(
        75,
        ge=1,
        le=3600,
        description="How long an idle connection stays open. Keep it above the load balancer's idle timeout, "
        "or the balancer sends requests into closing connections (502).",
    )
    forwarded_allow_ips: str = Field(
        "",
        description="Addresses and networks, separated by commas, of the proxies whose `X-Forwarded-*` headers count. "
        "Nobody's do by default.",
    )
    docs_enabled: bool | None = Field(
        None,
        validate_default=True,
        description="Serve `/docs` and `/openapi.json`. By default everywhere but in production.",
    )
    max_uri_bytes: int = Field(
        8192, ge=256, le=65_536, description="A longer path and query are refused with 414 (RFC 9110, section 4.1)."
    )
    max_header_bytes: int = Field(
        16_384, ge=1024, le=65_536, description="Longer header fields, all together, are refused with 431."
    )
    max_body_bytes: int = Field(
        1_048_576, ge=1024, le=1_073_741_824, description="A longer request body is refused with 413."
    )
    request_timeout_seconds: float = Field(
        15.0,
        gt=0,
        le=600,
        description="After this a request is cancelled and answered with 504, or with 408 if the client has not sent "
        "all of it. Also how long a client may take to read one part of a response, of which it must read something in "
        "a third of that.",
    )
    max_concurrent_requests: int = Field(
        100,
        ge=1,
        le=100_000,
        description="While so many requests are being answered, further ones get 503 at once, so that those inside "
        "stay fast. Probes and metrics are not among them.",
    )
    breaker_failures: int = Field(
        5,
        ge=1,
        le=1000,
        description="After so many failures in a row the storage is left alone, and requests get 503 at once.",
    )
    breaker_open_seconds: int = Field(
        5, ge=1, le=300, description="How long it is left alone; then one request probes whether it serves again."
    )
    retry_attempts: int = Field(
        3, ge=1, le=10, description="How often a read is tried when its connection breaks; 1 switches retries off."
    )
    retry_budget_percent: float = Field(
        10.0,
        ge=0,
        le=100,
        description="Retries may be this share of successful calls, so that they never multiply an outage.",
    )
    storage_url: SecretStr = Field(
        SecretStr(""),
        validate_default=True,
        description=f"Where items live, for example {' or '.join(f'`{url}`' for url in backends.EXAMPLES)}."
        + (
            f" Required in staging and production; elsewhere it defaults to `{backends.EMBEDDED}`."
            if backends.DURABLE
            else ""
        ),
    )
    health_check_cache_seconds: float = Field(
        2.0,
        ge=0,
        le=60,
        description="How long readiness reuses the result of a dependency check.",
    )
    health_check_timeout_seconds: float = Field(
        1.0, gt=0, le=30, description="After this a dependency check has failed."
    )
    drain_seconds: float = Field(
        5.0,
        ge=0,
        le=300,
        description="How long the service goes on serving after SIGTERM while readiness is false. "
        "Where a preStop hook sleeps before, 2 are enough: they are for clients that keep their connection.",
    )
    graceful_shutdown_seconds: int = Field(
        20,
        ge=1,
        le=600,
        description="After draining, how long requests in flight may take before they are cancelled.",
    )
    telemetry_flush_seconds: float = Field(
        3.0,
        ge=0,
        le=30,
        description="How long the exit may wait for spans, and then for log lines, to leave.",
    )
    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL"] = Field(
        "INFO", description="Events below this level are not logged."
    )
    otel_sdk_disabled: bool = Field(False, description="Switch tracing off whatever else is set.")
    otel_exporter_otlp_endpoint: HttpUrl | None = Field(
        None,
        description="Base URL of the OTLP/HTTP collector, for example `http://collector:4318`. "
        "Without it nothing is exported.",
    )
    otel_exporter_otlp_traces_endpoint: HttpUrl | None = Field(
        None, description="Full URL for spans, where it is not `<base>/v1/traces`."
    )
    otel_exporter_otlp_timeout: float = Field(
        3.0,
        gt=0,
        le=60,
        description="Seconds (as the SDK for Python reads it) that one export, retries included, may take.",
    )
    otel_bsp_schedule_delay: int = Field(
        5000, ge=1, le=60_000, description="Milliseconds that a span waits for others to be sent with."
    )
    otel_bsp_max_queue_size: int = Field(
        2048, ge=1, le=1_000_000, description="How many spans may wait; what does not fit is counted as lost."
    )
    otel_traces_sampler: Sampler = Field(
        Sampler.PARENT_TRACE_ID_RATIO,
        description="Which requests are traced.",
    )
    otel_traces_sampler_arg: float = Field(
        0.1,
        ge=0,
        le=1,
        description="The ratio of the `traceidratio` samplers.",
    )

    @field_validator("log_level", mode="before")
    @classmethod
    def _any_case(cls, value: object) -> object:
        return value.upper() if isinstance(value, str) else value

    @field_validator("forwarded_allow_ips")
    @classmethod
    def _networks(cls, value: str) -> str:
        networks = [part.strip() for part in value.split(",") if part.strip()]
        for network in networks:
            try:
                everybody = ipaddress.ip_network(network).prefixlen == 0
            except ValueError as error:
                raise ValueError(f"{network!r} is no address or network such as 10.0.0.0/8 ({error})") from None
            if everybody:
                # As `*` would, it makes the left-most, client-written X-Forwarded-For entry the client's address.
                raise ValueError(f"{network!r} trusts everybody: name the addresses or networks of the proxies")
        return ",".join(networks)

    @field_validator("docs_enabled")
    @classmethod
    def _docs_outside_production(cls, value: bool | None, info: Any) -> bool:  # noqa: FBT001
        return value if value is not None else info.data.get("environment") is not Environment.PRODUCTION

    @field_validator("storage_url")
    @classmethod
    def _known_storage(cls, value: SecretStr, info: Any) -> SecretStr:
        url = value.get_secret_value()
        if not url:
            environment = info.data.get("environment")
            # A wrong one is told of already, and needs nothing.
            if environment is not None and environment not in _EMBEDDED_STORAGE_IN:
                raise ValueError(f"required in {environment}; the embedded default serves development and test only")
            return SecretStr(backends.EMBEDDED)
        scheme = urlsplit(url).scheme
        if scheme not in backends.SCHEMES:
            raise ValueError(f"the scheme must be one of {', '.join(backends.SCHEMES)}, not {scheme or 'empty'!r}")
        return value

    @model_validator(mode="after")
    def _fit_together(self) -> Self:
        if self.http_port == self.metrics_port:
            raise ValueError(f"HTTP_PORT and METRICS_PORT must differ; both are {self.http_port}")
        if self.request_timeout_seconds * 1000 <= FACTS.slo.latency_threshold_ms:
            raise ValueError(
                f"REQUEST_TIMEOUT_SECONDS must be longer than the latency objective, {FACTS.slo.latency_threshold_ms} "
                f"ms; it is {self.request_timeout_seconds:g} s"
            )
        return self

    @property
    def embeds_storage(self) -> bool:
        """Whether the service runs where its storage may be its own, brought up to date at its start."""
        return self.environment in _EMBEDDED_STORAGE_IN

    @property
    def traces_endpoint(self) -> str | None:
        """The URL spans are sent to, or None: nothing is exported (OTLP exporter specification, endpoint URLs)."""
        if self.otel_sdk_disabled:
            return None
        if self.otel_exporter_otlp_traces_endpoint:
            return str(self.otel_exporter_otlp_traces_endpoint)
        if self.otel_exporter_otlp_endpoint:
            return f"{str(self.otel_exporter_otlp_endpoint).rstrip('/')}/v1/traces"
        return None


class SettingsError(Exception):
    """The environment is unusable; the text names every variable at fault, what is wrong and what is right."""


def load_settings() -> Settings:
    """Read the settings from the environment.

    Raises:
        SettingsError: one or more variables are missing or wrong.
    """
    try:
        return Settings()
    except ValidationError as error:
        raise SettingsError("\n".join(_problems(error))) from None


def connect_storage(settings: Settings) -> Items:
    """The store that the settings name, not yet opened.

    Raises:
        SettingsError: only the backend could find out that `STORAGE_URL` is wrong.
    """
    try:
        return backends.connect(settings)
    except (ValueError, OSError) as error:
        raise SettingsError(f"STORAGE_URL: {error}") from None


def _problems(error: ValidationError) -> Iterator[str]:
    count = error.error_count()
    yield f"The environment has {count} problem{'s' if count > 1 else ''}; the service does not start."
    for problem in error.errors(include_url=False, include_context=False):
        message = problem["msg"].removeprefix("Value error, ")
        if not problem["loc"]:
            yield f"  {message}"
            continue
        name = str(problem["loc"][0])
        field = Settings.model_fields[name]
        given = "" if field.annotation is SecretStr else f" (got {text(str(problem['input']))[:80]!r})"
        yield f"  {name.upper()}: {message}{given}"
        yield f"      {field.description}"
    yield "`python -m app settings` lists every variable."


_OF_STORAGE = backends.StorageSettings.model_fields


def settings_table() -> str:
    """The settings as a Markdown table: variable, default, what is allowed, meaning."""
    rows = [("Variable", "Default", "Allowed", "Meaning"), ("---",) * 4]
    for name, field in sorted(Settings.model_fields.items(), key=lambda one: one[0] in _OF_STORAGE):
        default = field.default
        if isinstance(default, SecretStr):
            default = default.get_secret_value()
        shown = "" if default in ("", None) else f"`{str(default).lower() if isinstance(default, bool) else default}`"
        rows.append((f"`{name.upper()}`", shown, _allowed(field), str(field.description)))
    return "\n".join(f"| {' | '.join(row)} |" for row in rows) + "\n"


def _allowed(field: FieldInfo) -> str:
    kind = field.annotation
    if isinstance(kind, type) and issubclass(kind, StrEnum):
        return ", ".join(kind)
    if kind in (bool, bool | None):
        return "true, false"
    if choices := getattr(kind, "__args__", ()):
        return ", ".join(choice for choice in choices if isinstance(choice, str)) or "URL"
    bounds = {
        name: getattr(limit, name) for limit in field.metadata for name in ("ge", "gt", "le") if hasattr(limit, name)
    }
    if not bounds:
        return "text"
    low = f"{bounds['ge']} to" if "ge" in bounds else f"above {bounds['gt']}, to"
    return f"{low} {bounds['le']}"
