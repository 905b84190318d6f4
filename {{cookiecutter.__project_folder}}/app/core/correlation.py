"""The correlation id: one name for a request across services, log lines and spans.

Distinct from the trace id, which exists only where tracing does: a person can set it (`curl -H
'X-Correlation-ID: abc-123'`), support can quote it, and every log line carries it.
"""

import re
from contextvars import ContextVar
from random import getrandbits

from opentelemetry.context import Context
from opentelemetry.propagators.composite import CompositePropagator
from opentelemetry.propagators.textmap import (
    CarrierT,
    Getter,
    Setter,
    TextMapPropagator,
    default_getter,
    default_setter,
)
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

HEADER = "X-Correlation-ID"

# As ASGI has it.
RAW_HEADER = HEADER.lower().encode()

# Safe in a header, a log query and a URL alike, and bounded, because a stranger chooses it.
_VALID = re.compile(rb"[A-Za-z0-9][A-Za-z0-9._:-]{0,127}")

correlation_id: ContextVar[str | None] = ContextVar("correlation_id", default=None)


def accept(header: bytes | None) -> str:
    """The id a client sent when it is usable as it stands, a new one otherwise. Nothing else is ever echoed."""
    return header.decode("ascii") if header is not None and _VALID.fullmatch(header) else new()


def new() -> str:
    """An id of our own."""
    return f"{getrandbits(128):032x}"


def field(identity: str) -> tuple[bytes, bytes]:
    """The header field that tells a client the id of its request."""
    return RAW_HEADER, identity.encode()


class CorrelationPropagator(TextMapPropagator):
    """Sends the id along with what a request makes the service ask of others."""

    def extract(
        self,
        carrier: CarrierT,  # noqa: ARG002 - the names are inherited
        context: Context | None = None,
        getter: Getter[CarrierT] = default_getter,  # noqa: ARG002
    ) -> Context:
        """Take nothing: what comes in is judged by `accept`, once."""
        return Context() if context is None else context

    def inject(
        self,
        carrier: CarrierT,
        context: Context | None = None,  # noqa: ARG002
        setter: Setter[CarrierT] = default_setter,
    ) -> None:
        """Set the header, where there is an id."""
        if current := correlation_id.get():
            setter.set(carrier, HEADER, current)

    @property
    def fields(self) -> set[str]:
        """The headers that `inject` may set."""
        return {HEADER}


# Trace and correlation id, for everything that goes out.
PROPAGATOR = CompositePropagator([TraceContextTextMapPropagator(), CorrelationPropagator()])
