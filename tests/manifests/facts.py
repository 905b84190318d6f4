"""What the service itself says of the settings that manifests give it."""

import json
import subprocess
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from rendered import Object, Overlay, settings
from services import python_of

CODE = """
import json
from app.core.config import Settings, SettingsError, load_settings
from app.core.lifecycle import exit_seconds
answer = {"known": [name.upper() for name in Settings.model_fields]}
try:
    answer["exit_seconds"] = exit_seconds(load_settings())
except SettingsError as error:
    answer["refusal"] = str(error)
print(json.dumps(answer))
"""


@dataclass(frozen=True)
class Answer:
    """What a service with some settings says.

    Attributes:
        known: the names of all variables that it reads.
        exit_seconds: how long it takes to end at most.
        refusal: why it does not start.
    """

    known: tuple[str, ...]
    exit_seconds: float = 0
    refusal: str = ""


_answers: dict[tuple[str, frozenset[tuple[str, str]]], Answer] = {}


def ask(overlay: Overlay, container: Object) -> Answer:
    """Ask the service that a container runs, once for each set of settings."""
    given = settings(overlay, container)
    for variable in container.get("env", []):
        if "secretKeyRef" in variable.get("valueFrom", {}):
            given[variable["name"]] = "postgresql://user:password@database/items"
    # Its code differs by this answer alone.
    key = (overlay.answers["database"], frozenset(given.items()))
    if key not in _answers:
        command = [str(python_of(overlay.project)), "-c", CODE]
        answer = json.loads(subprocess.check_output(command, cwd=overlay.project, env=given, text=True))
        _answers[key] = Answer(**answer)
    return _answers[key]


def facts(overlay: Overlay) -> Mapping[str, Any]:
    """What service.toml says."""
    return tomllib.loads((overlay.project / "app" / "service.toml").read_text(encoding="utf-8"))
