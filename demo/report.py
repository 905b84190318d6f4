"""What the demo shows of a request, and where it sends people next."""

import re
import shlex
import shutil
import subprocess
from pathlib import Path

from demo.evidence import HEADER, Evidence, Request
from demo.screen import Screen, wrapped
from demo.service import Service
from demo.workspace import ROOT

SPAN_ATTRIBUTES = ("correlation_id", "http.request.method", "http.route", "http.response.status_code")
SPAN_RESOURCE = ("service.name", "service.version")


def summary(request: Request) -> str:
    """Return one request on one line."""
    response = request.response
    return f"{response.status}  {response.method:<5} {response.path:<52} {request.correlation_id}"


def show_evidence(screen: Screen, request: Request, evidence: Evidence) -> None:
    """Show all that one request left behind."""
    response, span = request.response, evidence.span
    screen.mark(request.correlation_id, span.trace_id)
    screen.title(f"What the request {request.correlation_id} left behind")
    screen.show("Request", [f"curl -i -H '{HEADER}: {request.correlation_id}' \\", f"  {response.url}"])
    header = HEADER.lower()
    screen.show("Response", [response.status_line, f"{header}: {response.headers[header]}"])
    screen.show("Log line", wrapped(evidence.line.text))
    screen.show("Metric", [line for sample in evidence.samples for line in wrapped(sample)])
    parent = f"child of {span.parent_span_id}" if span.parent_span_id else "the root of its trace"
    screen.show(
        "Span",
        [
            f"{span.name}, {parent}, status {span.status}",
            f"trace_id={span.trace_id} span_id={span.span_id}",
            *(f"{name}={span.attributes[name]}" for name in SPAN_ATTRIBUTES if name in span.attributes),
            *(f"{name}={span.resource[name]}" for name in SPAN_RESOURCE if name in span.resource),
        ],
    )
    screen.title("Two ids tie it together")
    screen.show("Request", [f"{request.correlation_id}: in the response, the log line and the span"])
    screen.show("Trace", [f"{span.trace_id}: in the log line, the metrics and the span"])


def show_where_to_look(screen: Screen, service: Service, project: Path) -> None:
    """Name the entrances of the service, its code, and the command that makes a real one."""
    screen.title("Where to look")
    screen.show("API", [f"{service.api.url}/api/v1/items"])
    screen.show("Docs", [f"{service.api.url}/docs"])
    screen.show("Metrics", [f"{service.metrics.url}/metrics"])
    screen.show("Code", [str(project.relative_to(Path.cwd()) if project.is_relative_to(Path.cwd()) else project)])
    screen.show("Your own", [f"pipx run cookiecutter {template_address()}"])


def template_address() -> str:
    """Return how Cookiecutter finds this template: on GitHub when it was cloned from there, otherwise here."""
    origin = ""
    # An unpacked archive may lie inside some other repository.
    if (ROOT / ".git").exists() and shutil.which("git"):
        command = ["git", "-C", str(ROOT), "config", "--local", "--get", "remote.origin.url"]
        origin = subprocess.run(command, capture_output=True, check=False, text=True).stdout.strip()
    on_github = re.search(r"\bgithub\.com[:/]([^/]+/[^/]+?)(\.git)?/?$", origin)
    return f"gh:{on_github[1]}" if on_github else shlex.quote(str(ROOT))
