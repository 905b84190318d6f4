"""Compile every lock file of this repository from what the two `pyproject.toml` declare.

`constraints.txt` holds one version of each package for all of them, so that the template is tested with what its
services run. The locks repeat those versions with hashes. Versions already in `constraints.txt` stay unless
`--upgrade` is given.
"""

import argparse
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
SERVICE = "{{cookiecutter.__project_folder}}"
LOCKS = ("constraints.txt", "requirements.txt", f"{SERVICE}/requirements-prod.txt", f"{SERVICE}/requirements.txt")

# One lock for every supported Python and platform; annotations would name the generated project.
UNIVERSAL = ("--quiet", "--universal", "--python-version", "3.11", "--no-annotate")


def compile_locks(target: Path, *, upgrade: bool = False) -> None:
    """Write all of `LOCKS` below `target`, starting from the constraints of this repository.

    Raises:
        subprocess.CalledProcessError: generation failed, or no versions fit together.
    """
    (target / SERVICE).mkdir(parents=True, exist_ok=True)
    constraints = target / "constraints.txt"
    if constraints != ROOT / "constraints.txt" and (ROOT / "constraints.txt").exists():
        shutil.copy(ROOT / "constraints.txt", constraints)
    with tempfile.TemporaryDirectory() as folder:
        generate = ["cookiecutter", str(ROOT), "--no-input", "--default-config", "--output-dir", folder]
        subprocess.run([sys.executable, "-m", *generate], check=True, stdout=subprocess.DEVNULL)
        (service,) = (project / "pyproject.toml" for project in Path(folder).iterdir())
        own = ("--group", f"{ROOT / 'pyproject.toml'}:dev")
        service_group = ("--group", f"{service}:dev")
        both = ("--no-header", *own, *service_group, str(service), *(["--upgrade"] if upgrade else []))
        _compile(constraints, *both)
        locked = ("--generate-hashes", "--custom-compile-command", "make lock", "--constraints", str(constraints))
        _compile(target / "requirements.txt", *locked, *own)
        _compile(target / SERVICE / "requirements-prod.txt", *locked, str(service))
        _compile(target / SERVICE / "requirements.txt", *locked, *service_group, str(service))


def _compile(output: Path, *arguments: str) -> None:
    # What a lock held before must not count: only the constraints do.
    if output.name != "constraints.txt":
        output.unlink(missing_ok=True)
    command = [sys.executable, "-m", "uv", "pip", "compile", *UNIVERSAL, *arguments, "--output-file", str(output)]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, cwd=output.parent)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="make lock", description=__doc__)
    parser.add_argument("--upgrade", action="store_true", help="take the newest versions")
    compile_locks(ROOT, upgrade=parser.parse_args().upgrade)
