"""Print what Alertmanager sends: the receiver of whoever has no other, and one that needs no account.

It answers every GET with 200, so that the health check of the service's image, in which it runs, fits it too.
"""

import json
import os
import signal
import sys
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

# Alertmanager's messages are a few KiB; more than this is none.
LONGEST = 16 << 20


def lines(message: dict[str, Any]) -> Iterator[str]:
    """A notification for people: who is told, how bad it is, what it is, what to do, where to look."""
    for alert in message["alerts"]:
        labels, annotations = alert["labels"], alert["annotations"]
        severity = labels.get("severity", "alert") if alert["status"] == "firing" else "resolved"
        name = labels.get("alertname", "")
        yield f"{severity.upper()} {name}: {annotations.get('summary', '')} (to {message['receiver']})"
        for title in ("description", "runbook_url", "dashboard_url"):
            if title in annotations:
                yield f"    {title.removesuffix('_url')}: {' '.join(annotations[title].split())}"


class Inbox(BaseHTTPRequestHandler):
    """Prints each notification that is posted."""

    protocol_version = "HTTP/1.1"
    timeout = 30

    def do_GET(self) -> None:
        """Say that it is here."""
        self._answer(200, b"Alertmanager posts here.\n")

    def do_POST(self) -> None:
        """Print a notification; of a heartbeat, that it came."""
        length = int(self.headers.get("Content-Length") or 0)
        if length > LONGEST:
            self.close_connection = True
            self._answer(413, b"")
            return
        body = self.rfile.read(length)
        try:
            told = ["heartbeat"] if self.path == "/heartbeat" else list(lines(json.loads(body)))
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            self._answer(400, f"This is no notification of Alertmanager: {error!r}\n".encode())
            return
        # In one piece: several may come together.
        sys.stdout.write("".join(f"{self.log_date_time_string()} {line}\n" for line in told))
        sys.stdout.flush()
        self._answer(200, b"")

    def _answer(self, status: int, body: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the name is inherited
        """Log no requests: what they bring is printed."""


def main() -> None:
    """Serve until told to stop."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    address = os.environ.get("HTTP_HOST", "127.0.0.1"), int(os.environ.get("HTTP_PORT", "8000"))
    with ThreadingHTTPServer(address, Inbox) as server:
        server.serve_forever()


if __name__ == "__main__":
    main()
