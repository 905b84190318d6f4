"""Compile every lock file of this repository from what the two `pyproject.toml` declare.

`constraints.txt` holds one version of each package for all of them, so that the template is tested with what its
services run. The locks repeat those versions with hashes. Versions already in `constraints.txt` stay unless
`--upgrade` is given.

A service has locks for each set of answers that changes its dependencies, chosen by a conditional file name.
"""

import argparse
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
SERVICE = "{{cookiecutter.__project_folder}}"

# The answer to `database` decides about what a service runs on; that to `load_tests` as well about what tests it.
DATABASES = ("postgresql", "none")
PROFILES = tuple((database, load_tests) for database in DATABASES for load_tests in (True, False))


def service_lock(name: str, condition: str) -> str:
    """The path of a service's lock file in the template."""
    return f"{SERVICE}/{{% if {condition} %}}{name}{{% endif %}}"


PRODUCTION_LOCKS = {
    database: service_lock("requirements-prod.txt", f"cookiecutter.database == '{database}'") for database in DATABASES
}
DEVELOPMENT_LOCKS = {
    (database, load_tests): service_lock(
        "requirements.txt",
        f"cookiecutter.database == '{database}' and {'' if load_tests else 'not '}cookiecutter.load_tests",
    )
    for database, load_tests in PROFILES
}
BENCHMARKS_LOCK = "benchmarks/requirements.txt"
# What judges manifests wants old versions of much: it shares no environment with anything, and so no versions.
POLICIES_LOCK = "tools/checkov/requirements.txt"
# So does what a service's gates need, whatever was chosen.
GATES_LOCK = f"{SERVICE}/requirements-ci.txt"
# These hold on to their own versions; the others take those of the constraints.
STARTS = ("constraints.txt", POLICIES_LOCK, GATES_LOCK)
SHARING = ("requirements.txt", BENCHMARKS_LOCK, *PRODUCTION_LOCKS.values(), *DEVELOPMENT_LOCKS.values())
LOCKS = (*STARTS, *SHARING)

# One lock for every supported Python and platform; annotations would name the generated project.
UNIVERSAL = ("--quiet", "--universal", "--python-version", "3.11", "--no-annotate")


def compile_locks(target: Path, *, upgrade: bool = False) -> None:
    """Write all locks below `target`, starting from the versions that this repository has locked.

    Raises:
        subprocess.CalledProcessError: generation failed, or no versions fit together.
    """
    for name in LOCKS:
        (target / name).parent.mkdir(parents=True, exist_ok=True)
    for name in STARTS:
        shutil.copy(ROOT / name, target / name)
    newer = ["--upgrade"] if upgrade else []
    constraints = target / "constraints.txt"
    # Extras stay in a lock: without them, pip before 24 takes the newest version of such a package instead.
    locked = ("--generate-hashes", "--no-strip-extras", "--custom-compile-command", "make lock")
    own, compared, policies = (
        ("--group", f"{ROOT / 'pyproject.toml'}:{group}") for group in ("dev", "benchmarks", "policies")
    )
    _compile(target / POLICIES_LOCK, *locked, *policies, *newer)
    with tempfile.TemporaryDirectory() as folder:
        services = {profile: _generate(Path(folder, *map(str, profile)), *profile) for profile in PROFILES}
        default = services["postgresql", True]
        everything = [word for service in services.values() for word in ("--group", f"{service}:dev", str(service))]
        _compile(target / GATES_LOCK, *locked, "--group", f"{default}:ci", *newer)
        _compile(constraints, "--no-header", *own, *compared, *everything, *newer)
        shared = (*locked, "--constraints", str(constraints))
        _compile(target / "requirements.txt", *shared, *own)
        _compile(target / BENCHMARKS_LOCK, *shared, *compared, str(default))
        for database, lock in PRODUCTION_LOCKS.items():
            _compile(target / lock, *shared, str(services[database, True]))
        for profile, lock in DEVELOPMENT_LOCKS.items():
            _compile(target / lock, *shared, "--group", f"{services[profile]}:dev", str(services[profile]))


def refresh(*, upgrade: bool = False) -> None:
    """Put what `compile_locks` writes in the place of every lock.

    All of them or none: without one of its locks a tree has no environment in which to try again.
    """
    with tempfile.TemporaryDirectory() as folder:
        compile_locks(Path(folder), upgrade=upgrade)
        for name in LOCKS:
            shutil.copy(Path(folder, name), ROOT / name)


def _generate(folder: Path, database: str, load_tests: bool) -> Path:  # noqa: FBT001 - an answer, as prompts have it
    """The `pyproject.toml` of a service with these answers."""
    command = ["cookiecutter", str(ROOT), "--no-input", "--default-config", "--output-dir", str(folder)]
    answers = (f"database={database}", f"load_tests={load_tests}")
    subprocess.run([sys.executable, "-m", *command, *answers], check=True, stdout=subprocess.DEVNULL)
    (project,) = folder.iterdir()
    return project / "pyproject.toml"


def _compile(output: Path, *arguments: str) -> None:
    command = [sys.executable, "-m", "uv", "pip", "compile", *UNIVERSAL, *arguments, "--output-file", str(output)]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, cwd=output.parent)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="make lock", description=__doc__)
    parser.add_argument("--upgrade", action="store_true", help="take the newest versions")
    refresh(upgrade=parser.parse_args().upgrade)
