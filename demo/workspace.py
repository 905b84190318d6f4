"""Where the demo works: a folder of its own with the generated service, and an environment that the next run reuses."""

import fcntl
import hashlib
import json
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import count
from pathlib import Path
from tempfile import TemporaryDirectory

from demo.failure import DemoError

ROOT = Path(__file__).resolve().parent.parent
FOLDER = ROOT / ".demo"
REQUIREMENTS = "requirements-prod.txt"
INSTALLED = "installed"


@contextmanager
def claimed_folder(base: Path = FOLDER) -> Iterator[Path]:
    """Yield an empty folder that no other demo uses meanwhile; the claim ends with this process, however that ends."""
    base.mkdir(exist_ok=True)
    (base / ".gitignore").write_text("*\n", encoding="utf-8")
    for number in count(1):
        folder = base / f"service-{number}"
        with folder.with_suffix(".lock").open("w") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                continue
            if folder.exists():
                shutil.rmtree(folder)
            folder.mkdir()
            yield folder
            return


@contextmanager
def one_at_a_time(what: str, base: Path = FOLDER) -> Iterator[None]:
    """Wait until no other demo does this."""
    with (base / f"{what}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def generate(folder: Path) -> Path:
    """Generate the service with the default answers, and return its folder."""
    with TemporaryDirectory() as private:
        # A configuration of the user could change the defaults, and the default one would write to the user's home.
        config = Path(private, "config.yaml")
        config.write_text(json.dumps({"cookiecutters_dir": private, "replay_dir": private}), encoding="utf-8")
        _run("-m", "cookiecutter", str(ROOT), "--no-input", "--config-file", str(config), "--output-dir", str(folder))
    (project,) = folder.iterdir()
    return project


class Environment:
    """A virtual environment with what the service's images install, shared by all services with the same lock.

    Args:
        project: the generated service.
        base: where environments are kept.
    """

    def __init__(self, project: Path, base: Path = FOLDER) -> None:
        self._requirements = project / REQUIREMENTS
        lock = self._requirements.read_bytes()
        self.packages = len(re.findall(rb"^[^\s#]+==", lock, re.MULTILINE))
        key = hashlib.sha256(lock + f"{sys.version} {sys.base_prefix}".encode()).hexdigest()[:12]
        self.folder = base / f"venv-{key}"
        self.python = self.folder / "bin" / "python"

    @property
    def ready(self) -> bool:
        """Whether everything is installed; a Python that was uninstalled since leaves a dangling link."""
        return (self.folder / INSTALLED).exists() and self.python.exists()

    def install(self, progress: Callable[[str], None]) -> None:
        """Install the locked packages, and remove the environments of other locks."""
        with one_at_a_time("install", self.folder.parent):
            if self.ready:
                return
            for stale in self.folder.parent.glob("venv-*"):
                shutil.rmtree(stale)
            _run("-m", "venv", str(self.folder))
            self._install(progress)
            # Last, so that an interrupted installation is begun again.
            (self.folder / INSTALLED).touch()

    def _install(self, progress: Callable[[str], None]) -> None:
        command: list[str | Path] = [
            *(self.python, "-m", "pip", "install", "--disable-pip-version-check", "--no-input", "--progress-bar=off"),
            *("--require-hashes", "--requirement", self._requirements),
        ]
        output: list[str] = []
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as pip:
            try:
                for line in pip.stdout or ():
                    output.append(line)
                    found = sum(line.startswith("Collecting ") for line in output)
                    progress("unpacking" if line.startswith("Installing ") else f"{found} of {self.packages}")
            except BaseException:
                pip.kill()
                raise
        if pip.returncode:
            raise DemoError("the packages could not be installed; pip said:\n" + "".join(output[-15:]))


def _run(*arguments: str) -> None:
    done = subprocess.run(
        [sys.executable, *arguments],
        check=False,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    if done.returncode:
        raise DemoError(f"python {' '.join(arguments)} failed and said:\n{done.stdout}")
