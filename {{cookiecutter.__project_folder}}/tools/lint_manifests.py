"""`make lint-manifests`: what an API server would be given is rendered, held to its schemas, and judged by checkov.

An exception from a check of checkov is an annotation beside the object, with its reason.
"""

import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from tools.compose import ROOT
from tools.deploy import OLDEST, PROJECTS
from tools.kubectl import ClusterError
from tools.overlay import environments, render


def rendered(folder: Path) -> Iterator[Path]:
    """Write the objects of each environment into a file of its own.

    Raises:
        ClusterError: an overlay is broken, or kubectl is missing.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for environment in environments():
        path = folder / f"{environment}.yaml"
        path.write_text("---\n".join(manifest.text for manifest in render(environment).manifests), encoding="utf-8")
        yield path


def unknown(said: str) -> list[str]:
    """The kinds that had no schema, though they are not those of a project that brings its own."""
    found = re.findall(r"find schema for kind (\S+) with api version (\S+) for kubernetes version (\S+)", said)
    return [
        f"Kubernetes {version} knows no {api_version} {kind}"
        for kind, api_version, version in found
        if api_version.rpartition("/")[0] not in PROJECTS
    ]


def schema_problems(tools: Path, files: list[Path]) -> Iterator[str]:
    """What the oldest Kubernetes that this is for, or the newest that there are schemas of, does not know."""
    oldest = ("-k", ".".join(map(str, OLDEST)))
    for version in (oldest, ()):
        command = [tools / "kubernetes-validate", "--strict", "--quiet", *version, *files]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
        said = f"{done.stdout}{done.stderr}"
        if done.returncode:
            yield "\n".join(line for line in said.splitlines() if not line.startswith("WARN"))
        yield from unknown(said)


def unsafe(tools: Path, files: list[Path], report: Path) -> bool:
    """Whether checkov finds something; it prints what, and writes it to the report."""
    chosen = [word for file in files for word in ("--file", str(file))]
    told = ("--output", "cli", "--output", "sarif", "--output-file-path", f"console,{report}")
    command = [str(tools / "checkov"), "--framework", "kubernetes", "--quiet", "--compact", "--skip-download"]
    return bool(subprocess.run([*command, *chosen, *told], cwd=ROOT, check=False).returncode)


def main(arguments: list[str]) -> int:
    """Judge every overlay by the tools in the first folder, reports go to the second; the exit code of the process."""
    tools, reports = (Path(argument).absolute() for argument in arguments)
    try:
        files = list(rendered(reports / "manifests"))
    except ClusterError as error:
        sys.stderr.write(f"{error}\n")
        return 1
    found = list(schema_problems(tools, files))
    sys.stderr.write("".join(f"{problem}\n" for problem in found))
    return 1 if unsafe(tools, files, reports / "checkov.sarif") or found else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
