"""Containers for tests: run hardened, asked on the loopback, gone afterwards."""

import http.client
import json
import subprocess
from typing import Any, Self

from waiting import wait_for

# As a cluster with the strictest Pod Security runs it, and with little memory.
HARDENED = (
    *("--read-only", "--tmpfs", "/tmp"),
    *("--cap-drop", "ALL", "--security-opt", "no-new-privileges"),
    *("--memory", "256m", "--memory-swap", "256m"),
)


def docker(*arguments: str, check: bool = True) -> subprocess.CompletedProcess[str]:
    """Run docker; its words are the reason when it fails."""
    done = subprocess.run(["docker", *arguments], capture_output=True, text=True, check=False)
    if check and done.returncode:
        raise AssertionError(f"docker {' '.join(arguments)}\n{done.stdout[-2000:]}{done.stderr[-2000:]}")
    return done


def inspect(kind: str, name: str) -> dict[str, Any]:
    """All that the engine knows about an image or a container."""
    (found,) = json.loads(docker(kind, "inspect", name).stdout)
    return dict(found)


class Container:
    """A container of an image, from the start of a `with` block to its end."""

    def __init__(self, image: str, *flags: str, command: tuple[str, ...] = (), **environment: str) -> None:
        variables = [word for name, value in environment.items() for word in ("--env", f"{name}={value}")]
        published = [word for port in (8000, 9000, 5678) for word in ("--publish", f"127.0.0.1::{port}")]
        self.id = docker("run", "--detach", *published, *variables, *flags, image, *command).stdout.strip()

    def port(self, number: int) -> int:
        """Where a port of the container is reached."""
        return int(docker("port", self.id, str(number)).stdout.splitlines()[0].rpartition(":")[2])

    def get(self, path: str, port: int = 8000) -> tuple[int, str]:
        """The status and the body of an answer; 0 and why when there is none."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port(port), timeout=5)
        try:
            connection.request("GET", path)
            answer = connection.getresponse()
            return answer.status, answer.read().decode()
        except (OSError, http.client.HTTPException) as error:
            return 0, repr(error)
        finally:
            connection.close()

    def healthy(self, seconds: float = 30) -> Self:
        """Wait until the engine says so."""
        wait_for(lambda: self.state()["Health"]["Status"] == "healthy", self.logs, seconds)
        return self

    def state(self) -> dict[str, Any]:
        """What the engine says of it."""
        return dict(inspect("container", self.id)["State"])

    def logs(self) -> str:
        """What it wrote, to both streams."""
        done = docker("logs", self.id)
        return done.stdout + done.stderr

    def run(self, *command: str) -> subprocess.CompletedProcess[str]:
        """Run a command in it."""
        return docker("exec", self.id, *command, check=False)

    def exit_code(self, seconds: float = 30) -> int:
        """Wait for its end."""
        wait_for(lambda: not self.state()["Running"], self.logs, seconds)
        return int(self.state()["ExitCode"])

    def __enter__(self) -> Self:
        """Give it to a test."""
        return self

    def __exit__(self, *_: object) -> None:
        """Let nothing of it outlive the test."""
        docker("rm", "--force", "--volumes", self.id)
