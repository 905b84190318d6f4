"""The Pythons of this machine that the service supports; for tests, and to tell a person what is missing."""

import shutil
import subprocess
from functools import cache

SUPPORTED = ("3.11", "3.12", "3.13", "3.14")


@cache
def found() -> dict[str, str]:
    """The command of each supported Python that can make an environment, by version."""
    commands = {version: _real(f"python{version}") for version in SUPPORTED}
    return {version: command for version, command in commands.items() if command}


def _real(command: str) -> str | None:
    """The path of the interpreter itself: a shim such as pyenv's may exist without one behind it."""
    candidates = [command, *_pyenv(command)]
    for candidate in filter(None, map(shutil.which, candidates)):
        code = "import ensurepip, sys, venv; print(sys.executable, '.'.join(map(str, sys.version_info[:2])))"
        result = subprocess.run([candidate, "-c", code], capture_output=True, text=True, check=False)
        executable, _, version = result.stdout.strip().rpartition(" ")
        if result.returncode == 0 and command == f"python{version}":
            return executable
    return None


def _pyenv(command: str) -> list[str]:
    """Where pyenv keeps an interpreter that is installed but not active."""
    if not (pyenv := shutil.which("pyenv")):
        return []
    names = subprocess.run([pyenv, "versions", "--bare"], capture_output=True, text=True, check=False).stdout.split()
    root = subprocess.run([pyenv, "root"], capture_output=True, text=True, check=False).stdout.strip()
    version = command.removeprefix("python")
    return [f"{root}/versions/{name}/bin/python" for name in names if name.startswith(f"{version}.")]


def summary() -> str:
    """One line about what is there and what is not."""
    missing = [version for version in SUPPORTED if version not in found()]
    advice = f"; missing: {', '.join(missing)} (pyenv install, uv python install or the system's packages)"
    return f"Pythons for the service: {', '.join(found())}{advice if missing else ''}"
