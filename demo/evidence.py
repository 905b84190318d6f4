"""Real requests, and what one of them left behind."""

import re
from collections.abc import Iterator
from dataclasses import dataclass

from demo.client import Client, Response
from demo.failure import DemoError
from demo.otlp_receiver import OtlpReceiver, Span
from demo.service import LogLine, Service

HEADER = "X-Correlation-ID"
ITEMS = "/api/v1/items"
ABSENT = "00000000-0000-4000-8000-000000000000"
OPENMETRICS = "application/openmetrics-text; version=1.0.0"

# Telemetry leaves after the response, and spans in batches; a machine under load may take its time.
LOG_SECONDS = 10.0
SPAN_SECONDS = 20.0


@dataclass(frozen=True)
class Request:
    """A response that was as expected, and the correlation id its request was sent with."""

    correlation_id: str
    response: Response


@dataclass(frozen=True)
class Evidence:
    """What one request left: its access line, metric samples that show its trace id, its span."""

    line: LogLine
    samples: list[str]
    span: Span

    @property
    def trace_id(self) -> str:
        """The trace id, the same in all of them."""
        return self.span.trace_id


def send_requests(api: Client) -> tuple[list[Request], Request]:
    """Create, list and read an item, ask for one that does not exist, and send one that is invalid.

    Returns:
        all requests, and the one that read.
    """

    def send(name: str, method: str, path: str, *, expected: int, content: object = None) -> Request:
        correlation_id = f"demo-{name}-1"
        response = api.send(method, path, {HEADER: correlation_id}, content)
        if response.status != expected:
            raise DemoError(
                f"{method} {path} was answered {response.status} instead of {expected}:\n{response.body[:500]}"
            )
        echoed = response.headers.get(HEADER.lower())
        if echoed != correlation_id:
            raise DemoError(f"{method} {path} was sent with {HEADER}: {correlation_id}, but answered with {echoed}")
        return Request(correlation_id, response)

    created = send("create", "POST", ITEMS, expected=201, content={"name": "A first item", "price": "9.99"})
    listed = send("list", "GET", ITEMS, expected=200)
    location = created.response.headers.get("location")
    if location is None:
        raise DemoError("the response that created an item has no Location header")
    read = send("read", "GET", location, expected=200)
    missing = send("missing", "GET", f"{ITEMS}/{ABSENT}", expected=404)
    invalid = send("invalid", "POST", ITEMS, expected=422, content={"name": ""})
    return [created, listed, read, missing, invalid], read


def collect(request: Request, service: Service, receiver: OtlpReceiver) -> Evidence:
    """Find what a request left behind, by nothing but its correlation id.

    Raises:
        DemoError: something is missing, or says something else than the rest.
    """
    wanted = request.correlation_id
    line = service.find(
        lambda fields: fields.get("event") == "request" and fields.get("correlation_id") == wanted, LOG_SECONDS
    )
    if line is None:
        raise DemoError(f"the log holds no access line with correlation_id {wanted}, {LOG_SECONDS:g} s later")
    line_ids = line.fields.get("trace_id"), line.fields.get("span_id")
    try:
        span = receiver.wait_for(lambda span: span.attributes.get("correlation_id") == wanted, SPAN_SECONDS)
    except TimeoutError as error:
        raise DemoError(f"no span with correlation_id {wanted} was received: {error}") from None
    if line_ids != (span.trace_id, span.span_id):
        raise DemoError(f"the access line has the ids {line_ids}, the span {(span.trace_id, span.span_id)}")
    return Evidence(line, _samples(line, service.metrics), span)


def _samples(line: LogLine, metrics: Client) -> list[str]:
    """Return the counter's sample and the histogram's bucket whose exemplars are of this request."""
    labels = {name: str(line.fields.get(name)) for name in ("method", "route", "status")}
    scraped = metrics.send("GET", "/metrics", {"Accept": OPENMETRICS}).body
    found = []
    for metric in ("http_requests_total", "http_request_duration_seconds_bucket"):
        samples = list(matching(scraped, metric, labels))
        exemplar = f'# {{trace_id="{line.fields["trace_id"]}"}}'
        with_exemplar = [sample for sample in samples if exemplar in sample]
        if not with_exemplar:
            shown = "\n".join(samples) or "none"
            raise DemoError(f"no sample of {metric} with {labels} has the exemplar {exemplar}; samples:\n{shown}")
        found += with_exemplar[:1]
    return found


def matching(scraped: str, metric: str, labels: dict[str, str]) -> Iterator[str]:
    """Yield the samples of a metric that have these labels, as they were scraped."""
    for sample in scraped.splitlines():
        name, _, rest = sample.partition("{")
        # A route has braces of its own; the ones around the labels end before a space.
        found = dict(re.findall(r'(\w+)="([^"]*)"', rest.partition("} ")[0]))
        if name == metric and labels.items() <= found.items():
            yield sample
