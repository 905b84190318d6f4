"""What checkov has against manifests. It wants old versions of much, so it has an environment of its own."""

import fcntl
import hashlib
import json
import os
import subprocess
import sys
import venv
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import components
import pytest
import yaml
from rendered import Overlay

HERE = components.TOOLS / "checkov"


def judge(overlays: Sequence[Overlay], folder: Path) -> Mapping[str, Any]:
    """What `tools/checkov/check.py` says of each overlay."""
    files = {}
    for overlay in overlays:
        file = folder / f"{overlay.profile}-{overlay.environment}.yaml"
        file.write_text(yaml.dump_all(overlay.objects, Dumper=yaml.CSafeDumper), encoding="utf-8")
        files[str(file)] = str(overlay)
    # It would ask a server about what it knows of nobody's account.
    environment = {"PATH": os.environ["PATH"], "HOME": str(folder), "LOG_LEVEL": "ERROR"}
    done = subprocess.run(
        [_python(), HERE / "check.py", *files], env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-5000:]
    return {files[file]: answer for file, answer in json.loads(done.stdout).items()}


def _python() -> Path:
    """The Python of an environment with what `requirements.txt` locks, made once."""
    lock = HERE / "requirements.txt"
    name = hashlib.sha256(lock.read_bytes() + sys.version.encode()).hexdigest()[:16]
    folder = components.CACHE / f"checkov-{name}"
    ready, python = folder / "ready", folder / "bin" / "python"
    folder.parent.mkdir(parents=True, exist_ok=True)
    with folder.with_suffix(".lock").open("w") as turn:
        fcntl.flock(turn, fcntl.LOCK_EX)
        if not ready.exists():
            venv.create(folder, clear=True, with_pip=True)
            install: list[str | Path] = [
                python,
                "-m",
                "pip",
                "install",
                "--quiet",
                "--disable-pip-version-check",
                "--require-hashes",
            ]
            done = subprocess.run([*install, "--requirement", lock], capture_output=True, text=True, check=False)
            if done.returncode:
                pytest.fail(f"checkov was not installed: {done.stderr[-5000:]}", pytrace=False)
            ready.touch()
    return python
