"""`make lint-config`: each configuration file is judged by the program that will read it.

The program is the one in the image that `docker-compose.yml` names, run by Docker. A program of this machine is taken
instead where a variable holds its path: PROMTOOL, AMTOOL, LOKI, OTELCOL or JAEGER.
"""

import os
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tools.compose import ROOT, DockerError, services


@dataclass(frozen=True)
class Check:
    """A program that judges a folder.

    Args:
        service: the one in `docker-compose.yml` whose image holds the program.
        variable: may hold the path of such a program on this machine.
        program: its path in the image.
        arguments: its command line, quoted as for a shell; `folder` stands for the folder, and `*` in a name for all
            files that fit.
        place: the folder, if it is not the one in `observability` that has the service's name.
    """

    service: str
    variable: str
    program: str
    arguments: str
    place: str = ""

    @property
    def folder(self) -> Path:
        """What it judges."""
        return ROOT / (self.place or f"observability/{self.service}")

    @property
    def chosen(self) -> bool:
        """Whether all that it judges is there: without the stack, Prometheus has rules and no configuration."""
        named = [word.rpartition("folder/")[2] for word in shlex.split(self.arguments) if "folder/" in word]
        return all(any(self.folder.glob(name)) for name in named)

    @property
    def name(self) -> str:
        """What it does, for people."""
        return f"{Path(self.program).name} {self.arguments.replace('folder', str(self.folder.relative_to(ROOT)))}"

    def command(self, services: Mapping[str, Any]) -> list[str]:
        """How to run it here.

        Raises:
            DockerError: the variable names no program, or the compose file no image.
        """
        if local := os.environ.get(self.variable):
            if not shutil.which(local):
                raise DockerError(f"{self.variable} is {local}, which is no program")
            return [local, *self._arguments(str(self.folder))]
        if self.service not in services:
            raise DockerError(f"docker-compose.yml has no {self.service}; {self.variable} may name a program instead")
        shown = f"type=bind,source={self.folder},target=/checked,readonly"
        container = ["docker", "run", "--rm", "--network", "none", "--mount", shown, "--entrypoint", self.program]
        return [*container, services[self.service]["image"], *self._arguments("/checked")]

    def _arguments(self, folder: str) -> Iterator[str]:
        for argument in shlex.split(self.arguments):
            if "*" in argument:
                files = sorted(self.folder.glob(argument.removeprefix("folder/")))
                yield from (f"{folder}/{path.relative_to(self.folder)}" for path in files)
            else:
                yield argument.replace("folder", folder)


# Fails when rendering does; `check-config` only parses.
_NOTIFICATION = (
    """--template.text='{{ template "notification.title" . }} {{ template "notification.text" . }}' """
    "--template.glob=folder/templates/notification.tmpl"
)

# Alerts on what only a cluster measures.
_KUBERNETES = "k8s/components/monitoring"

CHECKS = (
    Check("prometheus", "PROMTOOL", "/bin/promtool", "check config folder/prometheus.yml"),
    Check("prometheus", "PROMTOOL", "/bin/promtool", "check rules --lint-fatal folder/recording.yml folder/alert*.yml"),
    Check("prometheus", "PROMTOOL", "/bin/promtool", "test rules folder/tests/*.yml"),
    Check("prometheus", "PROMTOOL", "/bin/promtool", "check rules --lint-fatal folder/alerts.yml", _KUBERNETES),
    Check("prometheus", "PROMTOOL", "/bin/promtool", "test rules folder/tests/*.yml", _KUBERNETES),
    Check("alertmanager", "AMTOOL", "/bin/amtool", "check-config folder/alertmanager.yml"),
    Check("alertmanager", "AMTOOL", "/bin/amtool", f"template render {_NOTIFICATION}"),
    Check("loki", "LOKI", "/usr/bin/loki", "-verify-config -config.file=folder/loki.yaml"),
    Check("otel-collector", "OTELCOL", "/otelcol-contrib", "validate --config=folder/config.yaml"),
    Check("jaeger", "JAEGER", "/cmd/jaeger/jaeger-linux", "validate --config=folder/jaeger.yaml"),
)


def failures(chosen: Iterable[str]) -> Iterator[str]:
    """What is wrong with the files of these services, each with the checker's own words.

    Raises:
        DockerError: a checker cannot be run, or Compose refuses its file.
    """
    checks = [check for check in CHECKS if check.service in chosen and check.chosen]
    known = {} if all(os.environ.get(check.variable) for check in checks) else services(with_profiles=True)
    for check in checks:
        done = subprocess.run(check.command(known), cwd=ROOT, capture_output=True, text=True, check=False)
        if done.returncode:
            yield f"{check.name}\n{done.stdout}{done.stderr}"
        else:
            sys.stdout.write(f"{check.name}\n")


def main(arguments: list[str]) -> int:
    """Judge the files of the services that are named, or of all; the exit code of the process."""
    everything = {check.service for check in CHECKS}
    if unknown := set(arguments) - everything:
        sys.stderr.write(f"no such service: {', '.join(sorted(unknown))}; there are {', '.join(sorted(everything))}\n")
        return 2
    try:
        found = list(failures(arguments or everything))
    except DockerError as error:
        found = [str(error)]
    sys.stderr.write("".join(f"\n{text}\n" for text in found))
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
